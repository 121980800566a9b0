"""A Darwin kernel with as much of libSystem as the library imports, to be scripted.

Numbers, layouts and rules are XNU's, written down anew and not taken from the headers that the library was compiled
with: they are the second opinion. What no sane program does (a call on a closed descriptor, a read that would block, a
change with another udata than its knote's, memory freed twice) is an AssertionError.
"""

import functools
import re
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from machine import PAGE, X86_64, Arguments, Machine, whole_pages

KEVENT = struct.Struct("<QhHIqQ")  # #pragma pack(4), which leaves no hole to fill anyway
IOVEC = struct.Struct("<QQ")
EVFILT_READ, EVFILT_WRITE, EVFILT_USER = -1, -2, -10
EV_ADD, EV_DELETE, EV_ENABLE, EV_DISABLE, EV_CLEAR = 1, 2, 4, 8, 0x20
EV_ERROR, EV_EOF = 0x4000, 0x8000
NOTE_TRIGGER = 0x0100_0000

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 30
SOCK_STREAM = 1
SOL_SOCKET, SO_REUSEADDR, SO_NREAD, SO_NOSIGPIPE, SO_NWRITE = 0xFFFF, 4, 0x1020, 0x1022, 0x1024
IPPROTO_TCP, TCP_NODELAY = 6, 1
IPPROTO_IPV6, IPV6_V6ONLY = 41, 27
SHUT_WR = 1
F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, FD_CLOEXEC, O_RDWR, O_NONBLOCK = 2, 3, 4, 67, 1, 2, 4
STANDARD_DESCRIPTORS = 3
CLOCK_REALTIME, CLOCK_MONOTONIC = 0, 6
RLIMIT_NOFILE, RLIM_INFINITY = 8, (1 << 63) - 1
PTHREAD_ONCE_INIT = 0x30B1_BCBA

ENOENT, EINTR, ENOMEM, EINVAL, EMFILE, EPIPE = 2, 4, 12, 22, 24, 32
EAGAIN, EPROTOTYPE, ECONNABORTED, ECONNRESET, ENOBUFS = 35, 41, 53, 54, 55
ERRNO_NAMES = (
    *("ENOENT", "EINTR", "ENOMEM", "EINVAL", "EMFILE", "EPIPE"),
    *("EAGAIN", "EPROTOTYPE", "ECONNABORTED", "ECONNRESET", "ENOBUFS"),
)

HEAP = 0x4_0000_0000
MILLISECOND_NS = 1_000_000
MOST_CALLS = 20_000
MOST_BYTES_SHOWN = 80
UIO_MAXIOV = 1024
MOST_FRUITLESS_POLLS = 2  # that find nothing, one after the other, while no time passes
ALIASES = {"__error": "error", "__bzero": "bzero", "lstat$INODE64": "lstat"}


def name_of(number: int, *names: str) -> str:
    """Which of these constants it is. Looked up at each call, as the self-test changes some."""
    for name in names:
        if globals()[name] == number:
            return name
    raise AssertionError(f"{number:#x} is none of {', '.join(names)}")


def errno_name(number: int) -> str:
    return name_of(number, *ERRNO_NAMES)


def bytes_text(data: bytes) -> str:
    """How the transcript shows them: of many, how they begin and how many they are."""
    return repr(data) if len(data) <= MOST_BYTES_SHOWN else f"{data[:16]!r}... of {len(data)}"


