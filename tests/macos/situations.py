"""What happens to the servers of a library, one thing after the other, and each system call that is to come of it."""

import darwin
from darwin import MILLISECOND_NS
from scripted import (
    BATCH,
    IDLE,
    IDLE_MS,
    LISTENING,
    OPENED,
    PATH,
    QUEUE_OPENED,
    READ_SIZE,
    REPLY,
    TCP_OPENED,
    WOKEN,
    Run,
    Script,
    accepted,
    events,
    made_ready,
    moved,
    read,
    read_gone,
    read_off,
    read_on,
    unread,
    unsent,
    wait,
    write,
    write_gone,
    write_on,
    write_two,
)

LIMIT_MS = 1000  # of a message that has begun, and of a peer that takes nothing
SWEEP_MS = LIMIT_MS / 4
LONG_READ_SIZE = 10_000
BLOCK_BYTES = 16 * 1024 - 24  # that a buffer of 16 KiB has room for behind its head


def descriptors(run: Run) -> None:
    run.situation("The limit of descriptors is raised as far as the kernel lets it, which is less than it says.")
    run.check(run.call("kqn_descriptors_raise", 0) == 10240, "another limit is told than is in force")
    run.expect(
        "getrlimit(RLIMIT_NOFILE) = 256 of RLIM_INFINITY",
        "sysctlbyname(kern.maxfilesperproc) = 24576",
        "setrlimit(RLIMIT_NOFILE, 24576 of RLIM_INFINITY) = EINVAL",
        "setrlimit(RLIMIT_NOFILE, 10240 of RLIM_INFINITY) = 0",
        "getrlimit(RLIMIT_NOFILE) = 10240 of RLIM_INFINITY",
    )


def line_server(run: Run) -> None:
    """The long story: lines, over IPv4."""
    run.situation("A socket gets its flags and options and listens, and a queue's EVFILT_USER is tried out.")
    run.open(host=run.text("127.0.0.1"), framing=run.numbers.KQN_FRAMING_LINE)
    run.expect(
        "socket(AF_INET, SOCK_STREAM) = listener",
        *TCP_OPENED,
        "bind(listener, 127.0.0.1 port 0) = 0",
        *LISTENING,
        *QUEUE_OPENED,
    )
    run.serve(
        accepts_two,
        answers_one,
        answers_two_of_one_read,
        answers_one_of_two_reads,
        writes_short,
        cannot_write,
        ends_with_data,
        ends_owed,
        is_reset,
        is_reset_quietly,
        is_reset_with_data,
        runs_out_of_descriptors,
        loses_clients_at_accept,
        is_interrupted,
        cannot_register,
        starves,
        is_torn_down,
        is_idle,
        is_woken,
        has_many_changes,
        stops,
        lingers,
    )
    run.expect(events("none"), unsent("hal", 0), "close(hal) = 0")
    lingered_ms = (run.kernel.now_ns - run.stopped_ns) / MILLISECOND_NS
    run.check(1000 <= lingered_ms <= 1050, f"the last connection lingers for {lingered_ms} ms")
    run.situation("The counters balance, every peer has its answers once, and nothing is left behind.")
    stats = run.finish({"EOF": 11, "RESET": 4, "IDLE": 1, "STOPPED": 4, "ERROR": 1}, line_answers)
    errors = {count.error: count.count for count in stats.accept_errors if count.count}
    run.check(errors == {darwin.EMFILE: 1, darwin.ECONNABORTED: 2}, f"errors of accept(): {errors}")
    run.check((stats.accept_pauses, stats.bytes_discarded) == (1, 9), "pauses, or bytes thrown away")


def line_answers(said: bytes) -> bytes:
    return b"".join(REPLY + line for line in said.splitlines(keepends=True))


def comes(run: Run, name: str) -> Script:
    """A client that is accepted, and watched."""
    run.arrive(name)
    yield 0
    run.expect(events("EVFILT_READ listener 1"), *accepted(name), wait(read_on(name)))


