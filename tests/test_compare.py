"""The command `compare`: two reports, figure by figure, and what makes it fail."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve

from kqnative import compare
from kqnative.load import LoadPlan, run_load
from kqnative.load.result import ERROR_KINDS

ROOT = Path(__file__).parent.parent
Done = subprocess.CompletedProcess[str]


def run(*arguments: str) -> Done:
    """`python -m kqnative compare` to its end."""
    words = [sys.executable, "-m", "kqnative", "compare", *arguments]
    environ = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30)


def check_one_line(done: Done, code: int) -> str:
    """The one line of the standard error with which the command ended."""
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("kqnative: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def times(p50: float | None) -> dict[str, float | None]:
    """Latencies in microseconds around a median."""
    factors = {"min": 0.5, "mean": 1.1, "p50": 1.0, "p90": 2.0, "p99": 4.0, "p99_9": 8.0, "p99_99": 16.0, "max": 32.0}
    return {name: None if p50 is None else p50 * factor for name, factor in factors.items()}


def second(start: float, messages: int = 1_000, p50: float | None = 100.0, **changes: Any) -> dict[str, Any]:
    """One of the measured time's seconds."""
    p99 = None if p50 is None else 4 * p50
    made = {"start": start, "seconds": 1.0, "messages": messages, "sent": messages, "errors": 0}
    return made | {"p50_us": p50, "p99_us": p99} | changes


def made_report(rate: float | None = 1_000.0, p50: float | None = 100.0, **changes: Any) -> dict[str, Any]:
    """A report of 3 seconds whose seconds vary by 10 % to both sides."""
    intervals = (
        []
        if rate is None
        else [
            second(i, int(rate * share), None if p50 is None else p50 * share)
            for i, share in enumerate((0.9, 1.0, 1.1))
        ]
    )
    made = {
        "schema": "kqnative.load/1",
        "settings": {"connections": 50, "rate": None, "message": None, "source": []},
        "seconds": 3.0,
        "messages_per_second": rate,
        "errors": dict.fromkeys((*ERROR_KINDS, "total"), 0),
        "latency_us": times(p50),
        "intervals": intervals,
    }
    return copy.deepcopy(made | changes)


def errors(total: int) -> dict[str, int]:
    """So many errors, of one kind."""
    return {**made_report()["errors"], "reset": total, "total": total}


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Done]:
    """Writes two reports and compares them: compared(old, new, "--force")."""

    def compare_two(old: dict[str, Any], new: dict[str, Any], *arguments: str) -> Done:
        paths = [str(tmp_path / name) for name in ("old.json", "new.json")]
        for path, one in zip(paths, (old, new), strict=True):
            Path(path).write_text(json.dumps(one))
        return run(*paths, *arguments)

    return compare_two


def verdicts(done: Done) -> dict[str, str]:
    """What the table says of each figure."""
    assert done.stderr == ""
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    return {row[0]: row[-1] for row in rows}


def figure(old: dict[str, Any], new: dict[str, Any], name: str) -> compare.Figure:
    """One figure of both reports."""
    return {one.name: one for one in compare.figures_of(old, new)}[name]


# --- Help, usage ---


def test_help_shows_every_option_in_80_columns() -> None:
    """Help goes to the standard output, fits 80 columns, and has each option and two examples."""
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert all(f" {flag} " in done.stdout for flag in ("--help", "--version", "--force", "--fail-if"))
    assert "default: none" in done.stdout
    examples = done.stdout.rpartition("\nexamples:\n")[2].splitlines()
    assert len(examples) == 2
    assert all(line.startswith("  kqnative compare ") for line in examples)
    assert run("-h").stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give two reports, the old one and the new one; see: kqnative compare --help"),
        (("a.json",), "give two reports"),
        (("a.json", "b.json", "c.json"), "give two reports"),
        (("a.json", "b.json", "--forced"), "unrecognized arguments: --forced"),
        (("a.json", "b.json", "--forc"), "unrecognized arguments: --forc"),
        (("/nowhere/a.json", "/nowhere/b.json"), "cannot read /nowhere/a.json: No such file or directory"),
        (("/", "/"), "cannot read /: Is a directory"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(arguments: tuple[str, ...], message: str) -> None:
    """Bad usage, and a file that can't be read, end with 2 and a line that says which."""
    assert message in check_one_line(run(*arguments), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this is not JSON: Expecting value"),
        ("{", "this is not JSON: "),
        ("\udcff", "this is not JSON: "),
        ("[]", "its schema is None, not kqnative.load/1; write it with: kqnative load --json"),
        ("3", "its schema is None, not kqnative.load/1"),
        ("{}", "its schema is None, not kqnative.load/1"),
        ('{"schema": "kqnative.load/2"}', "its schema is 'kqnative.load/2', not kqnative.load/1"),
        ('{"schema": ["kqnative.load/1"]}', "its schema is ['kqnative.load/1'], not kqnative.load/1"),
        ('{"schema": "kqnative.load/1"}', "new.json: "),
        ('{"schema": "kqnative.load/1", "settings": null}', "new.json: "),
        ("[" * 100_000, "this is not JSON: "),
    ],
    ids=lambda text: text[:50],
)
def test_what_is_no_report_is_one_line_and_exit_2(tmp_path: Path, text: str, message: str) -> None:
    """A file that is no whole report of this schema is refused by its name."""
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(made_report()))
    new.write_bytes(text.encode("utf-8", "surrogateescape"))
    for arguments in ((str(old), str(new)), (str(old), str(new), "--force")):
        line = check_one_line(run(*arguments), 2)
        assert f"{new}: " in line
        assert message in line


