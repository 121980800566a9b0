"""The report that a person reads in five seconds, at most 80 columns wide."""

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kqnative.load import limits
from kqnative.load.engine import Histogram
from kqnative.load.result import BUSY_SHARE, LoadResult, Probe, percentile_key
from kqnative.logs import printable
from kqnative.values import show_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 80
HISTOGRAM_ROWS = 10
BAR_WIDTH = 40


def show_us(duration_us: float | None) -> str:
    """`63.2 us`, `1.24 ms`, `2.00 s`: three digits and a unit; a dash for nothing."""
    if duration_us is None:
        return "-"
    for unit, scale in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        amount = duration_us / scale
        if amount < 999.5 or unit == "s":
            break
    digits = 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{amount:,.{digits}f} {unit}"


def show_rate(rate: float | None) -> str:
    """`45,210/s`; a dash for nothing."""
    if rate is None:
        return "-"
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


def show_bytes(size: float) -> str:
    """`1.21 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < (1_000 if unit == "bytes" else 999.5) or unit == "GiB":
            break
        size /= 1_024
    return (
        f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.3g} {unit}" if size < 999.5 else f"{size:,.0f} {unit}"
    )


def show_errors(result: LoadResult) -> str:
    """`none`, or the kinds that there were, with the errnos of those that have no kind."""
    there = {kind: count for kind, count in result.errors.items() if count and kind != "total"}
    if not there:
        return "none"
    parts = [f"{kind} {count:,}" for kind, count in there.items()]
    if result.other_errors:
        parts[-1] += f" ({', '.join(f'{name} {count:,}' for name, count in result.other_errors.items())})"
    return f"{result.errors['total']:,}: {', '.join(parts)}"


def asked_for(result: LoadResult) -> str:
    """What the run was to do, in one line."""
    settings = result.settings
    depth = f", {settings['depth']} in flight on each" if settings["depth"] > 1 else ""
    rate = "closed loop" if result.requested_rate is None else f"{show_rate(result.requested_rate)} (open loop)"
    ends = [f"{settings['messages']:,} messages"] if settings["messages"] else []
    ends += [show_duration(settings["duration"])] if settings["duration"] else []
    plural = "s" if result.connections > 1 else ""
    return f"{result.connections:,} connection{plural}{depth}, {rate}, {' or '.join(ends)}"


def drawn(target: "Console", draw: Callable[["Console"], None]) -> str:
    """What this draws for a console, as text: with colours if it is a terminal, at most 80 columns wide."""
    from rich.console import Console

    text = io.StringIO()
    width = min(WIDTH, target.width) if target.is_terminal else WIDTH
    draw(Console(file=text, force_terminal=target.is_terminal, width=width, emoji=False, highlight=False))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())  # rich fills lines up


def print_report(console: "Console", result: LoadResult, *, unicode: bool = True) -> None:
    """Prints all of it."""
    console.print(f"{printable(result.target)}: {asked_for(result)}", style="bold", markup=False)
    console.print()
    console.print(_facts(result))
    if len(result.latency):
        console.print()
        console.print(_latencies(result))
        console.print()
        console.print(_histogram(result, unicode=unicode))
    if result.probes is not None:
        console.print()
        console.print(_probes(result.probes))
    for line, style in _remarks(result):
        console.print()
        console.print(printable(line), style=style, markup=False)


def probe_line(probe: Probe) -> str:
    """One probe of a search, as it ends."""
    verdict = "held" if probe.held else "not valid" if not probe.valid else "did not hold"
    return (
        f"{show_rate(probe.rate)}: answered {show_rate(probe.messages_per_second)},"
        f" p99 {show_us(probe.latency_us['p99'])}, errors {probe.errors['total']}: {verdict}"
    )


def _facts(result: LoadResult) -> "Table":
    table = _table("", "")
    answered = f"{result.messages:,} answered in {show_duration(round(result.seconds, 3))}"
    table.add_row("rate", f"[bold]{show_rate(result.messages_per_second)}[/bold]")
    table.add_row("messages", answered + (f", {result.unsent:,} unsent" if result.unsent else ""))
    table.add_row("bytes", f"{show_bytes(result.bytes_sent)} sent, {show_bytes(result.bytes_received)} received")
    style = "bold red" if result.errors["total"] else ""
    table.add_row("errors", f"[{style}]{show_errors(result)}[/]" if style else show_errors(result))
    if result.reconnects:
        table.add_row("reconnects", f"{result.reconnects:,}")
    return table


def _latencies(result: LoadResult) -> "Table":
    is_open = result.mode == "open"
    columns = [("response" if is_open else "round trip", result.latency)]
    columns += [("service", result.service)] if is_open else []
    columns += [("connect", result.connect)]
    table = _table("latency")
    for name, _ in columns:
        table.add_column(name, justify="right")
    rows = {"min": "min", "mean": "mean"}
    rows |= {percentile_key(one): f"p{one:.10g}" for one in result.percentiles}
    for key, name in (rows | {"max": "max"}).items():
        style = "bold" if key == "p99" else ""
        table.add_row(name, *(show_us(_figure(histogram, key)) for _, histogram in columns), style=style)
    return table


def _figure(histogram: Histogram, key: str) -> float | None:
    if key in ("min", "mean", "max"):
        figure: float | None = getattr(histogram, f"{key}_us")
        return figure
    return histogram.percentile_us(float(key[1:].replace("_", ".")))


def bins(histogram: Histogram, rows: int) -> list[tuple[float, int]]:
    """(upper end in microseconds, how many) of steps that grow by the same factor, from the least to p99.9."""
    low = max(histogram.min_us or 0.0, 1.0)
    high = max(histogram.percentile_us(99.9) or low, low * 1.01)
    factor = (high / low) ** (1 / rows)
    ends = [low * factor ** (i + 1) for i in range(rows)]
    counts = [0] * (rows + 1)
    row = 0
    for upper_us, count in histogram.buckets():
        while row < rows and upper_us > ends[row] * 1.001:
            row += 1
        counts[row] += count
    beyond = [(histogram.max_us or high, counts[rows])] if counts[rows] else []
    return [*zip(ends, counts, strict=False), *beyond]


def _histogram(result: LoadResult, *, unicode: bool) -> "Table":
    table = _table("up to", "messages")
    table.columns[0].justify = table.columns[1].justify = "right"
    table.add_column("")
    total = len(result.latency)
    steps = bins(result.latency, HISTOGRAM_ROWS)
    most = max(count for _, count in steps)
    for end_us, count in steps:
        table.add_row(show_us(end_us), f"{count:,}", f"[cyan]{_bar(count / most, unicode)}[/] {count / total:.1%}")
    return table


def _bar(share: float, unicode: bool) -> str:
    if not unicode:
        return "#" * round(share * BAR_WIDTH)
    eighths = round(share * BAR_WIDTH * 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _probes(probes: list[Probe]) -> "Table":
    table = _table("asked")
    for name in ("answered", "p50", "p99", "max", "errors", ""):
        table.add_column(name, justify="right")
    for one in probes:
        latency = one.latency_us
        figures = [show_us(latency[key]) for key in ("p50", "p99", "max")]
        verdict = "held" if one.held else "not valid" if not one.valid else "did not hold"
        table.add_row(
            show_rate(one.rate), show_rate(one.messages_per_second), *figures, f"{one.errors['total']:,}", verdict
        )
    return table


def _remarks(result: LoadResult) -> Iterator[tuple[str, str]]:
    """What must be known to read the figures right, in words; (line, style)."""
    if result.interrupted:
        yield "Interrupted: the figures are those until then.", "bold yellow"
    if result.ended_because:
        yield f"Failed: {result.ended_because}.", "bold red"
    if result.invalid_because:
        yield f"Not valid: {result.invalid_because}. The figures say more of the tester than of the server.", "bold red"
    if result.probes and result.valid and not result.probes[-1].valid:
        yield f"The tester is the limit at {result.probes[-1].rate:,.0f} messages/s; the server may do more.", "yellow"
    if result.unsent:
        yield (
            f"{result.unsent:,} messages were due in the measured time and not sent by its end: the high percentiles"
            " are lower bounds.",
            "yellow",
        )
    if result.cpu_share is not None and result.cpu_share > BUSY_SHARE and result.messages:
        yield (
            f"The tester used {result.cpu_share:.0%} of a core: the figures may be its own. Try more --loops.",
            "yellow",
        )
    for example in result.wrong_answers:
        asked = f"expected '{example.expected}'" if example.expected is not None else "no message was in flight"
        yield f"Wrong answer on connection {example.connection}: got '{example.got}', {asked}.", "red"
    for hint in limits.hints(result):
        yield hint[0].upper() + hint[1:], "yellow"
    for condition in result.failed_conditions:
        yield f"Failed condition: {condition}", "bold red"
    if result.mode == "closed" and result.messages and not result.interrupted:
        yield "A closed loop cannot see stalls in full; a schedule can: --rate.", "dim"


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, show_header=any(columns), pad_edge=False, padding=(0, 2), header_style="dim")
    for name in columns:
        table.add_column(name)
    return table
