"""One run: a thread for each loop, and the calling thread, which watches."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kqnative import _native
from kqnative.load import limits, target
from kqnative.load.engine import Handle, Progress, RawInterval
from kqnative.load.plan import LoadPlan
from kqnative.load.result import PERCENTILES, Interval, LoadResult, result_of

WATCH_S = 0.1  # between two looks at a run

Watcher = Callable[[Progress, list[RawInterval]], None]


class Run:
    """One run of a plan. `stop()` ends it early, from any thread or a signal handler; it still has a result."""

    def __init__(self, plan: LoadPlan, *, percentiles: tuple[float, ...] = PERCENTILES) -> None:
        self.plan = plan
        self._percentiles = percentiles
        self._handle: Handle | None = None
        self._is_stopped = False
        self._failures: list[BaseException] = []
        self._intervals: list[Interval] = []

    @property
    def has_begun(self) -> bool:
        """Whether the target has been found, so that there is something to stop."""
        return self._handle is not None

    def unbegun(self) -> LoadResult:
        """The result of a run that was given up while its target was looked for."""
        return LoadResult(**self._known(), interrupted=True)

    def run(self, watcher: Watcher | None = None) -> LoadResult:
        """Runs to the end; the watcher is called ten times a second, with the intervals completed since."""
        known = self._known()
        try:
            limits.require_descriptors(self.plan)
            endpoint = target.find(self.plan.target, self.plan.source, self.plan.connect_timeout)
        except target.UnreachableError as error:
            return _unreached(error, known)
        except limits.LimitError as error:
            return LoadResult(**known, ended_because=str(error))
        known["target"] = endpoint.name
        try:
            self._handle = handle = Handle(self.plan, endpoint)
        except OSError as error:
            return LoadResult(**known, ended_because=f"the run cannot begin: {error.strerror}")
        threads = [threading.Thread(target=self._run_loop, args=(i,)) for i in range(self.plan.loops)]
        try:
            if self._is_stopped:  # before there was a handle
                handle.stop()
            for thread in threads:
                thread.start()
            self._watch(threads, watcher)
        except BaseException:
            handle.stop()  # a thread did not start, the watcher raised, or Ctrl-C was pressed: none may outlive this
            raise
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        return self._result(known)

    def stop(self) -> None:
        """Ends the measured time now."""
        self._is_stopped = True
        if self._handle is not None:
            self._handle.stop()

    def _run_loop(self, index: int) -> None:
        assert self._handle is not None
        try:
            self._handle.run(index)
        except BaseException as error:
            self._failures.append(error)

    def _watch(self, threads: list[threading.Thread], watcher: Watcher | None) -> None:
        assert self._handle is not None
        is_last = False
        while True:
            new = list(self._handle.take_intervals())
            self._intervals += map(Interval.of, new)
            if watcher is not None:
                watcher(self._handle.progress(), new)
            if is_last:
                return
            alive = [thread for thread in threads if thread.is_alive()]
            is_last = not alive
            if alive:
                alive[0].join(WATCH_S)

    def _known(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "target": plan.target,
            "settings": plan.settings(),
            "started": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "mode": "closed" if plan.rate is None else "open",
            "requested_rate": plan.rate,
            "connections": plan.connections,
            "percentiles": self._percentiles,
        }

    def _result(self, known: dict[str, Any]) -> LoadResult:
        assert self._handle is not None
        outcome = self._handle.outcome()
        return result_of(
            outcome,
            **known,
            interrupted=self._is_stopped,
            ended_because=self._ended_because(outcome.totals),
            intervals=self._intervals,
        )

    def _ended_because(self, totals: Any) -> str | None:
        if self._failures:
            return f"a loop failed: {self._failures[0]}"
        if totals.had_no_connection:
            return f"no connection was open for {self.plan.connect_timeout:g} s"
        if totals.sent and totals.messages == 0 and not self._is_stopped:
            return "not one message was answered"
        return None


def run_load(plan: LoadPlan, *, watcher: Watcher | None = None) -> LoadResult:
    """Runs a plan and returns what came out, also when the target could not be reached (`ended_because`).

    Touches no signal and prints nothing. Raises KqnativeError; on Ctrl-C it ends the run and raises KeyboardInterrupt.
    """
    return Run(plan).run(watcher)


def _unreached(error: target.UnreachableError, known: dict[str, Any]) -> LoadResult:
    result = LoadResult(**known, ended_because=str(error))
    kind = target.error_kind(error.error)
    result.errors[kind] += 1
    result.errors["total"] += 1
    if kind == "other":
        result.other_errors[_native.errno_name(error.error.errno or 0)] = 1
    return result
