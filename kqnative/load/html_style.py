"""How the --html page looks: its charts as SVG, and its style for light, dark and paper."""

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any
from xml.etree import ElementTree

SIZES = (("large", 912, 300), ("medium", 620, 240), ("small", 350, 250))  # the style shows the one that fits
FONT_SIZE = 13
LOG_ABOVE = 30.0  # the largest value by the smallest: beyond it, a linear scale would show the largest only
MIN_LOG = 0.1  # 0 has no place on a logarithmic scale
TIME_STEPS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
MARKS = {  # around 0, 0
    "circle": "M-3.5 0A3.5 3.5 0 1 1 3.5 0A3.5 3.5 0 1 1-3.5 0Z",
    "square": "M-3.2-3.2H3.2V3.2H-3.2Z",
    "cross": "M-4-4L4 4M-4 4L4-4",
}
NOT_DRAWN = {"defs", "desc", "rect", "script", "style"}


@dataclass(frozen=True, slots=True)
class Axis:
    """Where values go, and what is written there."""

    place: Callable[[float], float]
    ticks: list[tuple[str, float]]  # what is written, and its place
    low: float
    high: float
    is_log: bool = False
    is_even: bool = True  # the same room between any two ticks


@dataclass(frozen=True, slots=True)
class Series:
    """A line and dots. Its style, a CSS class, and its mark tell it from the others."""

    name: str
    style: str
    mark: str
    line: Sequence[tuple[float, float | None]] = ()
    dots: Sequence[tuple[float, float, str]] = ()  # with the words to show under the pointer


def value_axis(values: Sequence[float], words: Callable[[float], str]) -> Axis:
    """From 0; logarithmic if the values, at least one, lie far apart."""
    low, high = max(min(values), MIN_LOG), max(*values, MIN_LOG)
    return _log_axis(low, high, words) if high > LOG_ABOVE * low else zero_axis(high, words)


def zero_axis(high: float, words: Callable[[float], str]) -> Axis:
    """From 0 to a round number."""
    size = 10.0 ** floor(log10(high or 1))
    step = next(size * factor for factor in (0.2, 0.25, 0.5, 1, 2) if high / (size * factor) <= 5)
    ticks = [(words(i * step), i * step) for i in range(max(1, ceil(high / step)) + 1)]
    return Axis(float, ticks, 0.0, ticks[-1][1])


def _log_axis(low: float, high: float, words: Callable[[float], str]) -> Axis:
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    tens = [10.0**power for power in powers]
    values = [factor * ten for ten in tens for factor in (1, 2, 5)]
    written = values if high / low < 200 else tens
    first = max(value for value in written if value <= low)
    last = min(value for value in values if value >= high)
    ticks = [(words(value), log10(value)) for value in written if first <= value <= last]
    return Axis(lambda value: log10(max(value, MIN_LOG)), ticks, log10(first), log10(last), is_log=True)


def time_axis(seconds: float) -> Axis:
    """From 0 to the end of the run."""
    seconds = max(seconds, TIME_STEPS[0])
    step = next((step for step in TIME_STEPS if seconds / step <= 10), seconds / 10)
    unit, size = ("h", 3600) if step >= 3600 else ("min", 60) if step >= 60 else ("s", 1)
    ticks = [(f"{round(i * step / size, 3):g} {unit}", i * step) for i in range(int(seconds / step) + 1)]
    return Axis(float, ticks, 0.0, seconds)


def percentile_axis(end: float) -> Axis:
    """A place is log10(1 / (1 - p)), so each further 9 takes the same room; the 100th is at the end."""

    def place(percentile: float) -> float:
        return end if percentile >= 100 else min(end, -log10(1 - percentile / 100))

    nines = [(f"{100 - 10.0 ** (2 - i):.{max(0, i - 2)}f}", float(i)) for i in range(1, floor(end) + 1)]
    return Axis(place, [("0", 0.0), ("50", log10(2)), *nines], 0.0, end, is_even=False)


def charts(series: Sequence[Series], x: Axis, y: Axis, name: str) -> str:
    """One SVG for each size."""
    return "\n".join(_svg(series, x, y, name, *size) for size in SIZES)


def key(one: Series) -> str:
    """A series' name behind a piece of it."""
    line = '<path class="line" d="M0 6H34"/>' if one.line else ""
    mark = f'<path class="dot" d="{MARKS[one.mark]}" transform="translate(17 6)"/>' if one.mark else ""
    return f'<span><svg class="{one.style}" viewBox="0 0 34 12" aria-hidden="true">{line}{mark}</svg>{one.name}</span>'


