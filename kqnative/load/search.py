"""The highest rate that holds a condition: doubling until it breaks, then halving what is left."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kqnative.load.conditions import Condition
from kqnative.load.result import LoadResult, Probe

FIRST_RATE = 1_000.0
MOST_PROBES = 16
PRECISION = 1.05  # the search ends when the next rate that fails is at most so many times the best one
PROBE_S = 3.0
UNSENT_SHARE_MAX = 0.01  # of the messages that were due; with more, the rate was not what was asked for


@dataclass(slots=True)
class Search:
    """What a search has found out so far."""

    condition: Condition
    probes: list[Probe] = field(default_factory=list)
    best: LoadResult | None = None  # of the highest rate that held
    first: LoadResult | None = None
    is_stopped: bool = False  # no further probe is wanted
    ended_because: str | None = None  # the search could not go on to its end

    def run(self, probe: Callable[[float], LoadResult], said: Callable[[Probe], None]) -> None:
        """Probes rates until the highest is known to 5 %; each probe is told when it has ended."""
        held, broken = 0.0, 0.0  # rates; 0: none yet
        while len(self.probes) < MOST_PROBES and not (held and broken and broken <= PRECISION * held):
            if not held and broken:
                return  # the first rate fails already
            rate = FIRST_RATE if not held else (held + broken) / 2 if broken else 2 * held
            result = probe(rate)
            one = self._judged(rate, result)
            self.probes.append(one)
            said(one)
            if self.first is None:
                self.first = result
            if result.interrupted or not result.valid or result.ended_because:
                self.ended_because = self._why(rate, result)
                return
            if one.held:
                held, self.best = rate, result
            else:
                broken = rate
            if self.is_stopped:
                return

    def _judged(self, rate: float, result: LoadResult) -> Probe:
        due = result.sent + result.unsent
        is_sent = due > 0 and result.unsent <= UNSENT_SHARE_MAX * due
        is_whole = result.valid and is_sent and not result.interrupted and not result.ended_because
        held = is_whole and bool(self.condition.holds(result))
        return Probe(rate, result.messages_per_second, result.latency_us, result.errors, result.valid, held)

    def _why(self, rate: float, result: LoadResult) -> str | None:
        if result.interrupted:
            return None
        if result.ended_because:
            return result.ended_because
        return f"the tester is the limit at {rate:,.0f} messages/s ({result.invalid_because}); the server may do more"
