"""The load tester's --html page: one file with its charts inside, no script, and nothing fetched."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from math import ceil, log10
from typing import Any

from kqnative.errors import ConfigError
from kqnative.load.html_style import CSS, Axis, Series, charts, key, percentile_axis, time_axis, value_axis, zero_axis
from kqnative.logs import printable

NONE = "\N{EN DASH}"
MAX_POINTS = 300  # in one line of a chart
MAX_DOTS = 60  # above it, points are not marked one by one
MAX_TEXT = 200  # characters of one value: a message may be as long as it likes
UNITS = (("µs", 1.0), ("ms", 1e3), ("s", 1e6))
LOOPS = {
    "open": "Response time counts from the moment a message was due; service time from the moment it was sent.",
    "closed": "A closed loop sends only after an answer, so it cannot see stalls in full.",
}
COUNTS = {
    "messages": "answered",
    "sent": "sent",
    "unsent": "due, but not sent",
    "warmup_messages": "answered while warming up",
    "bytes_sent": "bytes sent",
    "bytes_received": "bytes received",
    "connections": "connections",
    "reconnects": "reconnects",
}


def require() -> None:
    """Raises ConfigError if the library that draws the charts is not there."""
    try:
        importlib.import_module("pygal")
    except ImportError as error:
        raise ConfigError("--html needs charts: install them with: pip install 'kqnative[report]'") from error


def page(
    report: Mapping[str, Any], curve: Sequence[tuple[float, float]], service_curve: Sequence[tuple[float, float]]
) -> str:
    """The page for a report; a curve is latency by percentile, as (0 to 100, microseconds)."""
    require()
    # What was awaited when the measured time was over is no second of it.
    points, size = _merged([one for one in report["intervals"] if one["start"] < report["seconds"]])
    parts = [
        _header(report),
        _verdict(report),
        _tiles(report),
        f'<p class="note">{LOOPS.get(report["mode"], "")}</p>',
        _percentile_figure(report, curve, service_curve),
        _throughput_figure(points, size, report["requested_rate"]),
        _latency_figure(points, size),
        _probe_figure(report["probes"]) if report.get("probes") else "",
        _tables(report),
        f"<footer>Made by kqnative {_text(report['version'])} from a report of {_text(report['schema'])}.</footer>",
    ]
    # The policy makes a browser refuse what the escaping below must not let in.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Load test of {_text(report["target"])}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{"".join(f"{part}{chr(10)}" for part in parts if part)}</main>
</body>
</html>
"""


def _text(value: object) -> str:
    """A value for the page: escaped, printable, and not too long."""
    text = str(value)
    more = f"… ({len(text):,} characters)" if len(text) > MAX_TEXT else ""
    return escape(printable(text[:MAX_TEXT])) + more