def is_answered(run: Run, name: str, said: bytes) -> Script:
    """Bytes that are read at once, and the messages in them answered by one write."""
    run.peers[name].say(said)
    yield 0
    run.expect(events(f"EVFILT_READ {name} {len(said)}"), read(name, said), write(name, line_answers(said)), IDLE)


def is_owed(run: Run, name: str, is_heard: bool = True) -> Script:
    """A message whose answer finds no room."""
    peer = run.peers[name]
    peer.room = 0
    peer.say(b"x\n", is_heard)
    yield 0
    run.expect(
        events(f"EVFILT_READ {name} 2"),
        read(name, b"x\n"),
        f"write({name}, b'system: x\\n') = EAGAIN",
        wait(read_off(name), write_on(name)),
    )


def is_given(run: Run, name: str) -> Script:
    """There is room for the answer that is owed."""
    run.peers[name].room = 1000
    yield 0
    run.expect(
        events(f"EVFILT_WRITE {name} 1000"),
        write(name, b"system: x\n"),
        wait(read_on(name), write_gone(name)),
    )


def check_closed(run: Run, name: str, begun_ns: int, timeout_ms: float) -> None:
    """It was closed when this timeout had passed, and no later than the next look at it."""
    closed_ns = run.peers[name].closed_at_ns
    assert closed_ns is not None
    waited_ms = (closed_ns - begun_ns) / MILLISECOND_NS
    run.check(timeout_ms <= waited_ms <= timeout_ms * 5 / 4, f"closed after {waited_ms} ms")


def accepts_two(run: Run) -> Script:
    """Two clients are accepted in one turn, and registered by the wait that follows."""
    run.arrive("ann")
    run.arrive("bob")
    yield 0
    run.expect(events("EVFILT_READ listener 2"), *accepted("ann", "bob"), wait(read_on("ann"), read_on("bob")))


def answers_one(run: Run) -> Script:
    """A message is answered."""
    yield from is_answered(run, "ann", b"hello\n")


def answers_two_of_one_read(run: Run) -> Script:
    """Two messages of one read are answered by one write."""
    yield from is_answered(run, "bob", b"one\ntwo\r\n")


def answers_one_of_two_reads(run: Run) -> Script:
    """A message that two reads bring is answered when it is complete."""
    ann = run.peers["ann"]
    ann.say(b"hel")
    yield 0
    run.expect(events("EVFILT_READ ann 3"), read("ann", b"hel"), IDLE)
    ann.say(b"lo\n")
    yield 0
    run.expect(events("EVFILT_READ ann 3"), read("ann", b"lo\n"), write("ann", b"system: hello\n"), IDLE)


def writes_short(run: Run) -> Script:
    """After a short write READ is off and WRITE on, in one list, until the rest is written."""
    ann = run.peers["ann"]
    ann.room = 5
    ann.say(b"abcdef\n")
    yield 0
    run.expect(
        events("EVFILT_READ ann 7"),
        read("ann", b"abcdef\n"),
        write("ann", b"system: abcdef\n", taken=5),
        wait(read_off("ann"), write_on("ann")),
    )
    ann.say(b"next\n")
    yield 10
    run.expect()
    ann.room = 4
    yield 0
    run.expect(events("EVFILT_WRITE ann 4"), write("ann", b"m: abcdef\n", taken=4), IDLE)
    ann.room = 1000
    yield 0
    run.expect(
        events("EVFILT_WRITE ann 1000"),
        write("ann", b"bcdef\n"),
        wait(read_on("ann"), write_gone("ann")),
        events("EVFILT_READ ann 5"),
        read("ann", b"next\n"),
        write("ann", b"system: next\n"),
        IDLE,
    )


def cannot_write(run: Run) -> Script:
    """A write that would block is made anew when WRITE says so."""
    yield from is_owed(run, "bob")
    yield from is_given(run, "bob")