# --- Better, worse, same ---


def test_equal_reports_are_the_same(compared: Callable[..., Done]) -> None:
    """A report compared with itself has a row for each figure, no change, and exit code 0."""
    done = compared(made_report(), made_report())
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["figure", "old", "new", "change"]
    assert max(map(len, lines)) <= 80
    names = ["rate", "errors", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"]
    assert verdicts(done) == dict.fromkeys(names, "same")
    assert lines[1].split() == ["rate", "1,000/s", "1,000/s", "+0.0", "%", "same"]
    assert lines[5].split() == ["p50", "100", "us", "100", "us", "+0.0", "%", "same"]


def test_change_outside_the_spread_is_better_or_worse(compared: Callable[..., Done]) -> None:
    """More rate and less latency are better, the reverse is worse, each with its change in percent."""
    old, new = made_report(), made_report(rate=2_000.0, p50=50.0)
    done = compared(old, new)
    found = verdicts(done)
    assert found.pop("errors") == "same"
    assert set(found.values()) == {"better"}
    assert ["rate", "1,000/s", "2,000/s", "+100.0", "%", "better"] in [
        line.split() for line in done.stdout.splitlines()
    ]
    done = compared(new, old)
    found = verdicts(done)
    assert found.pop("errors") == "same"
    assert set(found.values()) == {"worse"}
    assert done.returncode == 0
    assert "-50.0 %" in done.stdout
    assert "+100.0 %" in done.stdout


@pytest.mark.parametrize(
    ("rate", "verdict"), [(1_050.0, "same"), (950.0, "same"), (1_099.0, "same"), (1_150.0, "better"), (850.0, "worse")]
)
def test_change_inside_both_spreads_is_none(rate: float, verdict: str) -> None:
    """With seconds that vary by 10 %, a change of less than that is noise."""
    assert figure(made_report(), made_report(rate=rate), "rate").verdict == verdict


@pytest.mark.parametrize(
    ("p50", "verdict"), [(105.0, "same"), (95.0, "same"), (125.0, "worse"), (80.0, "better")], ids=str
)
@pytest.mark.parametrize("name", ["min", "mean", "p50", "p90", "p99", "p99.9", "max"])
def test_latency_varies_as_the_seconds_do(name: str, p50: float, verdict: str) -> None:
    """A latency is the same inside the spread of the seconds' p50 or p99."""
    assert figure(made_report(), made_report(p50=p50), name).verdict == verdict


def test_change_must_lie_inside_both_spreads() -> None:
    """A run that varies much does not excuse a change that the other, steady one would have shown."""
    steady = made_report(intervals=[second(i) for i in range(3)])
    wild = made_report(rate=1_200.0, intervals=[second(0, 600), second(1, 1_200), second(2, 1_800)])
    assert figure(steady, wild, "rate").verdict == "better"
    assert figure(wild, steady, "rate").verdict == "worse"
    assert figure(wild, {**steady, "messages_per_second": 1_200.0}, "rate").verdict == "same"


def test_intervals_after_the_measured_time_do_not_count() -> None:
    """What was answered after the measured time, and the short rest of a second, say nothing of the spread."""
    seconds = [second(i) for i in range(3)]
    awaited = second(3, 1, 5_000.0, seconds=5.0)
    rest = second(3, 1, 5_000.0, seconds=0.2)
    for old in (
        made_report(intervals=[*seconds, awaited]),
        made_report(intervals=[*seconds, rest], seconds=3.2),
    ):
        found = figure(old, made_report(rate=1_050.0, p50=105.0), "rate")
        assert found.old_spread == (1_000.0, 1_000.0)
        assert found.verdict == "better"
        assert figure(old, made_report(p50=105.0), "p99").verdict == "worse"


def test_only_interval_counts_however_short() -> None:
    """A run of less than half a second has the spread of what it has."""
    short = made_report(seconds=0.2, intervals=[second(0, 200, seconds=0.2)])
    assert figure(short, short, "rate").old_spread == (1_000.0, 1_000.0)


def test_second_without_an_answer_is_part_of_the_spread() -> None:
    """A server that stalled for a whole second varied that much."""
    stalled = made_report(intervals=[second(0), second(1), second(2, 0, None)])
    assert figure(stalled, stalled, "rate").old_spread == (0.0, 1_000.0)


def test_errors_have_no_spread() -> None:
    """More errors are worse, less are better, however few."""
    assert figure(made_report(), made_report(errors=errors(1)), "errors").verdict == "worse"
    assert figure(made_report(errors=errors(2)), made_report(errors=errors(1)), "errors").verdict == "better"
    assert figure(made_report(errors=errors(2)), made_report(errors=errors(2)), "errors").verdict == "same"


def test_figures_without_samples_are_dashes(compared: Callable[..., Done]) -> None:
    """What one of the runs did not measure is shown as a dash, and is neither better nor worse."""
    nothing = made_report(rate=None, p50=None, seconds=0.0)
    for old, new in ((made_report(), nothing), (nothing, made_report()), (nothing, nothing)):
        done = compared(old, new)
        assert done.returncode == 0
        found = verdicts(done)
        assert found.pop("errors") == "same"
        assert set(found.values()) == {"-"}


def test_change_from_nothing_has_no_percentage(compared: Callable[..., Done]) -> None:
    """From 0 errors to some there is no change in percent."""
    done = compared(made_report(), made_report(errors=errors(1_234)))
    assert ["errors", "0", "1,234", "-", "worse"] in [line.split() for line in done.stdout.splitlines()]


def test_percentiles_that_both_have_are_compared(compared: Callable[..., Done]) -> None:
    """Of extra percentiles those are shown that both reports have."""
    old, new = made_report(), made_report()
    old["latency_us"] |= {"p75": 150.0, "p99_5": 500.0}
    new["latency_us"] |= {"p99_5": 900.0, "p1": 10.0}
    found = verdicts(compared(old, new))
    assert found["p99.5"] == "worse"
    assert not {"p75", "p1"} & set(found)


# --- Settings ---


def test_different_settings_are_refused_and_named(compared: Callable[..., Done]) -> None:
    """Runs that were asked for different things are not compared: exit 2, and each setting with both values."""
    old, new = made_report(), made_report()
    new["settings"] |= {"connections": 100, "message": "hi", "depth": 2}
    line = check_one_line(compared(old, new), 2)
    assert line == (
        "kqnative: error: the runs had different settings: connections 50 and 100; message None and 'hi';"
        " depth None and 2; to compare all the same: --force\n"
    )


def test_force_compares_all_the_same(compared: Callable[..., Done]) -> None:
    """--force compares runs with different settings."""
    done = compared(made_report(), made_report(settings={"connections": 1}), "--force")
    assert (done.returncode, verdicts(done)["rate"]) == (0, "same")


def test_target_and_time_are_no_settings(compared: Callable[..., Done]) -> None:
    """The same run against another server, at another time, is what one compares."""
    old = made_report(target="a:1", started="2026-11-24T06:10:00Z", version="0.1.0")
    new = made_report(target="b:1", started="2026-11-25T06:10:00Z", version="0.2.0")
    assert compared(old, new).returncode == 0


# --- Conditions ---


@pytest.mark.parametrize(
    ("condition", "old", "new", "is_broken"),
    [
        ("p99 +10%", {"p50": 100.0}, {"p50": 111.0}, True),
        ("p99 +10%", {"p50": 100.0}, {"p50": 109.0}, False),
        ("p99 +10%", {"p50": 100.0}, {"p50": 50.0}, False),
        ("p99.9  + 10 %", {"p50": 100.0}, {"p50": 111.0}, True),
        ("p99_9 +10%", {"p50": 100.0}, {"p50": 111.0}, True),
        ("max +0.5%", {"p50": 100.0}, {"p50": 100.6}, True),
        ("mean +0%", {"p50": 100.0}, {"p50": 100.0}, False),
        ("rate -5%", {"rate": 1_000.0}, {"rate": 940.0}, True),
        ("rate -5%", {"rate": 1_000.0}, {"rate": 960.0}, False),
        ("rate -5%", {"rate": 1_000.0}, {"rate": 2_000.0}, False),
        ("rate +5%", {"rate": 1_000.0}, {"rate": 2_000.0}, True),
        ("errors +0%", {}, {"errors": errors(1)}, True),
        ("errors +0%", {"errors": errors(1)}, {}, False),
        ("errors -10%", {}, {"errors": errors(1)}, False),
        ("p99 +10%", {}, {"p50": None}, True),
        ("rate -5%", {}, {"rate": None}, True),
        ("rate -5%", {"rate": None}, {}, False),
    ],
    ids=str,
)
def test_condition_breaks_by_its_change(
    compared: Callable[..., Done], condition: str, old: dict[str, Any], new: dict[str, Any], is_broken: bool
) -> None:
    """--fail-if ends with 1 and names the condition if the figure changed by more, or can't be said any more."""
    done = compared(made_report(**old), made_report(**new), "--fail-if", condition)
    assert done.returncode == is_broken
    assert done.stderr == (f"kqnative: error: failed condition: {condition}\n" if is_broken else "")
    assert done.stdout.startswith("figure")


def test_each_broken_condition_is_named(compared: Callable[..., Done]) -> None:
    """Of several conditions those that broke have a line each."""
    conditions = ("p99 +10%", "rate -5%", " p50 +50% ", "errors +0%")
    arguments = [word for one in conditions for word in ("--fail-if", one)]
    done = compared(made_report(), made_report(rate=900.0, p50=160.0), *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"kqnative: error: failed condition: {one}" for one in ("p99 +10%", "rate -5%", "p50 +50%")
    ]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "--fail-if: '' is not a figure and its change, as in 'p99 +10%' or 'rate -5%'"),
        ("p99", "--fail-if: 'p99' is not a figure and its change"),
        ("p99 > 5ms", "is not a figure and its change"),
        ("p99 10%", "is not a figure and its change"),
        ("p99 +10", "is not a figure and its change"),
        ("p99 +%", "is not a figure and its change"),
        ("p99 +-10%", "is not a figure and its change"),
        ("+10%", "is not a figure and its change"),
        ("p75 +10%", "--fail-if: 'p75 +10%' names no figure of both reports; there are: rate, errors, min, mean, p50"),
        ("speed -5%", "names no figure of both reports"),
    ],
)
def test_wrong_condition_is_one_line_and_exit_2(compared: Callable[..., Done], condition: str, message: str) -> None:
    """What is no figure and its change is refused before anything is shown."""
    assert message in check_one_line(compared(made_report(), made_report(), "--fail-if", condition), 2)


