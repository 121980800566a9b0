"""The load tester's --html page: what it says of a report, and that it needs nothing but itself."""

import re
import sys
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from kqnative import ConfigError
from kqnative.load import html

CURVE = [(0.0, 25.0), (50.0, 63.2), (90.0, 101.0), (99.0, 196.0), (99.9, 569.0), (99.99, 1390.0), (100.0, 2528.0)]
NAMES = ("min", "mean", "p50", "p90", "p99", "p99_9", "p99_99", "max")
FETCHING = {"script", "link", "img", "image", "iframe", "object", "embed", "base", "form", "use", "a", "audio", "video"}
EVIL = """<b>bold</b> & "double" 'single' http://example.com/ </script><script>alert(1)</script>"""


@pytest.fixture(autouse=True)
def _without_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python 3.11: pygal 3.1 adds an old finder, with which each later import that fails is a warning, so an error here.
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))


def times(p50: float | None) -> dict[str, float | None]:
    factors = (0.4, 1.13, 1.0, 1.6, 3.1, 9.0, 22.0, 40.0)
    return {name: None if p50 is None else p50 * factor for name, factor in zip(NAMES, factors, strict=True)}


def interval(start: int, **changes: Any) -> dict[str, Any]:
    one = {"start": float(start), "seconds": 1.0, "messages": 20_000, "sent": 20_000, "errors": 0}
    return one | {"p50_us": 61.0, "p99_us": 200.0} | changes


def probe(rate: float, held: bool, p50: float | None = 50.0) -> dict[str, Any]:
    answered = None if p50 is None else rate
    return {
        "rate": rate,
        "messages_per_second": answered,
        "latency_us": times(p50),
        "errors": {"total": 0},
        "valid": True,
        "held": held,
    }


def report(**changes: Any) -> dict[str, Any]:
    whole = {
        "schema": "kqnative.load/1",
        "version": "0.1.0",
        "started": "2026-11-24T06:10:00Z",
        "target": "localhost [127.0.0.1]:8080",
        "settings": {"connections": 50, "rate": 20_000.0, "message": None, "source": []},
        "mode": "open",
        "seconds": 30.0,
        "messages": 599_997,
        "sent": 600_000,
        "unsent": 0,
        "warmup_messages": 20_000,
        "messages_per_second": 19_999.9,
        "requested_rate": 20_000.0,
        "bytes_sent": 38_400_000,
        "bytes_received": 43_200_000,
        "connections": 50,
        "reconnects": 3,
        "errors": {"refused": 0, "wrong_answer": 0, "total": 0},
        "other_errors": {},
        "wrong_answers": [],
        "latency_us": times(63.2),
        "service_us": times(48.1),
        "connect_us": times(120.0),
        "late": {"share": 0.0004, "max_us": 1650.0},
        "valid": True,
        "invalid_because": None,
        "interrupted": False,
        "ended_because": None,
        "failed_conditions": [],
        "intervals": [interval(i) for i in range(30)],
        "probes": None,
    }
    return whole | changes


def empty_report() -> dict[str, Any]:
    none = {"latency_us": times(None), "service_us": times(None), "connect_us": times(None), "intervals": []}
    return report(
        messages=0, sent=0, messages_per_second=None, requested_rate=None, seconds=0.0, late={"share": None}, **none
    )


class Page(HTMLParser):
    """A page as a browser takes it in: its tags with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._pieces: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self._pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._pieces).split())

    def charts(self, title: str) -> list[ElementTree.Element]:
        """A chart in all its sizes."""
        found = re.findall(r'<svg class="chart.*?</svg>', self.source, re.DOTALL)
        return [svg for svg in map(ElementTree.fromstring, found) if svg.get("aria-label") == title]

    def lines(self, title: str, size: int = 0) -> list[ElementTree.Element]:
        """The lines of a chart's series."""
        series = [one for one in self.charts(title)[size].iter("g") if one.get("class") in {"one", "two", "path"}]
        return [path for one in series for path in one.iter("path") if path.get("class") == "line"]

    def words_in(self, title: str) -> list[str]:
        """What is written in the largest size of a chart."""
        return [text.text or "" for text in self.charts(title)[0].iter("text")]


def page(whole: dict[str, Any], curve: list[tuple[float, float]] = CURVE) -> Page:
    service = [(at, us * 0.8) for at, us in curve] if whole["mode"] == "open" else []
    return Page(html.page(whole, curve, service))


def test_page_runs_nothing_and_fetches_nothing() -> None:
    """No script, no handler, no address and no style import: the file is all that a browser needs."""
    shown = page(report(probes=[probe(1_000.0, True), probe(2_000.0, False)], errors={"reset": 3, "total": 3}))
    names = {name for _, attributes in shown.tags for name in attributes}
    assert not FETCHING & {tag for tag, _ in shown.tags}
    assert not [name for name in names if name.startswith("on") or "href" in name or name in {"src", "style"}]
    assert not re.search(r"://|@import|url\(|javascript:", shown.source)