def ends_with_data(run: Run) -> Script:
    """EV_EOF with data: all is read and answered, the unfinished line too, before the close."""
    ann = run.peers["ann"]
    line, answer = b"0123456789\n", b"system: 0123456789\n"
    ann.say(6 * line + b"end")
    ann.end()
    yield 0
    run.expect(
        events("EVFILT_READ ann 69 EV_EOF"),
        read("ann", 2 * line + line[:10]),
        write("ann", 2 * answer),
        IDLE,
        events("EVFILT_READ ann 37 EV_EOF"),
        read("ann", line[10:] + 2 * line + line[:9]),
        write("ann", 3 * answer),
        IDLE,
        events("EVFILT_READ ann 5 EV_EOF"),
        read("ann", line[9:] + b"end"),
        write("ann", answer),
        IDLE,
        events("EVFILT_READ ann 0 EV_EOF"),
        read("ann", b""),
        write("ann", b"system: end"),
        "close(ann) = 0",
        IDLE,
    )


def ends_owed(run: Run) -> Script:
    """At the end READ is deleted, as it would fire for ever, while the rest is written."""
    cat = run.arrive("cat")
    cat.room = 3
    cat.say(b"half")
    cat.end()
    yield 0
    run.expect(
        events("EVFILT_READ listener 1"),
        *accepted("cat"),
        wait(read_on("cat")),
        events("EVFILT_READ cat 4 EV_EOF"),
        read("cat", b"half"),
        IDLE,
        events("EVFILT_READ cat 0 EV_EOF"),
        read("cat", b""),
        write("cat", b"system: half", taken=3),
        wait(read_gone("cat"), write_on("cat")),
    )
    cat.room = 1000
    yield 0
    run.expect(events("EVFILT_WRITE cat 1000"), write("cat", b"tem: half"), "close(cat) = 0", IDLE)


def is_reset(run: Run) -> Script:
    """EV_EOF with an error: the connection was reset."""
    run.peers["bob"].reset()
    yield 0
    run.expect(events("EVFILT_READ bob 0 EV_EOF ECONNRESET"), "read(bob, 32) = ECONNRESET", "close(bob) = 0", IDLE)


def is_reset_quietly(run: Run) -> Script:
    """EV_EOF with an error that read() does not repeat: it was reset all the same."""
    run.arrive("dot").reset(is_read=False)
    yield 0
    run.expect(
        events("EVFILT_READ listener 1"),
        *accepted("dot"),
        wait(read_on("dot")),
        events("EVFILT_READ dot 0 EV_EOF ECONNRESET"),
        read("dot", b""),
        "close(dot) = 0",
        IDLE,
    )


def is_reset_with_data(run: Run) -> Script:
    """EV_EOF with an error and data, whose answer finds nobody."""
    yield from comes(run, "dan")
    dan = run.peers["dan"]
    dan.say(b"bye\n", is_heard=False)
    dan.reset()
    yield 0
    run.expect(
        events("EVFILT_READ dan 4 EV_EOF ECONNRESET"),
        read("dan", b"bye\n"),
        "write(dan, b'system: bye\\n') = EPIPE",
        "close(dan) = 0",
        IDLE,
    )


def runs_out_of_descriptors(run: Run) -> Script:
    """EMFILE, which has cost a client: no further accept for 100 ms."""
    run.arrive("eve")
    run.arrive("fay")
    run.kernel.accept_errors = [darwin.EMFILE]
    begun_ns = run.kernel.now_ns
    yield 0
    run.expect(events("EVFILT_READ listener 2"), "accept(listener) = EMFILE", wait(read_off("listener")))
    yield 99.9
    run.expect()
    yield 0.1
    run.expect(
        events("none"),
        wait(read_on("listener")),
        events("EVFILT_READ listener 1"),
        *accepted("fay"),
        wait(read_on("fay")),
    )
    run.check(run.kernel.now_ns == begun_ns + 100 * MILLISECOND_NS, "the pause is another")


def loses_clients_at_accept(run: Run) -> Script:
    """A client that is gone at accept(), or whose fcntl() fails, costs no other."""
    run.arrive("gil")
    run.arrive("gina").is_broken = True
    run.arrive("gus")
    run.kernel.accept_errors = [darwin.ECONNABORTED]
    yield 0
    run.expect(
        events("EVFILT_READ listener 3"),
        "accept(listener) = ECONNABORTED",
        "accept(listener) = gina",
        "fcntl(gina, F_GETFL) = O_RDWR|O_NONBLOCK",
        "fcntl(gina, F_SETFL, O_RDWR|O_NONBLOCK) = EINVAL",
        "close(gina) = 0",
        *accepted("gus"),
        wait(read_on("gus")),
    )