class CallError(Exception):
    """A system call fails with this errno."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Event(NamedTuple):
    """A struct kevent."""

    ident: int
    filter: int
    flags: int
    fflags: int
    data: int
    udata: int


@dataclass(slots=True)
class Knote:
    flags: int
    udata: int
    enabled: bool
    triggered: bool = False


@dataclass(slots=True)
class Queue:
    name: str = "queue"
    knotes: dict[tuple[int, int], Knote] = field(default_factory=dict)


@dataclass(slots=True)
class Socket:
    """The server's end of a connection, or its listener; what happens at the far end is done to it, too."""

    name: str
    family: int
    address: bytes = b""
    options: dict[tuple[int, int], int] = field(default_factory=dict)
    nonblocking: bool = False
    waiting: deque["Socket"] | None = None  # a listener's queue
    received: bytearray = field(default_factory=bytearray)
    ended: bool = False  # nothing more can arrive
    error: int = 0  # as events tell it, which leave it where it is
    read_error: int = 0
    room: int = 65536  # what the peer and the buffers still take
    unsent: int = 0  # what the buffers still hold for the peer, as a situation has it
    write_errors: list[int] = field(default_factory=list)
    is_shut: bool = False
    is_gone: bool = False
    is_broken: bool = False  # it went before it was accepted, and fcntl() fails
    bytes_read: int = 0
    said: bytearray = field(default_factory=bytearray)
    got: bytearray = field(default_factory=bytearray)
    closed_at_ns: int | None = None

    def say(self, data: bytes, is_heard: bool = True) -> None:
        """The peer sends, and is owed an answer if it is heard."""
        self.received += data
        self.said += data if is_heard else b""

    def end(self) -> None:
        """The peer sends no more."""
        self.ended = True

    def reset(self, is_read: bool = True) -> None:
        """The peer resets the connection, which read() tells once, or only the event."""
        self.ended = self.is_gone = True
        self.error = ECONNRESET
        self.read_error = ECONNRESET if is_read else 0

    def read(self, size: int) -> bytes:
        data = bytes(self.received[:size])
        self.bytes_read += len(data)
        if data:
            del self.received[:size]
        elif self.read_error:
            error, self.read_error = self.read_error, 0
            raise CallError(error)
        elif not self.ended:
            self.would_block()
        return data

    def write(self, data: bytes) -> int:
        if self.write_errors:
            raise CallError(self.write_errors.pop(0))
        if self.is_shut:
            raise AssertionError(f"write to {self.name} after its shutdown")
        if self.is_gone:
            raise CallError(EPIPE)
        taken = data[: self.room]
        if not taken:
            self.would_block()
        self.room -= len(taken)
        self.got += taken
        return len(taken)

    def would_block(self) -> None:
        if not self.nonblocking:
            raise AssertionError(f"a call on {self.name} would block for ever: it lacks O_NONBLOCK")
        raise CallError(EAGAIN)

    def event(self, ident: int, filter_: int, knote: Knote) -> Event | None:
        """What this knote has to tell now; level-triggered."""
        if filter_ == EVFILT_WRITE:
            return Event(ident, filter_, knote.flags, 0, self.room, knote.udata) if self.room else None
        if self.waiting is not None:
            return Event(ident, filter_, knote.flags, 0, len(self.waiting), knote.udata) if self.waiting else None
        if not self.received and not self.ended:
            return None
        flags = knote.flags | (EV_EOF if self.ended else 0)
        return Event(ident, filter_, flags, self.error, len(self.received), knote.udata)


@dataclass(slots=True)
class Misplaced:
    """A socket at a standard descriptor's number, where what the process prints would go to a client. It can be moved
    away, and serves for nothing else. A queue may stay there: it takes no print."""

    name: str
    socket: Socket


def socket_address(family: int, host: str, port: int) -> bytes:
    """A struct sockaddr_in or _in6, which begin with their length and have the family in a byte."""
    if family == AF_INET:
        return struct.pack(">BBH4s8x", 16, family, port, socket.inet_aton(host))
    return struct.pack(">BBH4x16s4x", 28, family, port, socket.inet_pton(socket.AF_INET6, host))


def host_family(family: int) -> int:
    return int(getattr(socket, name_of(family, "AF_INET", "AF_INET6")))


class Call:
    """One call of an import: its arguments, and how the transcript shows it (not at all without a text)."""

    def __init__(self, name: str, arguments: Arguments) -> None:
        self.name = name
        self.word, self.number, self.variable_word = arguments.word, arguments.number, arguments.variable_word
        self.text = ""
        self.result_text = ""


