"""The whole C server on a scripted system, thousands of times, each with another seed for all that may happen."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from figures import record
from programs import ROOT, compile_file, link
from simulate import FAST, Simulator, build, build_with_knotes, knotes_flags
from test_c import ASAN, CC

SEEDS = int(os.environ.get("KQNATIVE_SEEDS", "20000"))
SEEDS_UNDER_ASAN = SEEDS // 10
FOUND_WITHIN_S = 60

PROBE = "#include <ucontext.h>\nint main(void) { makecontext(0, 0, 0); return 0; }"


def has_fibers() -> bool:
    """Whether programs that call makecontext() can be linked: not on OpenBSD, nor with musl."""
    command = [CC, "-x", "c", "-", "-o", os.devnull]
    return subprocess.run(command, input=PROBE, text=True, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.skipif(not has_fibers(), reason="there is no makecontext() here"),
    pytest.mark.timeout(900),
]


def run(program: Path, *args: str) -> tuple[bool, str]:
    """Whether all was well, and what it said. The sanitizer's word about makecontext() is none of it."""
    done = subprocess.run([program, *args], capture_output=True, text=True, timeout=800)
    is_well = done.returncode == 0
    return is_well, done.stdout if is_well else done.stdout + done.stderr


def last_line(said: str) -> str:
    return said.splitlines()[-1]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    """As fast as it gets: what counts is how many seeds it runs."""
    return build(tmp_path_factory.mktemp("simulator"), FAST)