def is_interrupted(run: Run) -> Script:
    """A signal ends the wait, whose changes are in and are not told again."""
    run.arrive("hal")
    run.kernel.interrupts = 1
    yield 0
    run.expect(events("EVFILT_READ listener 1"), *accepted("hal"), wait(read_on("hal")), "  a signal: EINTR", IDLE)
    yield from is_answered(run, "hal", b"hear me\n")


def cannot_register(run: Run) -> Script:
    """A change that fails comes back as EV_ERROR, and ends its connection alone."""
    run.arrive("ian")
    run.arrive("ivy")
    run.kernel.change_errors = [darwin.ENOMEM]
    yield 0
    run.expect(
        events("EVFILT_READ listener 2"),
        *accepted("ian", "ivy"),
        wait(read_on("ian"), read_on("ivy")),
        events("EVFILT_READ ian EV_ERROR ENOMEM"),
        "close(ian) = 0",
        IDLE,
    )


def starves(run: Run) -> Script:
    """ENOBUFS: the socket stays writable, so that WRITE waits for 50 ms."""
    gus = run.peers["gus"]
    gus.write_errors = [darwin.ENOBUFS]
    gus.say(b"more\n")
    yield 0
    run.expect(
        events("EVFILT_READ gus 5"),
        read("gus", b"more\n"),
        "write(gus, b'system: more\\n') = ENOBUFS",
        f"kevent(queue, [{read_off('gus')} udata *], {BATCH} events, 50 ms)",
    )
    yield 50
    run.expect(
        events("none"),
        unsent("gus", 0),
        wait(write_on("gus")),
        events("EVFILT_WRITE gus *"),
        write("gus", b"system: more\n"),
        wait(read_on("gus"), write_gone("gus")),
    )


def is_torn_down(run: Run) -> Script:
    """EPROTOTYPE: a connection that is being torn down."""
    gus = run.peers["gus"]
    gus.write_errors = [darwin.EPROTOTYPE]
    gus.say(b"lost\n", is_heard=False)
    yield 0
    run.expect(
        events("EVFILT_READ gus 5"),
        read("gus", b"lost\n"),
        "write(gus, b'system: lost\\n') = EPROTOTYPE",
        "close(gus) = 0",
        IDLE,
    )


def is_idle(run: Run) -> Script:
    """Who is silent for the idle timeout is closed, and who speaks is not."""
    yield from comes(run, "joe")
    begun_ns = run.kernel.now_ns
    yield IDLE_MS * 0.6
    said: list[str] = []
    for name in ("fay", "hal", "ivy"):
        run.peers[name].say(b"\n")
        said += (read(name, b"\n"), write(name, b"system: \n"))
    yield 0
    run.expect(events("EVFILT_READ fay 1", "EVFILT_READ hal 1", "EVFILT_READ ivy 1"), *said, IDLE)
    yield IDLE_MS * 0.6
    run.expect(events("none"), "close(joe) = 0", IDLE)
    check_closed(run, "joe", begun_ns, IDLE_MS)


def is_woken(run: Run) -> Script:
    """Another thread that asks for the counters wakes the loop by EVFILT_USER."""
    run.stats()
    yield 0
    run.expect(*WOKEN, events("EVFILT_USER 0 0"), IDLE)
    stats = run.stats()
    run.expect(*WOKEN)
    run.check((stats.open, stats.pending) == (3, 0), f"{stats.open} open, {stats.pending} pending")
    yield 0
    run.expect(events("EVFILT_USER 0 0"), IDLE)