def _svg(series: Sequence[Series], x: Axis, y: Axis, name: str, size: str, width: int, height: int) -> str:
    pygal: Any = importlib.import_module("pygal")  # not installed with the package
    style = pygal.style.Style(label_font_size=FONT_SIZE)
    chart = pygal.XY(
        width=width, height=height, margin=6, margin_right=24, spacing=8, style=style, js=(), show_legend=False
    )
    chart.config(range=(y.low, y.high), xrange=(x.low, x.high), truncate_label=-1, allow_interruptions=True)
    chart.x_labels = [{"label": text, "value": place} for text, place in _spaced(x, width * 0.85)]
    chart.y_labels = [{"label": text, "value": place} for text, place in y.ticks]
    drawn: list[Series] = []
    for one in series:
        if one.line:
            line = [(x.place(at), None if value is None else y.place(value)) for at, value in one.line]
            chart.add(None, line, show_dots=False)
            drawn.append(one)
        if one.dots:
            dots = [{"value": (x.place(at), y.place(value)), "tooltip": words} for at, value, words in one.dots]
            chart.add(None, dots, stroke=False)
            drawn.append(one)
    root = ElementTree.fromstring(chart.render())
    _trim(root, drawn)
    root.attrib = {"class": f"chart {size}", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": name}
    return ElementTree.tostring(root, encoding="unicode")


def _spaced(axis: Axis, room: float) -> list[tuple[str, float]]:
    """The ticks whose words leave each other some room."""
    kept: list[tuple[str, float]] = []
    longest = max(len(text) for text, _ in axis.ticks)
    end = -room
    for text, place in axis.ticks:
        half = (longest if axis.is_even else len(text)) * FONT_SIZE * 0.3 + 5
        at = (place - axis.low) / (axis.high - axis.low) * room
        if at - half >= end:
            kept.append((text, place))
            end = at + half
    return kept


def _trim(node: ElementTree.Element, drawn: Sequence[Series]) -> None:
    """Takes out what the page's style and a page without scripts have no use for."""
    node.tag = node.tag.rpartition("}")[2]
    for name, value in node.attrib.items():
        if name != "class":
            node.set(name, re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", value))
    for child in list(node):
        _trim(child, drawn)
        is_title = child.tag == "title" and node.get("class") != "dots"
        is_edge = child.tag == "path" and node.get("class", "").startswith("axis")
        if child.tag in NOT_DRAWN or is_title or is_edge or (child.tag == "g" and not len(child)):
            node.remove(child)
    series = re.match(r"series serie-(\d+)", node.get("class", ""))
    if series:
        _restyle(node, drawn[int(series[1])])


def _restyle(node: ElementTree.Element, one: Series) -> None:
    node.set("class", one.style)
    for path in node.iter("path"):
        path.set("class", "line")
    for circle in node.iter("circle"):
        place = f"translate({circle.get('cx')} {circle.get('cy')})"
        circle.tag, circle.attrib = "path", {"class": "dot", "d": MARKS[one.mark], "transform": place}


# Series colours are Okabe and Ito's; dashes and marks tell the series apart too.
CSS = """
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #fff; --ink: #1b1f24; --soft: #59636e; --rule: #d9dde2; --grid: #e6e9ed;
  --one: #0072b2; --two: #b85000; --bad: #b3123f;
  --ok-ink: #0b5d3b; --ok-card: #e5f3ec; --warn-ink: #7a4a00; --warn-card: #fdf1d9;
  --bad-ink: #97103a; --bad-card: #fbe7ec;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #111418; --card: #1a1e24; --ink: #e7eaee; --soft: #a3adb8; --rule: #343b45; --grid: #2a3039;
    --one: #5cb8ee; --two: #f0a030; --bad: #ff7d9c;
    --ok-ink: #8fdcb6; --ok-card: #13291f; --warn-ink: #f2c879; --warn-card: #2d2412;
    --bad-ink: #ff9fb5; --bad-card: #33151d;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 1000px; margin: 0 auto; padding: 40px 24px 48px; display: grid; gap: 20px; }
main > * { min-width: 0; }
h1, h2, p, figure, ul { margin: 0; }
h1 { font-size: 30px; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; line-height: 1.35; font-weight: 650; }
.over { color: var(--soft); font-size: 14px; margin-bottom: 4px; }
.facts { color: var(--soft); margin-top: 6px; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: 14px; max-width: 92ch; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 20px 22px; }
.verdict { border-radius: 10px; padding: 14px 20px 14px 52px; position: relative; overflow-wrap: anywhere; }
.verdict ul { list-style: none; padding: 0; display: grid; gap: 4px; }
.verdict::before { position: absolute; left: 20px; top: 11px; font-size: 20px; font-weight: 700; }
.ok { background: var(--ok-card); } .ok::before { content: "\\2713"; }
.ok b, .ok::before { color: var(--ok-ink); }
.warn { background: var(--warn-card); } .warn::before { content: "!"; left: 25px; }
.warn b, .warn::before { color: var(--warn-ink); }
.bad { background: var(--bad-card); } .bad::before { content: "\\2715"; }
.bad b, .bad::before { color: var(--bad-ink); }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); padding: 0; overflow: hidden; }
.tile { padding: 18px 20px; border-left: 1px solid var(--rule); min-width: 0; }
.tile:first-child { border-left: 0; }
.tile .name, .tile .more { color: var(--soft); font-size: 14px; line-height: 1.4; }
.tile .value { font-size: 30px; line-height: 1.3; font-weight: 650; letter-spacing: -.01em; white-space: nowrap; }
.tile .value small { font-size: 16px; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.head { display: flex; flex-wrap: wrap; gap: 4px 24px; align-items: baseline; justify-content: space-between; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: 14px; }
.keys span { white-space: nowrap; }
.keys svg { width: 34px; height: 12px; margin-right: 7px; vertical-align: -1px; }
.axis-name { color: var(--soft); font-size: 13px; text-align: center; }
.chart { display: none; width: 100%; height: auto; font-size: 13px; overflow: visible; margin-top: 14px; }
.chart.large { display: block; }
.chart text { fill: var(--soft); }
.chart .axis.x text, .chart .titles text { text-anchor: middle; }
.chart .axis.y text { text-anchor: end; }
.chart .axis path { fill: none; stroke: var(--grid); stroke-width: 1; }
.chart .axis.x path { stroke: none; }
.one { --this: var(--one); } .two { --this: var(--two); } .fault { --this: var(--bad); } .path { --this: var(--soft); }
.line { fill: none; stroke: var(--this); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.two .line { stroke-dasharray: 7 4; stroke-linecap: butt; }
.path .line { stroke-width: 1.5; stroke-dasharray: 1 4; }
.dot { fill: var(--this); stroke: var(--card); stroke-width: 1; }
.fault .dot { fill: none; stroke: var(--this); stroke-width: 2.25; stroke-linecap: round; }
.two-up { display: grid; grid-template-columns: 1fr 1fr; gap: 20px; align-items: start; }
.stack { display: grid; gap: 20px; min-width: 0; }
table { border-collapse: collapse; width: 100%; margin-top: 10px; font-size: 15px; }
th, td { padding: 6px 0 6px 14px; border-top: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
th { font-weight: 400; color: var(--soft); text-align: left; }
thead th { border-top: 0; text-align: right; font-size: 14px; }
td { overflow-wrap: anywhere; }
.settings table { table-layout: fixed; }
.nowrap td { white-space: nowrap; }
.scroll { overflow-x: auto; }
.after { margin-top: 10px; }
footer { color: var(--soft); font-size: 13px; }
@media (max-width: 760px) {
  main { padding: 28px 18px 36px; gap: 16px; }
  .stack, .two-up { gap: 16px; }
  .chart.large { display: none; } .chart.medium { display: block; }
}
@media screen and (max-width: 760px) {
  .two-up { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(6, 1fr); }
  .tile { grid-column: span 2; border-top: 1px solid var(--rule); padding: 14px 18px; }
  .tile:nth-child(-n+2) { grid-column: span 3; border-top: 0; }
  .tile:nth-child(3) { border-left: 0; }
}
@media screen and (max-width: 500px) {
  main { padding: 22px 12px 28px; gap: 12px; }
  .stack, .two-up { gap: 12px; }
  h1 { font-size: 23px; }
  .card { padding: 16px 14px; } .card.tiles { padding: 0; }
  .chart.medium { display: none; } .chart.small { display: block; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile, .tile:nth-child(-n+2) { grid-column: auto; padding: 12px 14px; }
  .tile:nth-child(odd) { border-left: 0; }
  .tile:first-child { grid-column: 1 / -1; }
  .tile:nth-child(2) { border-top: 1px solid var(--rule); }
  .tile:nth-child(even) { border-left: 0; }
  .tile:nth-child(odd):not(:first-child) { border-left: 1px solid var(--rule); }
  .tile .value { font-size: 25px; }
  .verdict { padding: 12px 14px 12px 42px; } .verdict::before { left: 15px; top: 9px; } .warn::before { left: 19px; }
}
@media print {
  @page { margin: 14mm; }
  :root { color-scheme: light; --page: #fff; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 14px; } .note { font-size: 12.5px; }
  main { max-width: none; padding: 0 1px; gap: 14px; }
  .card, .verdict { break-inside: avoid; }
  .card { padding: 12px 16px; } .card.tiles { padding: 0; }
  .tile { padding: 10px; } .tile .name, .tile .more { font-size: 11.5px; }
  .tile .value { font-size: 22px; } .tile .value small { font-size: 14px; }
  .two-up, .stack { gap: 14px; }
  table { font-size: 13px; } th, td { padding-top: 4px; padding-bottom: 4px; }
}
"""