def test_each_chart_is_xml_with_a_line_in_every_size() -> None:
    """Three charts of an open loop, in three sizes each, that an XML parser reads; all draw their two lines."""
    shown = page(report())
    for title in ("Latency by percentile", "Throughput over time", "Latency over time"):
        sizes = [svg.get("class") for svg in shown.charts(title)]
        assert sizes == ["chart large", "chart medium", "chart small"]
        assert [len(shown.lines(title, size)) for size in range(3)] == [2, 2, 2]


def test_percentiles_stand_on_a_scale_of_nines() -> None:
    """The labels are 0, 50, 90, 99, 99.9 and 99.99, the last four equally far apart."""
    svg = page(report()).charts("Latency by percentile")[0]
    places = {text.text: float(text.get("x", "")) for text in svg.iter("text")}
    assert {"0", "50", "90", "99", "99.9", "99.99"} <= places.keys()
    steps = [places["99"] - places["90"], places["99.9"] - places["99"], places["99.99"] - places["99.9"]]
    assert max(steps) - min(steps) < 0.5


def test_an_hour_of_intervals_is_thinned_and_keeps_its_peak() -> None:
    """3,600 intervals make a page below 1 MB, which says that it merged them and shows the one slow second."""
    intervals = [interval(i, p99_us=9_000.0 if i == 1_500 else 200.0 + i % 40, errors=i % 7 == 0) for i in range(3_600)]
    curve = [(100 * (1 - 10 ** (-i / 4_000)), 30.0 + i) for i in range(20_000)]
    shown = page(report(intervals=intervals, seconds=3_600.0), curve)
    assert len(shown.source.encode()) < 1_000_000
    assert "Each point is the mean of 12 intervals." in shown.text
    assert "Each point merges 12 intervals: the largest p99, and the mean p50." in shown.text
    assert "10\u00a0ms" in shown.words_in("Latency over time")


def test_texts_of_a_report_are_text_on_the_page() -> None:
    """Markup in the target, a setting, a reason or a condition is shown as it is, and adds no tag."""
    settings = {"message": EVIL, "<i>key</i>": EVIL, "source": [EVIL]}
    facts = {"target": EVIL, "settings": settings, "started": EVIL, "failed_conditions": [EVIL], "ended_because": EVIL}
    shown = page(report(valid=False, invalid_because=EVIL, **facts))
    plain = page(report(valid=False, invalid_because="x", failed_conditions=["x"], ended_because="x"))
    assert {tag for tag, _ in shown.tags} == {tag for tag, _ in plain.tags} - {"time"}
    assert shown.text.count(EVIL) == 9  # the title and the heading both name the target
    assert "<i>key</i>" in shown.text


def test_a_message_of_any_bytes_and_size_is_shown_in_short() -> None:
    """What UTF-8 or a reader cannot take is escaped, and a long message ends with its length."""
    shown = page(report(settings={"message": "\x00\udcff" + "A" * 1_000_000}))
    assert r"\x00\xff" + "A" * 198 + "… (1,000,002 characters)" in shown.text
    assert len(shown.source.encode()) < 200_000


def test_a_run_without_an_answer_has_sentences_for_charts() -> None:
    """No chart, a sentence in the place of each, dashes for figures, and the verdict says why."""
    shown = page(empty_report() | {"ended_because": "no connection was open for 5 s"}, [])
    assert "<svg" not in shown.source
    assert shown.text.count("No latency was measured.") == 2
    assert "No interval was measured." in shown.text
    assert "Failed: no connection was open for 5 s No figures: nothing was answered." in shown.text
    assert "messages/s \N{EN DASH} p50 \N{EN DASH} p99 \N{EN DASH} max \N{EN DASH} errors 0" in shown.text
    assert "late by the tester's own fault: \N{EN DASH}" in shown.text
    assert "None" not in shown.text


def test_intervals_without_an_answer_leave_a_gap() -> None:
    """A stall breaks each line of latency in two, and the throughput falls to 0."""
    stall = {"messages": 0, "p50_us": None, "p99_us": None}
    shown = page(report(intervals=[interval(i, **(stall if 10 <= i < 15 else {})) for i in range(30)]))
    assert len(shown.lines("Latency over time")) == 4
    assert "12.5 s: 0 messages/s" in shown.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Valid and complete: the run reached its end, and no condition failed."),
        ({"valid": False, "invalid_because": "3 % were late"}, "Not valid because 3 % were late"),
        ({"ended_because": "the server is gone"}, "Failed: the server is gone Valid for what was measured."),
        ({"interrupted": True}, "Interrupted: the figures are of what was measured until then."),
        ({"failed_conditions": ["p99 < 1ms: it was 2 ms", "errors = 0"]}, "Condition failed: p99 < 1ms: it was 2 ms"),
    ],
    ids=["valid", "not valid", "ended", "interrupted", "failed conditions"],
)
def test_verdict_is_in_words(changes: dict[str, Any], words: str) -> None:
    """What became of the run stands under the heading, in a sentence."""
    shown = page(report(**changes))
    assert words in shown.text
    assert ("Valid and complete" in shown.text) == (not changes)