def stops(run: Run) -> Script:
    """The stop: who waits is accepted, what has come is answered, nothing is listened to any more."""
    fay, ivy = run.peers["fay"], run.peers["ivy"]
    ivy.room = 4
    ivy.say(b"owed\n")
    yield 0
    run.expect(
        events("EVFILT_READ ivy 5"),
        read("ivy", b"owed\n"),
        write("ivy", b"system: owed\n", taken=4),
        wait(read_off("ivy"), write_on("ivy")),
    )
    kim = run.arrive("kim")
    kim.say(b"just in time\n")
    fay.say(b"the last\n")
    run.stop()
    yield 0
    run.expect(
        *WOKEN,
        events("EVFILT_USER 0 0", "EVFILT_READ listener 1", "EVFILT_READ fay 9"),
        read("fay", b"the last\n"),
        write("fay", b"system: the last\n"),
        *accepted("kim"),
        "accept(listener) = EAGAIN",
        "close(listener) = 0",
        "read(fay, 32) = EAGAIN",
        "shutdown(fay, SHUT_WR) = 0",
        "read(hal, 32) = EAGAIN",
        "shutdown(hal, SHUT_WR) = 0",
        read("kim", b"just in time\n"),
        write("kim", b"system: just in time\n"),
        "read(kim, 32) = EAGAIN",
        "shutdown(kim, SHUT_WR) = 0",
        wait(read_on("kim")),
    )


def lingers(run: Run) -> Script:
    """Until the end what is owed is written, input is thrown away, and nobody lingers for longer than 1 s."""
    fay, hal, ivy, kim = (run.peers[name] for name in ("fay", "hal", "ivy", "kim"))
    ivy.room = 1000
    hal.say(b"too late\n", is_heard=False)
    fay.end()
    yield 0
    run.expect(
        events("EVFILT_READ fay 0 EV_EOF", "EVFILT_READ hal 9", "EVFILT_WRITE ivy 1000"),
        read("fay", b""),
        read("hal", b"too late\n"),
        write("ivy", b"em: owed\n"),
        "read(ivy, 32) = EAGAIN",
        "shutdown(ivy, SHUT_WR) = 0",
        "close(fay) = 0",
        wait(read_on("ivy"), write_gone("ivy")),
    )
    kim.end()
    ivy.end()
    yield 0
    run.expect(
        events("EVFILT_READ ivy 0 EV_EOF", "EVFILT_READ kim 0 EV_EOF"),
        read("ivy", b""),
        read("kim", b""),
        "close(kim) = 0",
        "close(ivy) = 0",
        IDLE,
    )
    yield 999
    run.expect()


def has_many_changes(run: Run) -> Script:
    """Changes that one list can't hold are told in the next, without a wait."""
    names = [f"n{i}" for i in range(BATCH + 2)]
    for name in names:
        run.arrive(name)
    yield 0
    first = ", ".join(f"{read_on(name)} udata *" for name in names[:BATCH])
    run.expect(
        events(f"EVFILT_READ listener {len(names)}"),
        *accepted(*names),
        f"kevent(queue, [{first}], {BATCH} events, 0 ms)",
        events("none"),
        wait(*(read_on(name) for name in names[BATCH:])),
    )
    for name in names:
        run.peers[name].end()
    yield 0
    lines: list[str] = []
    for part in (names[:BATCH], names[BATCH:]):
        lines.append(events(*(f"EVFILT_READ {name} 0 EV_EOF" for name in part)))
        lines += (read(name, b"") for name in part)
        lines += (*(f"close({name}) = 0" for name in reversed(part)), IDLE)
    run.expect(*lines)


def limits_server(run: Run) -> None:
    """Limits on time, on who may connect, and on what numbers descriptors may have."""
    run.situation("A listener that would be a standard descriptor is moved out of their range.")
    run.kernel.lowest_number = 0
    networks = run.networks(("192.0.2.0", 24, True), ("198.51.100.0", 24, False), ("198.51.100.7", 32, True))
    limit_ns = LIMIT_MS * MILLISECOND_NS
    limits = {"idle_timeout_ns": 0, "message_timeout_ns": limit_ns, "write_timeout_ns": limit_ns}
    run.open(host=run.text("127.0.0.1"), framing=run.numbers.KQN_FRAMING_LINE, **networks, **limits)
    run.kernel.lowest_number = darwin.STANDARD_DESCRIPTORS
    run.expect(
        *moved("socket(AF_INET, SOCK_STREAM)", "listener", 0),
        *TCP_OPENED,
        "bind(listener, 127.0.0.1 port 0) = 0",
        *LISTENING,
        *QUEUE_OPENED,
    )
    run.serve(is_moved, is_denied, takes_slowly, takes_nothing, is_unfinished, stops_alone)
    run.situation("The second server leaves nothing behind.")
    run.finish({"EOF": 4, "MESSAGE_TIMEOUT": 1, "WRITE_TIMEOUT": 1, "DENIED": 1}, line_answers)


