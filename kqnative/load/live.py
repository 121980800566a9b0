"""The one line that lives while a run does, on a terminal."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from kqnative.load.engine import Progress, RawInterval
from kqnative.load.plan import LoadPlan
from kqnative.load.report import show_rate, show_us

if TYPE_CHECKING:
    from rich.console import Console

BAR_WIDTH = 10


class LiveLine:
    """Shows where a run is; it is a watcher."""

    def __init__(self, console: "Console", plan: LoadPlan) -> None:
        from rich.live import Live

        self._plan = plan
        self._last: RawInterval | None = None
        self._errors = 0
        self._messages = 0
        self._live = Live("", console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, progress: Progress, new: list[RawInterval]) -> None:
        from rich.text import Text

        for interval in new:
            self._errors += interval.errors
            self._messages += interval.messages
            self._last = interval
        self._live.update(Text(self._text(progress), no_wrap=True, overflow="ellipsis"), refresh=True)

    def _text(self, progress: Progress) -> str:
        connections = f"{progress.open:,} of {self._plan.connections:,} connections"
        if progress.phase == "connecting":
            return f"connecting: {connections}"
        if progress.phase in ("warming", "settling"):
            return f"warming up for {self._plan.warmup_in_force:g} s: {connections}"
        parts = [self._where(progress)]
        if self._last is not None and self._last.seconds > 0:
            latency = self._last.latency
            parts += [
                show_rate(self._last.messages / self._last.seconds),
                f"p50 {show_us(latency.percentile_us(50))}",
                f"p99 {show_us(latency.percentile_us(99))}",
            ]
        return "  ".join([*parts, f"errors {self._errors:,}", f"open {progress.open:,}"])

    def _where(self, progress: Progress) -> str:
        """A bar and the time left, or the messages so far where their number is the end."""
        duration = self._plan.duration_in_force
        if progress.phase == "waiting":
            return "waiting for answers"
        if duration is not None:
            share, left = progress.measured_s / duration, f"{max(0.0, duration - progress.measured_s):.0f} s left"
        else:
            assert self._plan.messages is not None
            share, left = self._messages / self._plan.messages, f"{self._messages:,} of {self._plan.messages:,}"
        done = min(BAR_WIDTH, int(share * BAR_WIDTH))
        return f"[{'=' * done}{' ' * (BAR_WIDTH - done)}] {left}"