def test_figure_at_0_in_both_has_not_changed() -> None:
    """0 to 0 is no change, and is the same."""
    found = figure(made_report(), made_report(), "errors")
    assert (found.change, found.verdict) == (0.0, "same")


# --- Real reports ---


def test_reports_of_real_runs_are_compared(serve: Serve, compared: Callable[..., Done]) -> None:
    """Two runs against the same server are compared; with another option they are refused by its name."""
    server = serve("--framing", "line", "--log-rate", "0")

    def report_of(connections: int) -> dict[str, Any]:
        plan = LoadPlan(target=f"127.0.0.1:{server.port}", connections=connections, duration=0.2, warmup=0)
        return run_load(plan).to_json()

    first = report_of(2)
    done = compared(first, report_of(2), "--fail-if", "errors +0%")
    assert done.returncode == 0
    assert set(verdicts(done).values()) <= {"better", "worse", "same"}
    assert "different settings: connections 2 and 3;" in check_one_line(compared(first, report_of(3)), 2)


def test_searches_with_different_results_can_be_compared(compared: Callable[..., Done]) -> None:
    """Two searches for the highest rate had the same settings, although each found another rate."""
    old, new = made_report(), made_report(rate=2_000.0)
    for one, rate in ((old, 1_000.0), (new, 2_000.0)):
        one["settings"]["rate"] = one["requested_rate"] = rate
        one["probes"] = [{"rate": rate, "held": True}]
    assert verdicts(compared(old, new))["rate"] == "better"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_full_standard_output_is_exit_1(tmp_path: Path, unbuffered: str) -> None:
    """A table that could not be written is a failure, in one line."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps(made_report()))
    words = [sys.executable, "-m", "kqnative", "compare", str(path), str(path)]
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, cwd=ROOT, env=environ, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr == "kqnative: error: cannot write to the standard output: No space left on device\n"