def leaves(run: Run, name: str, read_size: int = READ_SIZE) -> Script:
    """A client that is owed nothing ends."""
    run.peers[name].end()
    yield 0
    run.expect(events(f"EVFILT_READ {name} 0 EV_EOF"), read(name, b"", read_size), f"close({name}) = 0", IDLE)


def is_moved(run: Run) -> Script:
    """A client that would be a standard descriptor is moved, and served at its new one."""
    for name, number in (("ned", 1), ("ora", 2)):
        run.kernel.lowest_number = number
        run.arrive(name)
        yield 0
        run.expect(
            events("EVFILT_READ listener 1"),
            *moved("accept(listener)", name, number),
            *made_ready(name),
            "accept(listener) = EAGAIN",
            wait(read_on(name)),
        )
        yield from is_answered(run, name, b"hello\n")
        yield from leaves(run, name)
    run.kernel.lowest_number = darwin.STANDARD_DESCRIPTORS


def is_denied(run: Run) -> Script:
    """A client whose address is denied is closed unread, and the one behind it is served."""
    run.arrive("pia", "198.51.100.9").say(b"let me in\n", is_heard=False)
    run.arrive("ray", "198.51.100.7")
    yield 0
    run.expect(
        events("EVFILT_READ listener 2"),
        "accept(listener) = pia",
        *made_ready("pia"),
        "close(pia) = 0",
        *accepted("ray"),
        wait(read_on("ray")),
    )
    yield from is_answered(run, "ray", b"thanks\n")
    yield from leaves(run, "ray")


def falls_behind(run: Run, name: str, is_heard: bool) -> Script:
    """A client that does not take the answer to its first message, so that the next answer finds no room."""
    yield from comes(run, name)
    yield from is_answered(run, name, b"hello\n")
    yield from is_owed(run, name, is_heard)


def takes_slowly(run: Run) -> Script:
    """A peer for which the kernel holds ever less is not closed, though nothing can be written for long."""
    yield from falls_behind(run, "tom", is_heard=True)
    for count in (14, 9, 4):
        run.peers["tom"].unsent = count
        yield 3 * SWEEP_MS
        run.expect(*3 * (events("none"), unsent("tom", count), IDLE))
    yield from is_given(run, "tom")
    yield from leaves(run, "tom")


def takes_nothing(run: Run) -> Script:
    """A peer for which the kernel goes on to hold as much is closed in time."""
    yield from falls_behind(run, "uma", is_heard=False)
    begun_ns, run.peers["uma"].unsent = run.kernel.now_ns, 14
    yield LIMIT_MS * 1.3
    run.expect(
        *3 * (events("none"), unsent("uma", 14), IDLE),
        events("none"),
        unsent("uma", 14),
        "close(uma) = 0",
        IDLE,
    )
    check_closed(run, "uma", begun_ns, LIMIT_MS)


def is_unfinished(run: Run) -> Script:
    """A message that is not finished in time ends its connection, though more of it comes."""
    yield from comes(run, "sue")
    sue, begun_ns = run.peers["sue"], run.kernel.now_ns
    sue.say(b"hel", is_heard=False)
    yield LIMIT_MS * 0.6
    run.expect(events("EVFILT_READ sue 3"), read("sue", b"hel"), IDLE)
    sue.say(b"lo", is_heard=False)
    yield LIMIT_MS * 0.6
    run.expect(events("EVFILT_READ sue 2"), read("sue", b"lo"), IDLE, events("none"), "close(sue) = 0", IDLE)
    check_closed(run, "sue", begun_ns, LIMIT_MS)