@pytest.fixture(scope="module")
def simulator_under_asan(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    """With ASan and UBSan, about five times slower."""
    return build(tmp_path_factory.mktemp("simulator"), ASAN)


@pytest.fixture(scope="module")
def simulator_with_knotes(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    """With the poller of systems that have no kqueue."""
    if sys.platform != "linux":
        pytest.skip("the kernel's own kevent() stands in knotes.c's place here")
    return build_with_knotes(tmp_path_factory.mktemp("knotes"), FAST)


def test_server_keeps_its_promises_whatever_happens(simulator: Simulator) -> None:
    """No seed finds a wrong byte, a stall, a spin, a leak or a sum that does not balance."""
    is_well, said = run(simulator.program, "--seeds", str(SEEDS))
    assert is_well, said
    record(f"simulation: {last_line(said)}")


def test_no_seed_touches_memory_that_is_not_its_own(simulator_under_asan: Simulator) -> None:
    """Other seeds than the ones above run under ASan and UBSan, and nothing is reported."""
    is_well, said = run(simulator_under_asan.program, "--from", str(SEEDS + 1), "--seeds", str(SEEDS_UNDER_ASAN))
    assert is_well, said
    record(f"simulation under sanitizers: {last_line(said)}")


def test_every_call_may_fail(simulator_under_asan: Simulator) -> None:
    """In each scenario each fallible call fails, once and for good: no crash, no leak, no spin, sums that balance."""
    is_well, said = run(simulator_under_asan.program, "--torture")
    assert is_well, said
    record(last_line(said))


def test_our_kevent_keeps_them_too(simulator_with_knotes: Simulator) -> None:
    """The same over knotes.c: seeds, and each fallible call failing in each scenario."""
    is_well, said = run(simulator_with_knotes.program, "--seeds", str(SEEDS_UNDER_ASAN))
    assert is_well, said
    record(f"simulation with knotes: {last_line(said)}")
    is_well, said = run(simulator_with_knotes.program, "--torture")
    assert is_well, said


def test_one_seed_is_one_run(simulator: Simulator) -> None:
    """A seed that is run again leaves the very same trace, line by line."""
    first, second = (run(simulator.program, "--replay", "11") for _ in range(2))
    assert first == second
    assert len(first[1].splitlines()) > 100


@dataclass(frozen=True)
class Bug:
    """One that programs of this kind have had, put back into ours."""

    file: str
    ours: str
    theirs: str


BUGS = {
    "bytes are sent twice after a short write": Bug(
        "server/output.c",
        "keep(worker, conn, bytes + n, len - (size_t)n)",
        "keep(worker, conn, bytes, len)",
    ),
    "bytes are sent twice after a short write of two pieces": Bug(
        "server/output.c",
        "keep(worker, conn, bytes + of_bytes, len - of_bytes);",
        "keep(worker, conn, bytes, len);",
    ),
    "a closed connection's event hits the new owner of its place": Bug(
        "core/loop.c",
        "struct kqn_watch *watch = kqn_slab_find(&loop->watches, kqn_event_udata(event));",
        "struct kqn_watch *watch = (void *)kqn_slab_at(&loop->watches, (uint32_t)kqn_event_udata(event));",
    ),
    "the end of a connection is taken for a close before its data": Bug(
        "server/connection.c",
        "    } else if (kqn_conn_reads(conn)) {\n        read_and_answer",
        "    } else if (event->flags & EV_EOF) {\n        kqn_conn_end(worker, conn, KQN_REASON_EOF);\n"
        "    } else if (kqn_conn_reads(conn)) {\n        read_and_answer",
    ),
    "nothing is armed after EAGAIN": Bug(
        "server/connection.c",
        "        wanted |= KQN_WANT_WRITE;",
        "        wanted |= 0;",
    ),
    "messages that nobody will answer are not counted": Bug(
        "server/reply.c",
        "    while (kqn_framing_next(&worker->server->framing, bytes, len, false, &scanned, &frame) == 1) {",
        "    while (false) {",
    ),
    "reading is not resumed after writing": Bug(
        "server/connection.c",
        "kqn_conn_reads(conn))\n        wanted = KQN_WANT_READ;",
        "(conn->state == KQN_CONN_OPEN && !conn->watch.told))\n        wanted = KQN_WANT_READ;",
    ),
    "messages that waited behind unwritten bytes are not framed": Bug(
        "server/connection.c",
        "        if (kqn_conn_takes_messages(conn)) {",
        "        if (kqn_conn_takes_messages(conn) && !conn->in) {",
    ),
    "READ stays on at the end of input": Bug(
        "server/connection.c",
        "        wanted = KQN_WANT_NOTHING; /*",
        "        wanted = KQN_WANT_READ; /*",
    ),
    "the stop closes without lingering": Bug(
        "server/connection.c",
        "&& !owes)\n        linger(worker, conn);",
        "&& !owes)\n        kqn_conn_end(worker, conn, (enum kqn_reason)conn->reason);",
    ),
    "answers that were never written are not counted": Bug(
        "server/connection.c",
        "        worker->stats.unanswered += conn->out->mark;",
        "        worker->stats.unanswered += 0;",
    ),
    "a buffer is lost when its rest is kept in a smaller one": Bug(
        "server/connection.c",
        "    kqn_pool_give(pool, held);",
        "    (void)pool;",
    ),
    "a client that leaves does not give back its place": Bug(
        "server/worker.c",
        "    atomic_fetch_sub(&server->open_connections, 1);\n",
        "",
    ),
    "EINTR is taken for the end": Bug(
        "server/output.c",
        "    if (n == -EAGAIN || n == -EINTR)\n        return 0;",
        "    if (n == -EAGAIN)\n        return 0;",
    ),
    "accepting pauses for ever": Bug(
        "server/listener.c",
        "    listener->paused = false;\n    kqn_loop_want(&worker->loop, listener->watch, KQN_WANT_READ);",
        "    listener->paused = false;",
    ),
    "the stop resets the clients that wait to be accepted": Bug(
        "server/listener.c",
        "i < listener->backlog + KQN_ACCEPTS_PER_TURN && !listener->paused;",
        "i < listener->backlog + KQN_ACCEPTS_PER_TURN && listener->paused;",
    ),
    "a loop is not woken for a client": Bug(
        "server/listener.c",
        "            kqn_poller_wake(worker->loop.poller);\n",
        "",
    ),
    "a loop is not woken for the stop": Bug(
        "server/worker.c",
        "        kqn_poller_wake(server->workers[i].loop.poller);\n",
        "        ;\n",
    ),
    "changes that found no place in the array are forgotten": Bug(
        "core/loop.c",
        "        if (watch->told != watch->wanted)\n            return count;\n",
        "",
    ),
    "a descriptor is closed twice": Bug(
        "core/loop.c",
        "    kqn_sys_close(watch->fd);\n    return watch;",
        "    kqn_sys_close(watch->fd);\n    kqn_sys_close(watch->fd);\n    return watch;",
    ),
    "a hook's answers go to the next connection of the batch": Bug(
        "server/reply.c",
        "    for (; i < batch->count && batch->entries[i].conn == conn; i++) {",
        "    for (; i < batch->count; i++) {",
    ),
    "a hook's answers are taken to lie behind each other": Bug(
        "server/reply.c",
        "    if (run->end != answer)\n",
        "    if (run->answers == 0)\n",
    ),
    "answers before one that failed are left out": Bug(
        "server/reply.c",
        "            put_run(worker, conn, &run);\n            fail(",
        "            run = (struct run){.answers = 0};\n            fail(",
    ),
    "a client that is handed over is not counted": Bug(
        "server/worker.c",
        "        worker->stats.handed_over--;\n",
        "",
    ),
}


BUGS_OF_KNOTES = {
    "a closed descriptor leaves its knotes behind": Bug(
        "poller/knotes.c",
        "    poller->readiness->forget(poller->backend, fd, entry);\n    kqn_table_drop(&poller->table, entry);",
        "    poller->readiness->forget(poller->backend, fd, entry);",
    ),
    "a wake-up is taken and not told": Bug(
        "poller/knotes.c",
        "            kqn_wakeup_take(&poller->wakeup);",
        "            ;",
    ),
    "a change that failed is taken for one that is in": Bug(
        "core/loop.c",
        "                untell(watch, event);",
        "                (void)untell;",
    ),
    "disabling one knote disables both": Bug(
        "poller/knotes.c",
        "    if (change->flags & (EV_DISABLE | EV_DELETE))\n        enabled &= ~knote;",
        "    if (change->flags & (EV_DISABLE | EV_DELETE))\n        enabled = 0;",
    ),
    "an event carries the other knote's owner": Bug(
        "poller/knotes.c",
        "entry->udata[is_write];",
        "entry->udata[!is_write];",
    ),
    "a change that was refused is said to be in": Bug(
        "poller/knotes.c",
        "        record.flags = EV_ERROR;",
        "        record.flags = 0;",
    ),
}


def check_found(bug: Bug, simulator: Simulator, folder: Path, flags: list[str]) -> None:
    """Its seed, what was wrong and a shortened trace are printed within a minute."""
    file = f"csrc/{bug.file}"
    text = (ROOT / file).read_text()
    assert text.count(bug.ours) == 1, f"{file} has changed: put the bug back in another way"
    broken = folder / "broken.c"
    broken.write_text(text.replace(bug.ours, bug.theirs))
    objects = simulator.objects | {file: compile_file(str(broken), folder / "broken.o", CC, flags)}
    program = link(folder / "simulate", CC, simulator.flags, list(objects.values()))
    is_well, said = run(program, "--seconds", str(FOUND_WITHIN_S))
    assert not is_well, said
    assert re.search(r"^FAIL seed \d+: .", said, re.MULTILINE), said
    assert re.search(r"^ *\d+\.\d{6} ", said, re.MULTILINE), said


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_that_is_put_back_is_found(name: str, simulator: Simulator, tmp_path: Path) -> None:
    """The simulation finds each within a minute."""
    check_found(BUGS[name], simulator, tmp_path, simulator.flags)


@pytest.mark.parametrize("name", BUGS_OF_KNOTES)
def test_a_bug_in_our_kevent_is_found(name: str, simulator_with_knotes: Simulator, tmp_path: Path) -> None:
    """Those of the poller are found where it is the real one."""
    flags = knotes_flags(simulator_with_knotes.flags)
    check_found(BUGS_OF_KNOTES[name], simulator_with_knotes, tmp_path, flags)
