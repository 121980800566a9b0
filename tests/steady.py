"""Tries a test again that failed while the machine stood still: that proves nothing.

Tests hold what they see against deadlines of the server's, some below a second, and act within them themselves. A
machine with more to do than it has processors for keeps a process waiting for that long now and then; its clients then
are idle by right. A failure while nothing stood still counts at once, and so does one that no pause excuses.
"""

import sys
import threading
import time
from collections.abc import Sequence

import pytest
from _pytest.runner import runtestprotocol
from figures import record

BEAT_S = 0.02
STILL_S = 0.25  # an untroubled process is never kept waiting for so long
TRIES = 3
INEXCUSABLE = ("Sanitizer", "from pytest-timeout")  # a test that hung has used up its time as well


class Heartbeat:
    """How long this process has not run, though it was to run all the time. A thread that keeps the others from
    running, as it holds the interpreter's lock, uses processor time: that is no pause."""

    def __init__(self) -> None:
        self.longest_pause_s = 0.0
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _beat(self) -> None:
        last_s = _unused_s()
        while True:
            time.sleep(BEAT_S)
            now_s = _unused_s()
            self.longest_pause_s = max(self.longest_pause_s, now_s - last_s - BEAT_S)
            last_s = now_s


def _unused_s() -> float:
    """A clock that stands still while a thread of this process runs."""
    return time.monotonic() - time.process_time()


HEARTBEAT = Heartbeat()


def _reports_that_count(item: pytest.Item, nextitem: pytest.Item | None) -> Sequence[pytest.TestReport]:
    for _ in range(TRIES):
        HEARTBEAT.longest_pause_s = 0.0
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        paused_s = HEARTBEAT.longest_pause_s
        failure = "\n".join(report.longreprtext for report in reports if report.failed)
        if not failure or paused_s < STILL_S or any(word in failure for word in INEXCUSABLE):
            break
        record(f"failed while the machine stood still for {paused_s:.2f} s: {item.nodeid}")
        print(failure, file=sys.stderr)
    return reports


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Runs one test, in place of pytest's own way, until a try counts; pytest hears of that one alone."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports_that_count(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