def stops_alone(run: Run) -> Script:
    """The stop, without any client."""
    run.stop()
    yield 0
    run.expect(*WOKEN, events("EVFILT_USER 0 0"), "accept(listener) = EAGAIN", "close(listener) = 0")


def ipv6_server(run: Run) -> None:
    """Framing by reads, over IPv6."""
    run.situation("A socket for IPv6 takes IPv4 as well.")
    run.open(host=run.text("::1"), framing=run.numbers.KQN_FRAMING_STREAM)
    run.expect(
        "socket(AF_INET6, SOCK_STREAM) = listener",
        *TCP_OPENED,
        "setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, 0) = 0",
        "bind(listener, ::1 port 0) = 0",
        *LISTENING,
        *QUEUE_OPENED,
    )
    run.serve(surrounds)
    run.situation("The third server leaves nothing behind.")
    run.finish({"EOF": 1}, lambda said: REPLY + said)


def surrounds(run: Run) -> Script:
    """Framing by reads, over IPv6: the answer is made around the message."""
    lea = run.arrive("lea", "2001:db8::1")
    lea.say(b"\0raw")
    lea.end()
    yield 0
    run.expect(
        events("EVFILT_READ listener 1"),
        *accepted("lea"),
        wait(read_on("lea")),
        events("EVFILT_READ lea 4 EV_EOF"),
        read("lea", b"\0raw"),
        write("lea", b"system: \0raw"),
        IDLE,
        events("EVFILT_READ lea 0 EV_EOF"),
        read("lea", b""),
        "close(lea) = 0",
        IDLE,
    )
    yield from stops_alone(run)


def unix_server(run: Run) -> None:
    """A length before each message, over a unix socket."""
    run.situation("A unix socket has one option, and a file that is remembered.")
    reply = "{peer}: {message}"
    settings = {"uds_path": run.text(PATH), "reply": run.text(reply), "reply_len": len(reply)}
    run.open(framing=run.numbers.KQN_FRAMING_U32, **settings)
    run.expect(
        f"lstat({PATH}) = ENOENT",
        "socket(AF_UNIX, SOCK_STREAM) = listener",
        *OPENED,
        f"bind(listener, {PATH}) = 0",
        f"lstat({PATH}) = a socket",
        *LISTENING,
        *QUEUE_OPENED,
    )
    run.serve(removes_file)
    run.situation("The fourth server leaves nothing behind.")
    run.finish({"EOF": 1}, lambda said: bytes([0, 0, 0, 6 + said[3]]) + b"unix: " + said[4:])


def removes_file(run: Run) -> Script:
    """A length before each message, over a unix socket, whose file is removed by the stop."""
    mia = run.arrive("mia", "unix")
    mia.say(b"\0\0\0\4four")
    yield 0
    run.expect(
        events("EVFILT_READ listener 1"),
        *accepted("mia"),
        wait(read_on("mia")),
        events("EVFILT_READ mia 8"),
        read("mia", b"\0\0\0\4four"),
        write("mia", b"\0\0\0\x0aunix: four"),
        IDLE,
    )
    run.stop()
    mia.end()
    yield 0
    run.expect(
        *WOKEN,
        events("EVFILT_USER 0 0", "EVFILT_READ mia 0 EV_EOF"),
        read("mia", b""),
        "close(mia) = 0",
        "accept(listener) = EAGAIN",
        f"lstat({PATH}) = a socket",
        f"unlink({PATH}) = 0",
        "close(listener) = 0",
    )


def long_server(run: Run) -> None:
    """Messages that one read can't bring, and answers that are not copied."""
    run.situation("A read may bring much, and a message be longer.")
    sizes = {"read_size": LONG_READ_SIZE, "max_message": 50_000}
    run.open(host=run.text("127.0.0.1"), framing=run.numbers.KQN_FRAMING_U32, **sizes)
    run.expect(
        "socket(AF_INET, SOCK_STREAM) = listener",
        *TCP_OPENED,
        "bind(listener, 127.0.0.1 port 0) = 0",
        *LISTENING,
        *QUEUE_OPENED,
    )
    run.serve(answers_short_and_long, reads_rest_at_once, reads_rest_as_it_comes, writes_two_short, stops_alone)
    run.situation("The fifth server leaves nothing behind.")
    run.finish({"EOF": 4}, length_answers)


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def long_message(size: int) -> bytes:
    """One in which a piece at the wrong place is seen."""
    return b"".join(b"%d " % number for number in range(size))[:size]