def test_walked_rates_are_drawn_for_a_search_only() -> None:
    """The chart of rates is there with probes alone; what held and what did not have marks of their own."""
    title = "Latency by throughput"
    assert title not in page(report()).text
    probes = [probe(1_000.0, True), probe(4_000.0, False), probe(2_000.0, True), probe(8_000.0, False, None)]
    shown = page(report(probes=probes))
    groups = [group for group in shown.charts(title)[0].iter("g") if group.get("class") in {"one", "fault"}]
    dots = {group.get("class"): len(list(group.iter("title"))) for group in groups}
    assert dots == {"one": 2, "fault": 1}
    assert "The highest rate held: 2,000 messages/s. Not drawn, as nothing was answered: 1 rate." in shown.text


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("open", "Response time counts from the moment a message was due; service time from the moment it was sent."),
        ("closed", "A closed loop sends only after an answer, so it cannot see stalls in full."),
    ],
    ids=["open", "closed"],
)
def test_page_says_what_its_times_mean(mode: str, words: str) -> None:
    """One sentence for the kind of loop; only an open loop has a curve of service time."""
    shown = page(report(mode=mode))
    assert words in shown.text
    assert ("service time" in "".join(re.findall(r'class="keys".*?</div>', shown.source))) == (mode == "open")


def test_times_have_the_unit_that_suits_them() -> None:
    """Three digits in µs, ms or s, also where rounding reaches the next unit."""
    latency = dict(zip(NAMES, (0.0, 9.876, 63.2, 999.6, 1_390.4, 999_700.0, 2_528_000.0, 1.5e9), strict=True))
    cells = re.findall(r"<td>(.*?)</td>", page(report(latency_us=latency)).source)[: 3 * len(NAMES) : 3]
    assert [cell.replace("\u00a0", " ") for cell in cells] == [
        "0 µs",
        "9.88 µs",
        "63.2 µs",
        "1 ms",
        "1.39 ms",
        "1 s",
        "2.53 s",
        "1,500 s",
    ]


def test_table_has_the_percentiles_of_the_report() -> None:
    """A percentile that was asked for has its row, and a dash where it was not measured."""
    latency = times(63.2) | {"p99_999": 2_000.0}
    assert "p99.999 2 ms \N{EN DASH} \N{EN DASH}" in page(report(latency_us=latency)).text


def test_wrong_answers_and_errnos_are_shown() -> None:
    """Examples of wrong answers stand beside what was expected, escaped, and errors of no kind with their errno."""
    examples = [
        {"connection": 1, "expected": "<b>", "got": "no"},
        {"connection": 2, "expected": None, "got": "too many"},
    ]
    shown = page(report(wrong_answers=examples, other_errors={"EHOSTUNREACH": 2}))
    assert "no <b> too many nothing: no message was in flight" in shown.text
    assert "other: EHOSTUNREACH 2" in shown.text


@pytest.mark.parametrize(
    ("late", "words"),
    [
        ({"share": 0.0004, "max_us": 1_650.0}, "0.04 % of the messages; the latest by 1.65 ms."),
        ({"share": 0.0, "max_us": 12.0}, "0 % of the messages; the latest by 12 µs."),
        ({"share": 0.000001, "max_us": 1_200.0}, "under 0.001 % of the messages; the latest by 1.2 ms."),
    ],
    ids=["some", "none", "hardly any"],
)
def test_late_share_is_told(late: dict[str, float], words: str) -> None:
    """How many messages the tester itself sent late, and how late at most."""
    assert f"Sent over 1 ms late by the tester's own fault: {words}" in page(report(late=late)).text


def test_errors_are_named_and_marked() -> None:
    """Kinds that are not 0 make the table, and each interval with errors has a cross that says how many."""
    intervals = [interval(i, errors=3 if i == 17 else 0) for i in range(30)]
    shown = page(report(errors={"refused": 0, "wrong_answer": 3, "total": 3}, intervals=intervals))
    assert "wrong answer 3" in shown.text
    assert "refused" not in shown.text
    assert "17.5 s: 3 errors" in shown.text
    assert "No errors." in page(report()).text


def test_dark_colours_stay_on_the_screen() -> None:
    """A reader's dark scheme changes the screen and never the paper."""
    assert "@media screen and (prefers-color-scheme: dark)" in page(report()).source


def test_missing_chart_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pygal the page is refused with the command that installs it."""
    html.require()
    monkeypatch.setitem(sys.modules, "pygal", None)
    with pytest.raises(ConfigError) as caught:
        html.require()
    assert str(caught.value) == "--html needs charts: install them with: pip install 'kqnative[report]'"