def _count(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _duration(us: float | None) -> str:
    """Three digits and the unit that suits them: `63.2 µs`, `1.39 ms`."""
    if us is None:
        return NONE
    unit, size = next((one for one in UNITS if us < 999.5 * one[1]), UNITS[-1])
    digits = f"{us / size:,.0f}" if us >= 100 * size else f"{us / size:.3g}"
    return f"{digits}\u00a0{unit}"


def _share(share: float) -> str:
    percent = share * 100
    return "under 0.001\u00a0%" if 0 < percent < 0.001 else f"{percent:.3g}\u00a0%"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _header(report: Mapping[str, Any]) -> str:
    rate, seconds = report["requested_rate"], _duration(report["seconds"] * 1e6)
    loop = f"{_text(report['mode'])} loop" + (f" at {_count(rate)} messages/s" if rate else "")
    facts = [_date(report["started"]), loop, seconds, _plural(report["connections"], "connection")]
    return (
        f'<header><p class="over">kqnative load test</p><h1>{_text(report["target"])}</h1>'
        f'<p class="facts">{" · ".join(facts)}</p></header>'
    )


def _date(started: str) -> str:
    try:
        when = datetime.fromisoformat(started).astimezone(UTC)
    except ValueError:
        return _text(started)
    return f'<time datetime="{_text(started)}">{when.day} {when:%B %Y, %H:%M} UTC</time>'


def _verdict(report: Mapping[str, Any]) -> str:
    failed, ended, is_valid = report["failed_conditions"], report["ended_because"], report["valid"]
    why = _text(report["invalid_because"] or "of a reason that the report does not hold")
    lines = [] if is_valid else [f"<b>Not valid</b> because {why}"]
    lines += [f"<b>Condition failed:</b> {_text(condition)}" for condition in failed]
    if ended:
        lines.append(f"<b>Failed:</b> {_text(ended)}")
    if report["interrupted"]:
        lines.append("<b>Interrupted:</b> the figures are of what was measured until then.")
    level = "bad" if failed or ended or not is_valid else "warn" if lines else "ok"
    if not report["messages"]:
        lines.append("<b>No figures:</b> nothing was answered.")
        level = "bad"
    elif is_valid:
        what = "for what was measured" if lines else "and complete: the run reached its end, and no condition failed"
        lines.append(f"<b>Valid</b> {what}.")
    return f'<div class="verdict {level}"><ul>{"".join(f"<li>{line}</li>" for line in lines)}</ul></div>'


def _tiles(report: Mapping[str, Any]) -> str:
    latency, rate, total = report["latency_us"], report["requested_rate"], report["errors"]["total"]
    tiles = [
        ("messages/s", _count(report["messages_per_second"]), f"of {_count(rate)} asked for" if rate else "answered"),
        ("p50", _duration(latency["p50"]), "half took longer"),
        ("p99", _duration(latency["p99"]), "1 in 100 took longer"),
        ("max", _duration(latency["max"]), "none took longer"),
        ("errors", _count(total), f"of {_count(report['sent'])} sent"),
    ]
    return f'<section class="card tiles">{"".join(_tile(*tile) for tile in tiles)}</section>'


def _tile(name: str, figure: str, more: str) -> str:
    value, _, unit = figure.partition("\u00a0")
    small = f"\u00a0<small>{unit}</small>" if unit else ""
    return (
        f'<div class="tile"><div class="name">{name}</div><div class="value">{value}{small}</div>'
        f'<div class="more">{more if figure != NONE else ""}</div></div>'
    )


def _tables(report: Mapping[str, Any]) -> str:
    kinds = [report[key] for key in ("latency_us", "service_us", "connect_us")]
    latency = [(name.replace("_", "."), *(_duration(kind.get(name)) for kind in kinds)) for name in kinds[0]]
    errors = [(kind.replace("_", " "), _count(n)) for kind, n in report["errors"].items() if n and kind != "total"]
    errors += [(f"other: {name}", _count(n)) for name, n in report["other_errors"].items()]
    counts = [(name, _count(report[key])) for key, name in COUNTS.items()]
    settings = [(key.replace("_", " "), _setting(value)) for key, value in report["settings"].items()]
    left = [
        _card("Latency", _table(latency, ("", _name_of_latency(report), "service", "connect")), "nowrap"),
        _card("Errors", _table(errors) if errors else '<p class="after">No errors.</p>'),
        _wrong_answers(report["wrong_answers"]),
        _card("Counts", _table(counts) + f'<p class="note after">{_late(report.get("late") or {})}</p>'),
    ]
    note = '<p class="note">Times are seconds, sizes bytes.</p>'
    right = _card("Settings", note + _table(settings), "settings")
    return f'<div class="two-up"><div class="stack">{"".join(left)}</div>{right}</div>'


def _wrong_answers(examples: Sequence[Mapping[str, Any]]) -> str:
    """The first of them, beside what was expected."""
    if not examples:
        return ""
    none = "nothing: no message was in flight"
    rows = [(one["got"], none if one["expected"] is None else one["expected"]) for one in examples]
    return _card("Wrong answers", _table(rows, ("got", "expected")))


def _name_of_latency(report: Mapping[str, Any]) -> str:
    return "response" if report["mode"] == "open" else "round trip"


def _card(title: str, body: str, kind: str = "") -> str:
    return f'<section class="card {kind}"><h2>{title}</h2>{body}</section>'


def _table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    top = f"<thead><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr></thead>" if head else ""
    body = (
        f"<tr><th>{_text(row[0])}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f'<div class="scroll"><table>{top}<tbody>{"".join(body)}</tbody></table></div>'


def _setting(value: object) -> str:
    if value is None or value == [] or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _late(late: Mapping[str, Any]) -> str:
    share, longest = late.get("share"), late.get("max_us")
    latest = f"; the latest by {_duration(longest)}" if longest is not None else ""
    much = NONE if share is None else f"{_share(share)} of the messages{latest}."
    return f"Sent over 1\u00a0ms late by the tester's own fault: {much}"


@dataclass(frozen=True, slots=True)
class _Point:
    """One interval, or several merged."""

    at: float  # its middle
    end: float
    rate: float
    p50: float | None
    p99: float | None
    errors: int

    def when(self) -> str:
        """For the words under the pointer."""
        return f"{self.at:,.6g} s"


def _merged(intervals: Sequence[Mapping[str, Any]]) -> tuple[list[_Point], int]:
    """At most MAX_POINTS points, and how many intervals each of them is."""
    size = ceil(len(intervals) / MAX_POINTS) or 1
    return [_point(intervals[i : i + size]) for i in range(0, len(intervals), size)], size


def _point(group: Sequence[Mapping[str, Any]]) -> _Point:
    seconds = sum(one["seconds"] for one in group)
    middles = [one["p50_us"] for one in group if one["p50_us"] is not None]
    return _Point(
        at=group[0]["start"] + seconds / 2,
        end=group[0]["start"] + seconds,
        rate=sum(one["messages"] for one in group) / seconds if seconds else 0.0,
        p50=sum(middles) / len(middles) if middles else None,
        p99=max((one["p99_us"] for one in group if one["p99_us"] is not None), default=None),  # every peak stays
        errors=sum(one["errors"] for one in group),
    )


def _figure(title: str, note: str, drawn: str = "", keys: str = "") -> str:
    return (
        f'<figure class="card"><figcaption><div class="head"><h2>{title}</h2>{keys}</div>'
        f'<p class="note">{note}</p></figcaption>{drawn}</figure>'
    )


def _chart(title: str, note: str, x_name: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    named = [one for one in series if one.name]
    keys = f'<div class="keys">{"".join(key(one) for one in named)}</div>' if len(named) > 1 else ""
    note += " The scale is logarithmic." if y.is_log else ""
    return _figure(title, note, f'{charts(series, x, y, title)}<p class="axis-name">{x_name}</p>', keys)


def _percentile_figure(
    report: Mapping[str, Any], curve: Sequence[tuple[float, float]], service_curve: Sequence[tuple[float, float]]
) -> str:
    title = "Latency by percentile"
    if not curve:
        return _figure(title, "No latency was measured.")
    places = [-log10(1 - at / 100) if at < 100 else log10(report["messages"]) for at, _ in [*curve, *service_curve]]
    x = percentile_axis(max(1.0, *places))
    y = value_axis([us for _, us in [*curve, *service_curve]], _duration)
    series = [_percentile_series(x, "response time", "one", "circle", curve)]
    if service_curve:
        series.append(_percentile_series(x, "service time", "two", "square", service_curve))
    note = "How to read it: at 99, one message in 100 took longer than the line shows."
    return _chart(title, note, "percentile", x, y, series)


def _percentile_series(x: Axis, name: str, style: str, mark: str, curve: Sequence[tuple[float, float]]) -> Series:
    # A curve rises: the last point of each stretch is its largest.
    line = {round(x.place(at) / x.high * MAX_POINTS): (at, us) for at, us in curve}.values()
    nearest = {min(curve, key=lambda point: abs(x.place(point[0]) - place)) for _, place in x.ticks}
    dots = [(at, us, f"{name}, percentile {at:.7g}: {_duration(us)}") for at, us in sorted(nearest)]
    return Series(name, style, mark, list(line) if len(curve) > MAX_POINTS else curve, dots)


def _throughput_figure(points: Sequence[_Point], size: int, asked: float | None) -> str:
    title = "Throughput over time"
    if not points:
        return _figure(title, "No interval was measured.")
    x, y = time_axis(points[-1].end), zero_axis(max([*(point.rate for point in points), asked or 0.0]), _count)
    dots = _dots(points, [point.rate for point in points], "{} messages/s", _count)
    series = [Series("answered", "one", "circle", [(point.at, point.rate) for point in points], dots)]
    if asked:
        series.insert(0, Series("asked for", "path", "", [(0.0, asked), (x.high, asked)]))
    note = "Messages answered in a second." + (f" Each point is the mean of {size} intervals." if size > 1 else "")
    return _chart(title, note, "time", x, y, series)


def _latency_figure(points: Sequence[_Point], size: int) -> str:
    title = "Latency over time"
    values = [value for point in points for value in (point.p50, point.p99) if value is not None]
    if not values:
        return _figure(title, "No latency was measured.")
    x, y = time_axis(points[-1].end), value_axis(values, _duration)
    series = []
    for name, style, mark, line in (
        ("p99", "two", "square", [point.p99 for point in points]),
        ("p50", "one", "circle", [point.p50 for point in points]),
    ):
        dots = _dots(points, line, name + " {}", _duration)
        series.append(Series(name, style, mark, [(point.at, us) for point, us in zip(points, line, strict=True)], dots))
    note = "In each interval, half took longer than p50, and one in 100 longer than p99."
    if size > 1:
        note += f" Each point merges {size} intervals: the largest p99, and the mean p50."
    bottom = 10**y.low if y.is_log else y.low
    faults = [(one.at, bottom, f"{one.when()}: {_plural(one.errors, 'error')}") for one in points if one.errors]
    if faults:
        series.append(Series("errors", "fault", "cross", dots=faults))
    return _chart(title, note, "time", x, y, series)


def _probe_figure(probes: Sequence[Mapping[str, Any]]) -> str:
    title = "Latency by throughput"
    drawn = [one for one in probes if one["messages_per_second"] and one["latency_us"]["p99"] is not None]
    best = max((one["rate"] for one in probes if one["held"]), default=None)
    note = "No rate was held." if best is None else f"The highest rate held: {_count(best)} messages/s."
    if len(drawn) < len(probes):
        note += f" Not drawn, as nothing was answered: {_plural(len(probes) - len(drawn), 'rate')}."
    if not drawn:
        return _figure(title, note)
    walk = [_probe_dot(one) for one in sorted(drawn, key=lambda one: float(one["rate"]))]
    x, y = value_axis([dot[0] for dot in walk], _count), value_axis([dot[1] for dot in walk], _duration)
    series = [
        Series("", "path", "", [(rate, us) for rate, us, _ in walk]),
        Series("held", "one", "circle", dots=[_probe_dot(one) for one in drawn if one["held"]]),
        Series("not held", "fault", "cross", dots=[_probe_dot(one) for one in drawn if not one["held"]]),
    ]
    x_name = "messages/s answered" + (", logarithmic" if x.is_log else "")
    return _chart(title, f"p99 at each rate that was tried. {note}", x_name, x, y, series)


def _probe_dot(one: Mapping[str, Any]) -> tuple[float, float, str]:
    rate, p99, held = one["messages_per_second"], one["latency_us"]["p99"], "held" if one["held"] else "not held"
    return (
        rate,
        p99,
        f"{_count(one['rate'])} messages/s asked for, {_count(rate)} answered, p99 {_duration(p99)}: {held}",
    )


def _dots(
    points: Sequence[_Point], values: Sequence[float | None], words: str, form: Callable[[float], str]
) -> list[tuple[float, float, str]]:
    """A dot for each value or, if they are many, for those that a line would not show: alone between gaps."""
    around = [None, *values, None]
    return [
        (point.at, value, f"{point.when()}: {words.format(form(value))}")
        for i, (point, value) in enumerate(zip(points, values, strict=True))
        if value is not None and (len(points) <= MAX_DOTS or around[i] is None is around[i + 2])
    ]