def before(message: bytes) -> bytes:
    """What stands before a message in its answer."""
    return framed(REPLY + message).removesuffix(message)


def length_answers(said: bytes) -> bytes:
    answers = b""
    while said:
        end = 4 + int.from_bytes(said[:4], "big")
        message, said = said[4:end], said[end:]
        answers += before(message) + message
    return answers


def answers_short_and_long(run: Run) -> Script:
    """A long message is written from where it lies, by the call that writes the short answers before it."""
    yield from comes(run, "val")
    message = long_message(9000)
    said = framed(b"short") + framed(message)
    run.peers["val"].say(said)
    yield 0
    run.expect(
        events(f"EVFILT_READ val {len(said)}"),
        read("val", said, LONG_READ_SIZE),
        write_two("val", before(b"short") + b"short" + before(message), message),
        IDLE,
    )
    yield from leaves(run, "val", LONG_READ_SIZE)


def reads_rest_at_once(run: Run) -> Script:
    """The rest of a long message that has arrived is read at once, in one go."""
    yield from comes(run, "wes")
    message = long_message(40_000)
    said = framed(message)
    run.peers["wes"].say(said)
    yield 0
    run.expect(
        events(f"EVFILT_READ wes {len(said)}"),
        read("wes", said[:LONG_READ_SIZE], LONG_READ_SIZE),
        unread("wes", len(said) - LONG_READ_SIZE),
        read("wes", said[LONG_READ_SIZE:], "*"),
        write_two("wes", before(message), message),
        IDLE,
    )
    yield from leaves(run, "wes", LONG_READ_SIZE)


def reads_rest_as_it_comes(run: Run) -> Script:
    """Room is made for what has arrived of a long message, and again when that is full."""
    yield from comes(run, "xia")
    xia, message = run.peers["xia"], long_message(30_000)
    said = framed(message)
    xia.say(said[:12_000])
    yield 0
    run.expect(
        events("EVFILT_READ xia 12000"),
        read("xia", said[:LONG_READ_SIZE], LONG_READ_SIZE),
        unread("xia", 2000),
        read("xia", said[LONG_READ_SIZE:12_000], BLOCK_BYTES - LONG_READ_SIZE),
        IDLE,
    )
    xia.say(said[12_000:])
    yield 0
    rest = said[BLOCK_BYTES:]
    run.expect(
        events(f"EVFILT_READ xia {len(said) - 12_000}"),
        read("xia", said[12_000:BLOCK_BYTES], BLOCK_BYTES - 12_000),
        IDLE,
        events(f"EVFILT_READ xia {len(rest)}"),
        unread("xia", len(rest)),
        read("xia", rest, "*"),
        write_two("xia", before(message), message),
        IDLE,
    )
    yield from leaves(run, "xia", LONG_READ_SIZE)


def writes_two_short(run: Run) -> Script:
    """A writev() may end within either of its pieces: what is left of both waits for WRITE."""
    yield from comes(run, "yan")
    yan, message = run.peers["yan"], long_message(9000)
    said, answer = framed(message), before(message) + message
    for taken in (5, 5000):
        yan.room = taken
        yan.say(said)
        yield 0
        run.expect(
            events(f"EVFILT_READ yan {len(said)}"),
            read("yan", said, LONG_READ_SIZE),
            write_two("yan", before(message), message, taken),
            wait(read_off("yan"), write_on("yan")),
        )
        yan.room = 3000
        yield 0
        run.expect(events("EVFILT_WRITE yan 3000"), write("yan", answer[taken:], taken=3000), IDLE)
        yan.room = 10_000
        yield 0
        run.expect(
            events("EVFILT_WRITE yan 10000"),
            write("yan", answer[taken + 3000 :]),
            wait(read_on("yan"), write_gone("yan")),
        )
    yield from leaves(run, "yan", LONG_READ_SIZE)