class LibSystem:
    """Memory, strings and threads: what needs no kernel. An import's handler has its name, and returns its result."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        machine.answer = self.answer
        self.transcript: list[str] = []
        self.now_ns = 1000 * 1_000_000_000
        self.blocks: dict[int, int] = {}  # the address and size of what malloc() gave out
        self.next_pages = HEAP
        self.locked: dict[int, bool] = {}  # mutexes
        self.once_done: set[int] = set()
        self.calls = 0
        self.errno_address = self.place(bytes(8))

    def answer(self, name: str, arguments: Arguments) -> int:
        handler = getattr(self, "do_" + ALIASES.get(name, name), None)
        if handler is None:
            raise AssertionError(f"the library calls {name}(), for which there is no script")
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise AssertionError("the library does not come to an end")
        call = Call(name, arguments)
        try:
            result: int = handler(call)
        except CallError as error:
            self.machine.write(self.errno_address, struct.pack("<i", error.errno))
            result = -1
            call.result_text = errno_name(error.errno)
        if call.text:
            self.transcript.append(f"{call.text} = {call.result_text or result}")
        return result

    def allocate(self, size: int, alignment: int = 16) -> int:
        """Memory at the end of pages of its own, so that a step over its end is a fault, as is any use after free()."""
        pages = whole_pages(size)
        self.machine.map(self.next_pages, pages)
        self.machine.write(self.next_pages, b"\xaa" * pages)
        address = self.next_pages + (pages - size) // alignment * alignment
        self.next_pages += pages + PAGE
        return address

    def place(self, data: bytes) -> int:
        """The address of these bytes in memory that is not freed."""
        address = self.allocate(len(data))
        self.machine.write(address, data)
        return address

    def do_error(self, call: Call) -> int:
        return self.errno_address

    def do_malloc(self, call: Call) -> int:
        size = call.word()
        address = self.allocate(size)
        self.blocks[address] = size
        return address

    def do_posix_memalign(self, call: Call) -> int:
        out, alignment, size = call.word(), call.word(), call.word()
        if alignment % 8 != 0 or alignment.bit_count() != 1 or alignment > PAGE:
            raise AssertionError(f"posix_memalign() to {alignment} bytes")
        address = self.allocate(size, alignment)
        self.blocks[address] = size
        self.machine.write_word(out, address)
        return 0

    def do_calloc(self, call: Call) -> int:
        size = call.word() * call.word()
        address = self.allocate(size)
        self.machine.write(address, bytes(size))
        self.blocks[address] = size
        return address

    def do_realloc(self, call: Call) -> int:
        old, size = call.word(), call.word()
        address = self.allocate(size)
        self.blocks[address] = size
        if old:
            self.machine.write(address, self.machine.read(old, min(size, self.blocks[old])))
            self.free_block(old)
        return address

    def do_free(self, call: Call) -> int:
        if address := call.word():
            self.free_block(address)
        return 0

    def free_block(self, address: int) -> None:
        if address not in self.blocks:
            raise AssertionError("free() of what malloc() did not give out, or for the second time")
        self.machine.unmap(address // PAGE * PAGE, self.blocks.pop(address))

    def do_memcpy(self, call: Call) -> int:
        to, source, size = call.word(), call.word(), call.word()
        if size:
            self.machine.write(to, self.machine.read(source, size))
        return to

    do_memmove = do_memcpy

    def do_memset(self, call: Call) -> int:
        to, byte, size = call.word(), call.number(), call.word()
        self.machine.write(to, bytes([byte & 0xFF]) * size)
        return to

    def do_bzero(self, call: Call) -> int:
        to, size = call.word(), call.word()
        self.machine.write(to, bytes(size))
        return 0

    def do_memchr(self, call: Call) -> int:
        begin, byte, size = call.word(), call.number(), call.word()
        at = self.machine.read(begin, size).find(bytes([byte & 0xFF])) if size else -1
        return begin + at if at >= 0 else 0

    def do_memcmp(self, call: Call) -> int:
        left, right, size = call.word(), call.word(), call.word()
        a, b = self.machine.read(left, size), self.machine.read(right, size)
        return (a > b) - (a < b)

    def do_qsort(self, call: Call) -> int:
        begin, count, size, compare = call.word(), call.word(), call.word(), call.word()
        left_place, right_place = self.place(bytes(size)), self.place(bytes(size))

        def order(left: bytes, right: bytes) -> int:
            self.machine.write(left_place, left)
            self.machine.write(right_place, right)
            return self.machine.call(compare, left_place, right_place)

        items = [self.machine.read(begin + i * size, size) for i in range(count)]
        items.sort(key=functools.cmp_to_key(order))
        self.machine.write(begin, b"".join(items))
        return 0

    def do_strlen(self, call: Call) -> int:
        return len(self.machine.read_text(call.word()))

    def do_snprintf(self, call: Call) -> int:
        """Of what there is in C, %s with a precision and %u."""
        out, size, text = call.word(), call.word(), self.machine.read_text(call.word())

        def convert(match: re.Match[bytes]) -> bytes:
            value = call.variable_word()
            if match[2] == b"u":
                return b"%d" % (value & 0xFFFF_FFFF)
            return self.machine.read_text(value)[: int(match[1] or b"-1")]

        made = re.sub(rb"%(?:\.(\d+))?([su])", convert, text)
        self.machine.write(out, made[: size - 1] + b"\0")
        return len(made)

    def do_inet_pton(self, call: Call) -> int:
        family, text, out = call.number(), self.machine.read_text(call.word()).decode(), call.word()
        try:
            self.machine.write(out, socket.inet_pton(host_family(family), text))
        except OSError:
            return 0
        return 1

    def do_inet_ntop(self, call: Call) -> int:
        family, source, out, size = call.number(), call.word(), call.word(), call.number()
        packed = self.machine.read(source, 4 if family == AF_INET else 16)
        text = socket.inet_ntop(host_family(family), packed).encode() + b"\0"
        if len(text) > size:
            raise AssertionError(f"inet_ntop() has room for {size} bytes only")
        self.machine.write(out, text)
        return out

    def do_pthread_once(self, call: Call) -> int:
        once, routine = call.word(), call.word()
        if self.machine.read_word(once) != PTHREAD_ONCE_INIT:
            raise AssertionError("pthread_once() of what is not PTHREAD_ONCE_INIT")
        if once not in self.once_done:
            self.once_done.add(once)
            self.machine.call(routine)
        return 0

    def do_pthread_atfork(self, call: Call) -> int:
        return 0

    def do_pthread_mutex_init(self, call: Call) -> int:
        self.locked[call.word()] = False
        return 0

    def do_pthread_mutex_lock(self, call: Call) -> int:
        return self.lock(call.word(), True)

    def do_pthread_mutex_unlock(self, call: Call) -> int:
        return self.lock(call.word(), False)

    def lock(self, mutex: int, locked: bool) -> int:
        if self.locked[mutex] == locked:
            raise AssertionError("a mutex is locked or unlocked twice")
        self.locked[mutex] = locked
        return 0

    def do_pthread_mutex_destroy(self, call: Call) -> int:
        del self.locked[call.word()]
        return 0

    def do_clock_gettime(self, call: Call) -> int:
        clock, out = call.number(), call.word()
        name_of(clock, "CLOCK_REALTIME", "CLOCK_MONOTONIC")
        self.machine.write(out, struct.pack("<qq", *divmod(self.now_ns, 1_000_000_000)))
        return 0


class Darwin(LibSystem):
    """The kernel. While the library waits with nothing to be told, the script acts: it says by each yield how many
    milliseconds later it acts again, at the earliest."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.files: dict[int, Queue | Socket | Misplaced] = {}
        self.lowest_number = STANDARD_DESCRIPTORS  # less: the process has closed some of those
        self.paths: dict[str, int] = {}  # unix sockets, with their inodes
        self.script: Iterator[float] = iter(())
        self.acts_at_ns: float = 0
        self.fruitless_polls = 0
        self.batch = 0  # events that the settings let one wait take out
        self.accept_errors: list[int] = []  # of the next accepts
        self.change_errors: list[int] = []  # of the next changes that add a READ
        self.interrupts = 0  # sleeps that a signal will end
        self.soft_limit = 256
        self.highest_limit = 10240

    def take_number(self, file: Queue | Socket, lowest: int | None = None) -> int:
        """The lowest free descriptor."""
        begin = self.lowest_number if lowest is None else lowest
        number = next(n for n in range(begin, 1000) if n not in self.files)
        self.files[number] = file
        if isinstance(file, Socket) and number < STANDARD_DESCRIPTORS:
            self.files[number] = Misplaced(f"{file.name} at {number}", file)
        return number

    def file(self, call: Call) -> Queue | Socket | Misplaced:
        number = call.number()
        if number not in self.files:
            raise AssertionError(f"a system call on descriptor {number}, which is closed")
        return self.files[number]

    def socket(self, call: Call) -> Socket:
        file = self.file(call)
        if not isinstance(file, Socket):
            raise AssertionError(f"{file.name} is no socket")
        return file

    def listener(self) -> Socket:
        return next(file for file in self.files.values() if isinstance(file, Socket) and file.waiting is not None)

    def connect(self, name: str, host: str = "192.0.2.1", port: int = 5000) -> Socket:
        """A client comes to the listener's queue."""
        listener = self.listener()
        address = bytes([16, AF_UNIX]) if listener.family == AF_UNIX else socket_address(listener.family, host, port)
        client = Socket(name, listener.family, address)
        assert listener.waiting is not None
        listener.waiting.append(client)
        return client

    def do_kqueue(self, call: Call) -> int:
        call.text, call.result_text = "kqueue()", "queue"
        return self.take_number(Queue())

    def do_socket(self, call: Call) -> int:
        family, kind = call.number(), call.number()
        family_name = name_of(family, "AF_UNIX", "AF_INET", "AF_INET6")
        call.text = f"socket({family_name}, {name_of(kind, 'SOCK_STREAM')})"
        number = self.take_number(Socket("listener", family))
        call.result_text = self.files[number].name
        return number

    def do_fcntl(self, call: Call) -> int:
        file, command = self.file(call), call.number()
        name = name_of(command, "F_SETFD", "F_GETFL", "F_SETFL", "F_DUPFD_CLOEXEC")
        call.text = f"fcntl({file.name}, {name})"
        if name == "F_GETFL":
            is_nonblocking = isinstance(file, Socket) and file.nonblocking
            call.result_text = "O_RDWR|O_NONBLOCK" if is_nonblocking else "O_RDWR"
            return O_RDWR | (O_NONBLOCK if is_nonblocking else 0)
        value = call.variable_word() & 0xFFFF_FFFF
        if name == "F_DUPFD_CLOEXEC":
            call.text = f"fcntl({file.name}, {name}, {value})"
            return self.move(call, file, value)
        wanted = FD_CLOEXEC if name == "F_SETFD" else O_RDWR | O_NONBLOCK
        call.text = f"fcntl({file.name}, {name}, {'FD_CLOEXEC' if name == 'F_SETFD' else 'O_RDWR|O_NONBLOCK'})"
        if value != wanted:
            raise AssertionError(f"{call.text}: the value is {value:#x}")
        if isinstance(file, Socket) and name == "F_SETFL":
            if file.is_broken:
                raise CallError(EINVAL)
            file.nonblocking = True
        return 0

    def move(self, call: Call, file: Queue | Socket | Misplaced, lowest: int) -> int:
        """A second descriptor, which only a socket at a standard one's number needs."""
        if not isinstance(file, Misplaced) or lowest < STANDARD_DESCRIPTORS:
            raise AssertionError(f"{call.text} moves nothing out of the way")
        call.result_text = file.socket.name
        return self.take_number(file.socket, lowest)

    def do_getsockopt(self, call: Call) -> int:
        file = self.socket(call)
        level_name = name_of(call.number(), "SOL_SOCKET")
        option_name = name_of(call.number(), "SO_NREAD", "SO_NWRITE")
        place, size_place = call.word(), call.word()
        value = len(file.received) if option_name == "SO_NREAD" else file.unsent
        call.text, call.result_text = f"getsockopt({file.name}, {level_name}, {option_name})", str(value)
        size = struct.unpack("<I", self.machine.read(size_place, 4))[0]
        if size != 4:
            raise AssertionError(f"{call.text} into {size} bytes")
        self.machine.write(place, struct.pack("<i", value))
        return 0

    def do_setsockopt(self, call: Call) -> int:
        file, level, option, place, size = self.socket(call), call.number(), call.number(), call.word(), call.number()
        if size != 4:
            raise AssertionError(f"the value of an option of {file.name} has {size} bytes")
        value = struct.unpack("<i", self.machine.read(place, 4))[0]
        level_name = name_of(level, "SOL_SOCKET", "IPPROTO_TCP", "IPPROTO_IPV6")
        options = {
            "SOL_SOCKET": ("SO_REUSEADDR", "SO_NOSIGPIPE"),
            "IPPROTO_TCP": ("TCP_NODELAY",),
            "IPPROTO_IPV6": ("IPV6_V6ONLY",),
        }
        call.text = f"setsockopt({file.name}, {level_name}, {name_of(option, *options[level_name])}, {value})"
        file.options[level, option] = value
        return 0

    def do_bind(self, call: Call) -> int:
        file, place, size = self.socket(call), call.word(), call.number()
        address = self.machine.read(place, size)
        wanted_size = {AF_UNIX: 106, AF_INET: 16, AF_INET6: 28}[file.family]
        if size != wanted_size or address[1] != file.family:
            raise AssertionError(f"bind(): {size} bytes of an address of family {address[1]}")
        if file.family == AF_UNIX:
            path = address[2:].split(b"\0")[0].decode()
            self.paths[path] = 4711
            call.text = f"bind({file.name}, {path})"
            file.address = address
            return 0
        port = int.from_bytes(address[2:4], "big")
        host = address[4:8] if file.family == AF_INET else address[8:24]
        call.text = f"bind({file.name}, {socket.inet_ntop(host_family(file.family), host)} port {port})"
        file.address = bytes([size]) + address[1:2] + (port or 8080).to_bytes(2, "big") + address[4:]
        return 0

    def do_listen(self, call: Call) -> int:
        file = self.socket(call)
        call.text = f"listen({file.name}, {call.number()})"
        file.waiting = deque()
        return 0

    def do_getsockname(self, call: Call) -> int:
        file = self.socket(call)
        call.text = f"getsockname({file.name})"
        self.give_address(file, call.word(), call.word())
        return 0

    def give_address(self, file: Socket, place: int, size_place: int) -> None:
        room = struct.unpack("<I", self.machine.read(size_place, 4))[0]
        self.machine.write(place, file.address[:room])
        self.machine.write(size_place, struct.pack("<I", len(file.address)))

    def do_accept(self, call: Call) -> int:
        """A client that can't be accepted has gone, as on macOS. What is accepted is as its listener, but for
        FD_CLOEXEC."""
        listener, place, size_place = self.socket(call), call.word(), call.word()
        call.text = f"accept({listener.name})"
        if listener.waiting is None:
            raise AssertionError(f"accept({listener.name}) before listen()")
        if not listener.waiting:
            listener.would_block()
        client = listener.waiting.popleft()
        if self.accept_errors:
            raise CallError(self.accept_errors.pop(0))
        client.nonblocking = listener.nonblocking
        client.options = dict(listener.options)
        self.give_address(client, place, size_place)
        number = self.take_number(client)
        call.result_text = self.files[number].name
        return number

    def do_read(self, call: Call) -> int:
        file, place, size = self.socket(call), call.word(), call.word()
        call.text = f"read({file.name}, {size})"
        data = file.read(size)
        if data:
            self.machine.write(place, data)
        call.result_text = bytes_text(data)
        return len(data)

    def do_write(self, call: Call) -> int:
        file, place, size = self.socket(call), call.word(), call.word()
        data = self.machine.read(place, size)
        call.text = f"write({file.name}, {bytes_text(data)})"
        return self.send(call, file, data)

    def do_writev(self, call: Call) -> int:
        file, place, count = self.socket(call), call.word(), call.number()
        if not 0 < count <= UIO_MAXIOV:
            raise AssertionError(f"writev() to {file.name} gets {count} pieces, which is EINVAL")
        vector = self.machine.read(place, count * IOVEC.size)
        pieces = [self.machine.read(begin, size) for begin, size in IOVEC.iter_unpack(vector)]
        call.text = f"writev({file.name}, [{', '.join(map(bytes_text, pieces))}])"
        return self.send(call, file, b"".join(pieces))

    def send(self, call: Call, file: Socket, data: bytes) -> int:
        if not file.options.get((SOL_SOCKET, SO_NOSIGPIPE)):
            raise AssertionError(f"{call.text} may raise SIGPIPE")
        return file.write(data)

    def do_shutdown(self, call: Call) -> int:
        file = self.socket(call)
        call.text = f"shutdown({file.name}, {name_of(call.number(), 'SHUT_WR')})"
        file.is_shut = True
        return 0

    def do_close(self, call: Call) -> int:
        """Takes the descriptor's knotes along. A socket that was moved stays open."""
        number = call.number()
        file = self.files.pop(number, None)
        if file is None:
            raise AssertionError(f"close() of descriptor {number}, which is closed")
        call.text = f"close({file.name})"
        if isinstance(file, Socket):
            file.closed_at_ns = self.now_ns
        for queue in self.files.values():
            if isinstance(queue, Queue):
                queue.knotes.pop((number, EVFILT_READ), None)
                queue.knotes.pop((number, EVFILT_WRITE), None)
        return 0

    def do_lstat(self, call: Call) -> int:
        """Fills a struct stat with 64-bit inode numbers, which on x86_64 only a variant with another name does."""
        if (self.machine.processor is X86_64) != (call.name == "lstat$INODE64"):
            raise AssertionError(f"{call.name}() is the variant for another struct stat")
        path, place = self.machine.read_text(call.word()).decode(), call.word()
        call.text = f"lstat({path})"
        if path not in self.paths:
            raise CallError(ENOENT)
        self.machine.write(place, struct.pack("<iHHQ", 0x0100_0004, 0o140755, 1, self.paths[path]))
        call.result_text = "a socket"
        return 0

    def do_unlink(self, call: Call) -> int:
        path = self.machine.read_text(call.word()).decode()
        call.text = f"unlink({path})"
        del self.paths[path]
        return 0

    def do_getrlimit(self, call: Call) -> int:
        call.text = f"getrlimit({name_of(call.number(), 'RLIMIT_NOFILE')})"
        self.machine.write(call.word(), struct.pack("<QQ", self.soft_limit, RLIM_INFINITY))
        call.result_text = f"{self.soft_limit} of RLIM_INFINITY"
        return 0

    def do_setrlimit(self, call: Call) -> int:
        name = name_of(call.number(), "RLIMIT_NOFILE")
        soft, hard = struct.unpack("<QQ", self.machine.read(call.word(), 16))
        call.text = f"setrlimit({name}, {soft} of {name_of(hard, 'RLIM_INFINITY')})"
        if soft > self.highest_limit:
            raise CallError(EINVAL)
        self.soft_limit = soft
        return 0

    def do_sysctlbyname(self, call: Call) -> int:
        name, place, size_place = self.machine.read_text(call.word()).decode(), call.word(), call.word()
        call.text, call.result_text = f"sysctlbyname({name})", "24576"
        if (name, self.machine.read_word(size_place)) != ("kern.maxfilesperproc", 4):
            raise AssertionError(f"{call.text} into {self.machine.read_word(size_place)} bytes")
        self.machine.write(place, struct.pack("<i", 24576))
        return 0

    def do_kevent(self, call: Call) -> int:
        """Shows itself in two lines, what goes in and what comes out: meanwhile the script acts."""
        queue, changes_at, change_count = self.file(call), call.word(), call.number()
        events_at, room, timeout_ns = call.word(), call.number(), self.timeout_ns(call.word())
        if not isinstance(queue, Queue):
            raise AssertionError(f"kevent() on {queue.name}")
        self.check_arrays(changes_at, change_count, events_at, room)
        data = self.machine.read(changes_at, change_count * KEVENT.size) if change_count else b""
        changes = [Event(*fields) for fields in KEVENT.iter_unpack(data)]
        shown = ", ".join(self.change_text(queue, change) for change in changes)
        timeout = "no limit" if timeout_ns is None else f"{timeout_ns / MILLISECOND_NS:g} ms"
        self.transcript.append(f"kevent({queue.name}, [{shown}], {room} events, {timeout})")
        events = self.apply(queue, changes, room)
        if room and not events:
            events = self.wait(queue, room, timeout_ns, bool(changes))
        if events:
            self.machine.write(events_at, b"".join(KEVENT.pack(*event) for event in events))
        self.transcript.append(f"  events: {', '.join(self.event_text(event) for event in events) or 'none'}")
        return len(events)

    def timeout_ns(self, place: int) -> int | None:
        if not place:
            return None
        seconds, nanoseconds = struct.unpack("<qq", self.machine.read(place, 16))
        if seconds < 0 or not 0 <= nanoseconds < 1_000_000_000:
            raise AssertionError(f"kevent() is to wait {seconds} s and {nanoseconds} ns, which is EINVAL")
        return int(seconds) * 1_000_000_000 + int(nanoseconds)

    def check_arrays(self, changes_at: int, change_count: int, events_at: int, room: int) -> None:
        """A change that fails needs room for its record, or the changes behind it are not looked at."""
        if room and not 0 <= change_count <= room:
            raise AssertionError(f"kevent() gets {change_count} changes and room for {room} events")
        if not room and (events_at or change_count > 1):
            raise AssertionError(f"kevent() gets {change_count} changes, and no room for the record of one that fails")
        for address in (changes_at, events_at):
            if address in self.blocks and self.blocks[address] != self.batch * KEVENT.size:
                size = self.blocks[address]
                raise AssertionError(f"{self.batch} struct kevent have {size} bytes, not {KEVENT.size} each")

    def ident_text(self, event: Event) -> str:
        return str(event.ident) if event.filter == EVFILT_USER else self.files[event.ident].name

    def change_text(self, queue: Queue, change: Event) -> str:
        """The change in words, which only one that makes sense can be put in."""
        filter_name = name_of(change.filter, "EVFILT_READ", "EVFILT_WRITE", "EVFILT_USER")
        known = ("EV_ADD", "EV_DELETE", "EV_ENABLE", "EV_DISABLE", "EV_CLEAR")
        flags = [name for name in known if change.flags & globals()[name]]
        if change.flags != sum(globals()[name] for name in flags):
            raise AssertionError(f"a change of {filter_name} has flags {change.flags:#x}")
        if change.fflags:
            flags.append(name_of(change.fflags, "NOTE_TRIGGER"))
        if filter_name != "EVFILT_USER" and not isinstance(self.files.get(change.ident), Socket):
            raise AssertionError(f"a change of {filter_name} of descriptor {change.ident}, where no socket should be")
        if change.data or not flags or (change.fflags and filter_name != "EVFILT_USER"):
            raise AssertionError(f"a change that nobody can have meant: {change}")
        knote = queue.knotes.get((change.ident, change.filter))
        if knote is not None and knote.udata != change.udata:
            raise AssertionError(f"udata {change.udata:#x} in a change of a knote that has {knote.udata:#x}")
        return f"{filter_name} {self.ident_text(change)} {'|'.join(flags)} udata {change.udata:#x}"

    def event_text(self, event: Event) -> str:
        name = name_of(event.filter, "EVFILT_READ", "EVFILT_WRITE", "EVFILT_USER")
        if event.flags & EV_ERROR:
            return f"{name} {self.ident_text(event)} EV_ERROR {errno_name(event.data)}"
        end = " EV_EOF" if event.flags & EV_EOF else ""
        error = f" {errno_name(event.fflags)}" if event.fflags else ""
        return f"{name} {self.ident_text(event)} {event.data}{end}{error}"

    def apply(self, queue: Queue, changes: list[Event], room: int) -> list[Event]:
        """Returns the records of the changes that failed."""
        failed: list[Event] = []
        for change in changes:
            try:
                self.apply_one(queue, change)
            except CallError as error:
                if len(failed) == room:
                    raise
                failed.append(change._replace(flags=change.flags | EV_ERROR, data=error.errno))
        return failed

    def apply_one(self, queue: Queue, change: Event) -> None:
        """EV_ADD enables a new knote only, and gives flags to no other; EV_DISABLE beats EV_ENABLE."""
        key = (change.ident, change.filter)
        knote = queue.knotes.get(key)
        if knote is None:
            if not change.flags & EV_ADD:
                raise CallError(ENOENT)
            if change.filter == EVFILT_READ and self.change_errors:
                raise CallError(self.change_errors.pop(0))
            knote = queue.knotes[key] = Knote(change.flags, change.udata, True)
        if change.flags & EV_DELETE:
            del queue.knotes[key]
        if change.flags & (EV_ENABLE | EV_DISABLE):
            knote.enabled = not change.flags & EV_DISABLE
        knote.triggered |= bool(change.fflags & NOTE_TRIGGER)

    def ready(self, queue: Queue, room: int) -> list[Event]:
        events = []
        for (ident, filter_), knote in queue.knotes.items():
            if not knote.enabled:
                continue
            file = self.files.get(ident)
            if filter_ == EVFILT_USER:
                event = Event(ident, filter_, knote.flags, 0, 0, knote.udata) if knote.triggered else None
                knote.triggered &= not knote.flags & EV_CLEAR
            else:
                assert isinstance(file, Socket)
                event = file.event(ident, filter_, knote)
            if event is not None:
                events.append(event)
        return events[:room]

    def wait(self, queue: Queue, room: int, timeout_ns: int | None, is_changed: bool) -> list[Event]:
        until_ns = inf if timeout_ns is None else self.now_ns + timeout_ns
        while not (events := self.ready(queue, room)) and timeout_ns != 0:
            if self.interrupts:
                self.interrupts -= 1
                self.transcript.append("  a signal: EINTR")
                raise CallError(EINTR)
            if self.now_ns >= self.acts_at_ns and (pause_ms := next(self.script, None)) is not None:
                self.acts_at_ns = self.now_ns + pause_ms * MILLISECOND_NS
                continue
            wakes_ns = min(until_ns, self.acts_at_ns if self.acts_at_ns > self.now_ns else inf)
            if wakes_ns == inf:
                raise AssertionError("the server waits for what will never come")
            self.now_ns = int(wakes_ns)
            if wakes_ns == until_ns:
                break
        is_fruitless = timeout_ns == 0 and not events and not is_changed
        self.fruitless_polls = self.fruitless_polls + 1 if is_fruitless else 0
        if self.fruitless_polls > MOST_FRUITLESS_POLLS:
            raise AssertionError("the server spins: kevent() again and again without a wait, and nothing is ready")
        return events
