"""Executes the C core inside macOS libraries, on an emulated processor and a scripted Darwin kernel.

    python tests/macos/emulate.py [--transcript] [--self-test] LIBRARY [LIBRARY...]

The script opens five servers, lets clients come, send, dawdle, break and go, and expects every system call that the
core makes of it: numbers, layouts and order, and that each message is answered once. So it proves what reaches the
kernel, and nothing about what a real kernel makes of it. All libraries must give the same transcript. With --self-test
one thing after the other is made wrong, in the kernel or in the library, and each time the script has to fail.
"""

import argparse
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import darwin
import lief
from darwin import Darwin, Event, Queue, Socket
from machine import ARM64, Machine
from scripted import Run
from situations import descriptors, ipv6_server, limits_server, line_server, long_server, unix_server


def run(library: Path) -> list[str]:
    """Executes every situation with a library, and returns the transcript. AssertionError: something is wrong."""
    execution = Run(library)
    descriptors(execution)
    line_server(execution)
    limits_server(execution)
    ipv6_server(execution)
    unix_server(execution)
    long_server(execution)
    return execution.kernel.transcript


WRONG_NUMBERS: dict[str, object] = {  # most are another system's
    "AF_INET6": 10,
    "CLOCK_MONOTONIC": 1,
    "EAGAIN": 11,
    "ECONNABORTED": 103,
    "ENOBUFS": 105,
    "EVFILT_USER": -11,
    "EVFILT_WRITE": -3,
    "EV_DISABLE": 0x10,
    "EV_EOF": 0x2000,
    "EV_ERROR": 0x1000,
    "F_DUPFD_CLOEXEC": 17,
    "IOVEC": struct.Struct("<II"),
    "KEVENT": struct.Struct("<QhHIqQ32x"),
    "NOTE_TRIGGER": 0x0200_0000,
    "O_NONBLOCK": 0x800,
    "RLIMIT_NOFILE": 7,
    "SO_NOSIGPIPE": 0x800,
    "SO_NREAD": 0x541B,
    "SO_NWRITE": 0x1020,
    "SOL_SOCKET": 1,
}
TRUE_WRITE, TRUE_APPLY, TRUE_BIND = Socket.write, Darwin.apply_one, Machine.bind


def write_twice(socket: Socket, data: bytes) -> int:
    """As if the library sent a byte again that had gone out."""
    socket.got += data[:1]
    return TRUE_WRITE(socket, data)


def apply_other_udata(kernel: Darwin, queue: Queue, change: Event) -> None:
    """As if the library registered with another udata than its later changes have."""
    TRUE_APPLY(kernel, queue, change._replace(udata=change.udata + 1))


def bind_other_option(machine: Machine, binary: lief.MachO.Binary) -> None:
    """As if the library had been compiled with another SO_NOSIGPIPE, the third argument of setsockopt()."""
    TRUE_BIND(machine, binary)
    good, wrong = darwin.SO_NOSIGPIPE, darwin.SO_NOSIGPIPE + 1
    if machine.processor is ARM64:  # movz w2, #number
        found = machine.replace_code(*(struct.pack("<I", 0x5280_0002 | number << 5) for number in (good, wrong)))
    else:  # mov edx, number
        found = machine.replace_code(*(struct.pack("<BI", 0xBA, number) for number in (good, wrong)))
    if not found:
        raise RuntimeError("no instruction has SO_NOSIGPIPE")


def self_test(library: Path) -> Iterator[tuple[str, bool]]:
    """What is wrong in turn, and whether the script notices."""
    mutants = [(f"another {name}", mock.patch.object(darwin, name, wrong)) for name, wrong in WRONG_NUMBERS.items()]
    mutants += [
        ("a byte is sent twice", mock.patch.object(Socket, "write", write_twice)),
        ("another udata", mock.patch.object(Darwin, "apply_one", apply_other_udata)),
        ("another option in the library", mock.patch.object(Machine, "bind", bind_other_option)),
    ]
    for words, mutant in mutants:
        with mutant:
            try:
                run(library)
                yield words, False
            except AssertionError:
                yield words, True


def main() -> int:
    parser = argparse.ArgumentParser(description="Executes the C core inside macOS libraries on a scripted kernel.")
    parser.add_argument("--transcript", action="store_true", help="print what the libraries did")
    parser.add_argument("--self-test", action="store_true", help="see that mistakes are noticed")
    parser.add_argument("libraries", metavar="LIBRARY", nargs="+", type=Path)
    options = parser.parse_args()
    lief.logging.disable()
    passed = True
    transcripts = set()
    for library in options.libraries:
        begun = time.monotonic()
        try:
            transcript = run(library)
        except AssertionError as failure:
            passed = False
            print(f"{library}: FAILED\n{failure}")
            continue
        transcripts.add("\n".join(transcript))
        count = sum(line[0].isdigit() for line in transcript)
        print(f"{library}: {count} situations passed in {time.monotonic() - begun:.2f} s")
        for words, is_noticed in self_test(library) if options.self_test else ():
            passed &= is_noticed
            print(f"  {'noticed' if is_noticed else 'NOT NOTICED'}: {words}")
    if options.transcript:
        print(*transcripts, sep="\n\n")
    if len(transcripts) > 1:
        passed = False
        print(f"FAILED: there are {len(transcripts)} different transcripts")
    elif passed and len(options.libraries) > 1:
        print("All transcripts are the same.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
