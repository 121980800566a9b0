"""What a message costs in instructions, allocations and system calls: no change may raise it unseen."""

import sys
from pathlib import Path

import pytest
from figures import record

sys.path.append(str(Path(__file__).parent.parent / "bench"))

import callgrind
import counters
import instructions
import system_calls
from instructions import Cost

NAMES = [one.name for one in instructions.SCENARIOS]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="valgrind and strace are Linux's")


@pytest.fixture(scope="session")
def costs() -> dict[str, Cost]:
    """Of all scenarios, counted once."""
    return instructions.costs()


@pytest.mark.timeout(180)
@pytest.mark.tool("valgrind")
def test_no_message_costs_more_instructions_than_it_did(costs: dict[str, Cost]) -> None:
    """In no scenario does a message cost over 5 % more than is stored; with another compiler it is only shown."""
    ceilings = counters.stored()
    counted = ", ".join(f"{name} {cost.instructions:.1f}" for name, cost in costs.items())
    verdict = "" if ceilings else " (none are stored, so they are not judged)"
    record(f"instructions a message, {instructions.compiler_name()}{verdict}: {counted}")
    assert not ceilings or list(ceilings) == sorted(NAMES)
    too_dear = {
        name: (cost.instructions, ceilings[name])
        for name, cost in costs.items()
        if ceilings and cost.instructions > ceilings[name] * counters.ROOM
    }
    assert not too_dear, "instructions and what is stored; if it can't be helped: python bench/counters.py --store"


@pytest.mark.timeout(180)
@pytest.mark.tool("valgrind")
@pytest.mark.parametrize("name", NAMES)
def test_no_message_allocates(name: str, costs: dict[str, Cost]) -> None:
    """In the steady state nothing is allocated, whatever the framing and the depth."""
    assert costs[name].allocations == 0


@pytest.mark.timeout(180)
@pytest.mark.tool("valgrind")
def test_an_event_costs_the_poller_few_instructions(costs: dict[str, Cost]) -> None:
    """kevent() on epoll takes at most 60 instructions for an event when a wait brings 50."""
    poller = costs[counters.POLLER_SCENARIO].poller_instructions_per_event
    assert poller is not None
    assert 0 < poller <= counters.POLLER_AT_MOST


@pytest.mark.timeout(180)
@pytest.mark.tool("valgrind")
def test_a_message_costs_the_same_with_two_loops(costs: dict[str, Cost]) -> None:
    """What is shared between loops costs a message nothing: as many instructions as with one, within 1 %."""
    one, two = (costs[name].instructions for name in (instructions.ONE_LOOP, instructions.TWO_LOOPS))
    assert two == pytest.approx(one, rel=counters.LOOPS_DIFFER_AT_MOST)


@pytest.mark.tool("strace")
def test_a_message_costs_two_system_calls_and_its_share_of_a_wait() -> None:
    """The loop's thread reads and writes once for a message, and waits once for many."""
    calls = system_calls.calls_per_message()
    total = sum(calls.values())
    record(f"system calls a message: {total:.4f}")
    assert 2 <= total <= system_calls.AT_MOST, calls


def test_callgrind_files_are_read(tmp_path: Path) -> None:
    """What a function costs itself is its own; what it has others do is theirs, or the library's."""
    path = tmp_path / "callgrind.out"
    path.write_text(
        "fl=(1) /somewhere/csrc/core/loop.c\nfn=(1) wait\n0 10\nfi=(2) csrc/core/slab.h\n0 5\nfe=(1)\n"
        "cfi=(3) csrc/core/sys.c\ncfn=(2) kqn_sys_alloc\ncalls=3 0\n0 700\n+1 1\n"
        "cob=(2) libc.so\ncfi=(4) ???\ncfn=(3) memcpy\ncalls=2 0\n* 40\n"
        "cfn=(1)\ncalls=1 0\n0 2\n\n"
        "fl=(3)\nfn=(2)\n0 100\n\nob=(2)\nfl=(4)\nfn=(3)\n0 40\n"
        "cfi=(3)\ncfn=(2)\ncalls=1 0\n0 9\n"
    )
    profile = callgrind.read_profile(path)
    assert dict(profile.instructions) == {("csrc/core/loop.c", "wait"): 16, ("csrc/core/sys.c", "kqn_sys_alloc"): 100}
    assert dict(profile.calls) == {"kqn_sys_alloc": 4, "memcpy": 2, "wait": 1}
    assert profile.library_instructions == 40
