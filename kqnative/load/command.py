"""kqnative load: options, signals, what is shown and written, and the exit code around one run or a search."""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
import signal
import sys
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from kqnative import cli
from kqnative.errors import ConfigError, KqnativeError
from kqnative.load import conditions
from kqnative.load.conditions import Condition
from kqnative.load.hdr import HdrLog
from kqnative.load.plan import DEFAULTS, GROUPS, OPTIONS, LoadPlan
from kqnative.load.result import PERCENTILES, LoadResult, Probe
from kqnative.load.run import Run, Watcher
from kqnative.load.search import PROBE_S, Search
from kqnative.options import add_to_parser, flag, shown

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
CURVE_POINTS_PER_DECADE = 25

USAGE = "kqnative load [options] HOST:PORT|[V6]:PORT|tcp://HOST:PORT|unix:PATH"
DESCRIPTION = "Sends messages to a TCP server that answers them, and measures how it does that."
EPILOG = """\
Times: us ms s m h, a bare number is seconds. Sizes: k M G are 1,024-based.
Counts and rates: k M are 1,000-based.

exit codes:
  0    done
  1    a condition of --fail-if broke, an answer was not as --expect says, or
       nobody answered
  2    bad usage; nothing was sent
  130  interrupted, after the report

examples:
  kqnative load localhost:8080 -c 100 -d 10s --expect 'system: {message}'
  kqnative load localhost:8080 -R 20k --fail-if 'p99 > 5ms' --json report.json
"""
GROUP_TITLES = {
    "load": "how much is sent, and when",
    "messages": "what a message is, and its answer",
    "connections": "how connections come and go",
    "advanced": "how the loops work",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be done with a run beside running it."""

    fail_if: list[Condition] = field(default_factory=list)
    find_rate: Condition | None = None
    percentiles: tuple[float, ...] = PERCENTILES
    json: str | None = None
    hdr: str | None = None
    html: str | None = None
    quiet: bool = False


def main(arguments: list[str]) -> int:
    """Runs the load tester; the exit code."""
    options = _parser().understand(arguments)
    if isinstance(options, int):
        return options
    try:
        plan, wishes = _understood(options)
        return _Job(plan, wishes).run()
    except KqnativeError as error:
        return cli.complain(str(error), cli.USAGE if isinstance(error, ConfigError) else cli.FAILED)


class _Job:
    """One command: its runs, its signals, and what it leaves behind."""

    def __init__(self, plan: LoadPlan, wishes: Wishes) -> None:
        self._plan = plan
        self._wishes = wishes
        self._run: Run | None = None  # the one that runs
        self._finding: Search | None = None
        self._is_interrupted = False
        self._hdr = ""  # of the run that is reported

    @functools.cached_property
    def _err(self) -> "Console":
        from rich.console import Console

        return Console(stderr=True, emoji=False)

    def run(self) -> int:
        """Runs, writes the files, prints the report; the exit code."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            result = self._search() if self._wishes.find_rate else self._one(self._plan)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        result = dataclasses.replace(result, failed_conditions=conditions.failed(self._wishes.fail_if, result))
        code = self._write_files(result)
        if not self._wishes.quiet:
            code = max(code, self._print(result))
        return INTERRUPTED if result.interrupted else max(code, self._verdict(result))

    def _one(self, plan: LoadPlan) -> LoadResult:
        """One run, with a live line where somebody can see it."""
        run = Run(plan, percentiles=self._wishes.percentiles)
        log = HdrLog()
        watchers: list[Watcher] = [log] if self._wishes.hdr else []
        try:
            self._run = run
            if self._is_interrupted:
                raise KeyboardInterrupt
            if not self._wishes.quiet and self._err.is_terminal:
                from kqnative.load.live import LiveLine

                with LiveLine(self._err, plan) as line:
                    result = run.run(_all([*watchers, line]))
            else:
                result = run.run(_all(watchers))
        except KeyboardInterrupt:
            result = run.unbegun()
        self._run = None
        self._hdr = log.text() if self._wishes.hdr else ""
        return result

    def _search(self) -> LoadResult:
        """Runs at many rates; the result of the best that held, else of the first."""
        from kqnative.load import report

        assert self._wishes.find_rate is not None
        search = self._finding = Search(self._wishes.find_rate)
        duration = PROBE_S if self._plan.duration is None else self._plan.duration
        logs: dict[float, str] = {}

        def probe(rate: float) -> LoadResult:
            result = self._one(dataclasses.replace(self._plan, rate=rate, duration=duration))
            logs[rate] = self._hdr
            return result

        def said(one: Probe) -> None:
            if not self._wishes.quiet:
                self._err.print(report.probe_line(one), highlight=False, markup=False)

        search.run(probe, said)
        assert search.first is not None
        result = search.best or search.first
        self._hdr = logs[result.requested_rate or 0.0]
        ended_because = search.ended_because
        if search.best is None and ended_because is None and not self._is_interrupted:
            ended_because = (
                f"'{self._wishes.find_rate.text.strip()}' does not hold at {report.show_rate(search.probes[0].rate)}"
            )
        return dataclasses.replace(
            result,
            probes=search.probes,
            ended_because=None if search.best else ended_because,
            interrupted=self._is_interrupted,
        )

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ends the run early. The next one ends the process at once, as if we had never been asked."""
        del number, frame
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._is_interrupted = True
        if self._finding is not None:
            self._finding.is_stopped = True
        if self._run is None:
            return  # before a run: that will not begin
        if not self._run.has_begun:
            raise KeyboardInterrupt
        self._run.stop()

    def _write_files(self, result: LoadResult) -> int:
        """DONE, or FAILED when one could not be written."""
        report = result.to_json()
        code = cli.DONE
        if self._wishes.json == "-":
            code = cli.say(json.dumps(report, indent=2) + "\n")
        elif self._wishes.json:
            code = max(code, _write(self._wishes.json, json.dumps(report, indent=2) + "\n"))
        if self._wishes.hdr:
            code = max(code, _write(self._wishes.hdr, self._hdr))
        if self._wishes.html:
            from kqnative.load import html

            page = html.page(report, curve(result.latency), curve(result.service))
            code = max(code, _write(self._wishes.html, page))
        return code

    def _print(self, result: LoadResult) -> int:
        """The report, to the standard output unless that has the JSON."""
        from rich.console import Console

        from kqnative.load import report

        to_error = self._wishes.json == "-"
        target = self._err if to_error else Console()
        unicode = target.encoding.startswith("utf")
        text = report.drawn(target, lambda console: report.print_report(console, result, unicode=unicode))
        if not to_error:
            return cli.say(text)
        with contextlib.suppress(OSError):  # nobody reads it; the JSON and the exit code say it too
            sys.stderr.write(text)
        return cli.DONE

    def _verdict(self, result: LoadResult) -> int:
        """FAILED, with the reasons where no report has said them, or DONE."""
        reasons = [f"failed condition: {one}" for one in result.failed_conditions]
        if result.ended_because:
            reasons.append(result.ended_because)
        if result.errors["wrong_answer"]:
            reasons.append(f"{result.errors['wrong_answer']:,} wrong answers")
        if not reasons:
            return cli.DONE
        return cli.complain("; ".join(reasons), cli.FAILED) if self._wishes.quiet else cli.FAILED


def curve(histogram: Any) -> list[tuple[float, float]]:
    """(percentile, microseconds), closer and closer to 100, as far as there are samples to tell them apart."""
    points = []
    step = 0
    while len(histogram) and (rest := 10 ** (-step / CURVE_POINTS_PER_DECADE)) * len(histogram) >= 1:
        percent = 100 * (1 - rest)
        points.append((percent, histogram.percentile_us(percent)))
        step += 1
    return points


def _all(watchers: list[Watcher]) -> Watcher:
    def watch(progress: Any, new: Any) -> None:
        for one in watchers:
            one(progress, new)

    return watch


def _write(path: str, text: str) -> int:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        return cli.complain(f"cannot write {path}: {error.strerror}", cli.FAILED)
    return cli.DONE


# --- Options ---


def _parser() -> cli.Parser:
    parser = cli.Parser("load", usage=USAGE, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("target", nargs="?", help="where to connect")
    for group in GROUPS:
        ours = parser.add_argument_group(group, GROUP_TITLES[group])
        add_to_parser(ours, OPTIONS, DEFAULTS, group)
        if group == "connections":
            ours.add_argument(
                "--source",
                action="append",
                metavar="ADDRESS",
                help="connect from this address of this machine; given again: each in turn (default: the system's"
                " choice)",
            )
    _add_report_options(parser)
    return parser


def _add_report_options(parser: cli.Parser) -> None:
    report = parser.add_argument_group("report", "what comes out")
    report.add_argument(
        "--fail-if",
        action="append",
        metavar="CONDITION",
        help="exit with 1 if this holds: 'p99 > 5ms', 'errors > 0.1%%' (of those sent), 'rate < 45k', 'not valid';"
        f" figures: {conditions.NAMES} (default: none; repeatable)",
    )
    report.add_argument(
        "--find-rate",
        metavar="CONDITION",
        help="find the highest --rate at which this holds, with runs of --duration (3 s) each (default: none)",
    )
    wanted = ",".join(f"{one:g}" for one in PERCENTILES)
    report.add_argument("--percentiles", metavar="LIST", help=f"percentiles to show (default: {wanted})")
    report.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - is the standard output (default: none)"
    )
    report.add_argument(
        "--html", metavar="FILE", help="write a page with charts; needs kqnative[report] (default: none)"
    )
    report.add_argument("--hdr", metavar="FILE", help="write an HdrHistogram interval log (default: none)")
    report.add_argument("--quiet", action="store_true", help="show neither progress nor report")


def _understood(options: dict[str, Any]) -> tuple[LoadPlan, Wishes]:
    """The plan and the wishes that the options say. Raises ConfigError."""
    target = options["target"]
    if target is None:
        raise ConfigError(
            "say what to load: HOST:PORT, [V6]:PORT, tcp://HOST:PORT or unix:PATH; see: kqnative load --help"
        )
    fields = {
        name: one.parse(options[name], label=f"{one.short}/{flag(name)}" if one.short else flag(name))
        for name, one in OPTIONS.items()
        if options[name] is not None
    }
    find_rate = options["find_rate"]
    if find_rate is not None:
        for rival in ("rate", "messages"):
            if rival in fields:
                raise ConfigError(f"--find-rate and {flag(rival)} cannot both act: leave one of them out")
        if "think_time" in fields:
            raise ConfigError("--find-rate and --think-time cannot both act: leave one of them out")
    if fields.get("arrivals", "uniform") != "uniform" and find_rate is not None:
        fields["rate"] = 1.0  # so that the plan can be checked; each probe has its own
    plan = LoadPlan(target=target, source=tuple(options["source"] or ()), **fields)
    wishes = Wishes(
        fail_if=[conditions.parse(one, "--fail-if") for one in options["fail_if"] or ()],
        find_rate=None if find_rate is None else _comparison(find_rate),
        percentiles=_percentiles(options["percentiles"]),
        json=options["json"],
        hdr=options["hdr"],
        html=options["html"],
        quiet=options["quiet"],
    )
    _check_files(wishes)
    return plan, wishes


def _comparison(text: str) -> Condition:
    condition = conditions.parse(text, "--find-rate")
    if condition.figure == "valid":
        raise ConfigError("--find-rate: give a figure and its bound, as in 'p99 < 5ms'")
    return condition


def _percentiles(text: str | None) -> tuple[float, ...]:
    if text is None:
        return PERCENTILES
    parts = [one.strip() for one in text.split(",")]
    for one in parts:
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", one) or not 0 < float(one) <= 100:
            raise ConfigError(f"--percentiles: {shown(one)} is not a number above 0, up to 100; give some: 50,95,99.9")
    return tuple(sorted({float(one) for one in parts}))


def _check_files(wishes: Wishes) -> None:
    """Finds out before anything is sent what could not be written at the end."""
    if wishes.html is not None:
        from kqnative.load import html

        html.require()
    paths = {"--json": wishes.json, "--hdr": wishes.hdr, "--html": wishes.html}
    for (one, path), (other, same) in itertools.combinations(paths.items(), 2):
        if path is not None and path == same:
            raise ConfigError(f"{one} and {other} cannot both write {path}: give one of them another file")
    for path in paths.values():
        if path is None or (path == "-" and path == wishes.json):
            continue
        try:
            with open(path, "a", encoding="utf-8"):
                pass
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
