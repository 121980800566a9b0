"""The pictures of docs/performance.md: the same figures give the same bytes."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from judge import Outcome
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = "#0072B2"  # of a palette that the colour-blind can tell apart; here the lightness alone does
BARE = "#4D4D4D"
OTHERS = "#A9B7C0"
STYLE = {
    "svg.hashsalt": "kqnative",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.facecolor": "white",
}
PICTURES = {  # file, what all are compared with, and the scenarios with their short titles
    "performance-echo": (
        "bare_c",
        {
            "echo_1": "1 connection",
            "echo_50": "50 connections",
            "echo_1000": "1,000 connections",
            "echo_10000": "10,000 connections",
            "churn": "one message each",
        },
    ),
    "performance-framing": (
        "bare_c",
        {"lines_16": "lines, depth 16", "lines_128": "lines, depth 128", "u32_16k": "16 KiB", "u32_1m": "1 MiB"},
    ),
    "performance-function": ("uvloop", {"hook_1": "depth 1", "hook_16": "depth 16", "hook_128": "depth 128"}),
}
LEFT_OUT = ("kqnative-nolog", "kqnative-default")  # they would stand beside kqnative and hardly differ


def draw(outcomes: dict[str, Outcome], folder: Path) -> Iterator[Path]:
    """Those whose scenarios were measured."""
    for name, (reference, titles) in PICTURES.items():
        panels = {title: outcomes[key] for key, title in titles.items() if key in outcomes}
        panels = {title: outcome for title, outcome in panels.items() if outcome.rounds.get(reference)}
        if panels:
            with rc_context(STYLE):
                yield bars(folder / f"{name}.svg", reference, panels)


def bars(path: Path, reference: str, panels: dict[str, Outcome]) -> Path:
    """A panel for each scenario: how fast each server was, in rates of the reference, with the rounds' spread."""
    servers = list(dict.fromkeys(one for outcome in panels.values() for one in outcome.rounds if shown(one)))
    figure = Figure(figsize=(10, 0.9 + 0.26 * len(servers)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, outcome) in zip(axes, panels.items(), strict=True):
        panel(axis, servers, reference, outcome)
        axis.set_title(title)
    highest = max(max(all_ratios(outcome, servers, reference)) for outcome in panels.values())
    axes[0].set_xlim(0, 1.25 * highest)  # with room for the numbers
    axes[0].set_yticks(range(len(servers)), servers)
    axes[0].invert_yaxis()
    for label in axes[0].get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("kqnative") else "normal")
    figure.supxlabel(f"rate, where {reference}'s is 1: median of the rounds' ratios, and their spread", fontsize=9)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path


def shown(server: str) -> bool:
    return server not in LEFT_OUT and not server.endswith((" again", " echo"))


def panel(axis: Axes, servers: list[str], reference: str, outcome: Outcome) -> None:
    axis.axvline(1, color=BARE, linewidth=0.8, zorder=0)
    for place, server in enumerate(servers):
        ratios = outcome.ratios(server, reference)
        if not ratios:
            axis.text(0.02, place, "-", va="center", color=BARE)
            continue
        median = statistics.median(ratios)
        colour = OURS if server.startswith("kqnative") else BARE if server == "bare_c" else OTHERS
        axis.barh(place, median, height=0.7, color=colour, zorder=1)
        if server != reference:
            axis.plot([min(ratios), max(ratios)], [place, place], color="black", linewidth=1, zorder=2)
        axis.text(max(median, *ratios) + 0.02, place, f"{median:.2f}", va="center", fontsize=8)
    axis.tick_params(left=False)


def all_ratios(outcome: Outcome, servers: list[str], reference: str) -> list[float]:
    return [ratio for server in servers for ratio in outcome.ratios(server, reference)]
