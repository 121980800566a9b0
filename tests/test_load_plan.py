"""The load tester's Python side: plans, messages, targets, conditions, the search, and how figures read."""

import dataclasses
import itertools
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve
from hypothesis import given
from hypothesis import strategies as st

from kqnative import ConfigError, options
from kqnative.load import LoadPlan, LoadResult, conditions, limits, payload, plan, report, result, run_load, target
from kqnative.load.engine import Histogram
from kqnative.load.search import MOST_PROBES, PRECISION, Search

TARGET = "127.0.0.1:1"
MS = 1_000_000  # nanoseconds
ROOT = Path(__file__).parent.parent


def planned(**fields: Any) -> LoadPlan:
    """A plan that is never run."""
    return LoadPlan(**{"target": TARGET, **fields})


def bodies(**fields: Any) -> tuple[bytes, ...]:
    """The messages of a plan without fields in them, in their turn, without their framing."""
    return planned(**fields)._bodies.fixed


def histogram(*durations_ns: int) -> Histogram:
    """These durations, recorded."""
    made = Histogram()
    for one in durations_ns:
        made.record(one)
    return made


def made_result(latencies_ns: tuple[int, ...] = (), total_errors: int = 0, **fields: Any) -> LoadResult:
    """What a run might have come to."""
    known: dict[str, Any] = {"target": TARGET, "settings": {}, "started": "2026-11-24T06:10:00Z", "mode": "closed"}
    made = LoadResult(**{**known, "latency": histogram(*latencies_ns), **fields})
    made.errors["total"] = made.errors["other"] = total_errors
    return made


# --- Defaults, ranges, types ---


@pytest.mark.parametrize(
    ("fields", "duration_s", "warmup_s"),
    [
        ({}, 10.0, 1.0),
        ({"messages": 5}, None, 0.0),
        ({"duration": 3}, 3.0, 1.0),
        ({"messages": 5, "duration": 3}, 3.0, 1.0),
        ({"warmup": 0}, 10.0, 0.0),
        ({"messages": 5, "warmup": 2}, None, 2.0),
        ({"rate": 100}, 10.0, 1.0),
    ],
    ids=str,
)
def test_defaults_of_duration_and_warmup_depend_on_messages(
    fields: dict[str, Any], duration_s: float | None, warmup_s: float
) -> None:
    """10 s are measured after 1 s of warm-up, unless a number of messages is the end: that has neither."""
    made = planned(**fields)
    assert (made.duration_in_force, made.warmup_in_force) == (duration_s, warmup_s)
    assert (made.settings()["duration"], made.settings()["warmup"]) == (duration_s, warmup_s)


def test_defaults_are_those_that_the_issue_names() -> None:
    """50 connections, 1 message in flight, 5 s of patience, line framing, closed loop, one loop."""
    made = planned()
    assert (made.connections, made.depth, made.loops) == (50, 1, 1)
    assert (made.timeout, made.connect_timeout) == (5.0, 5.0)
    assert (made.framing, made.rate, made.arrivals, made.expect) == ("line", None, "uniform", None)


def test_every_option_is_described_and_its_default_allowed() -> None:
    """Each option has a group that help shows, a text, and a default that its own check takes."""
    for name, option in plan.OPTIONS.items():
        assert option.group in plan.GROUPS
        assert option.help, name
        assert option.check(plan.DEFAULTS[name], label=name) == plan.DEFAULTS[name]
        assert option.show(plan.DEFAULTS[name]), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", 8080),
        ("connections", 0),
        ("connections", (1 << 24) + 1),
        ("connections", True),
        ("connections", 5.0),
        ("connections", "5"),
        ("connections", None),
        ("connections", 10**5_000),
        ("duration", 0),
        ("duration", 0.0001),
        ("duration", 24 * 3600 + 1),
        ("duration", "1s"),
        ("duration", float("nan")),
        ("duration", float("inf")),
        ("messages", 0),
        ("messages", -1),
        ("messages", 10**15 + 1),
        ("messages", 1.0),
        ("depth", 0),
        ("depth", 65_537),
        ("rate", 0),
        ("rate", -1.0),
        ("rate", 2e8),
        ("rate", float("nan")),
        ("arrivals", "random"),
        ("warmup", -0.1),
        ("warmup", float("inf")),
        ("timeout", 0),
        ("timeout", None),
        ("connect_timeout", 0),
        ("connect_timeout", 90_000),
        ("framing", "lines"),
        ("framing", ""),
        ("message", 5),
        ("message", "\ud800"),
        ("size", 0),
        ("size", (1 << 30) + 1),
        ("size", 1.5),
        ("message_file", ""),
        ("message_file", "a\0b"),
        ("expect", b"x"),
        ("expect", "\udcff"),
        ("reply_size", 0),
        ("connect_rate", 0),
        ("connect_rate", 1e7),
        ("think_time", 0),
        ("think_time", False),
        ("reconnect_every", 0),
        ("reconnect_every", 1 << 40),
        ("loops", 0),
        ("loops", 257),
        ("poller", "iocp"),
    ],
    ids=lambda value: options.shown(value)[:20],
)
def test_wrong_value_is_an_error_that_names_the_field(field: str, value: object) -> None:
    """A wrong type or a value out of range raises ConfigError, one short line that names the field."""
    with pytest.raises(ConfigError, match=rf"^{field}: ") as caught:
        planned(**{field: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("connections", 1),
        ("duration", 0.001),
        ("duration", 86_400),
        ("messages", 10**15),
        ("depth", 65_536),
        ("rate", 0.001),
        ("rate", 100_000_000),
        ("warmup", 0),
        ("think_time", 0.000001),
        ("reconnect_every", 10**9),
        ("message", ""),
        ("message", b"\xff"),
        ("expect", ""),
    ],
    ids=lambda value: options.shown(value)[:20],
)
def test_ends_of_the_ranges_are_allowed(field: str, value: object) -> None:
    """What the ranges say is allowed is allowed, and whole numbers do where seconds or rates are wanted."""
    assert getattr(planned(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("connections", "2k", 2_000),
        ("messages", "1.5M", 1_500_000),
        ("rate", "20k", 20_000.0),
        ("rate", "0.5", 0.5),
        ("duration", "250ms", 0.25),
        ("warmup", "2", 2.0),
        ("think_time", "10us", 0.00001),
        ("size", "1k", 1_024),
        ("reply_size", "1MiB", 1 << 20),
        ("message", r"a\x00\n", b"a\0\n"),
    ],
    ids=lambda value: options.shown(value)[:20],
)
def test_values_have_units_on_the_command_line(field: str, text: str, value: object) -> None:
    """Counts and rates are 1,000-based, sizes 1,024-based, durations seconds unless their unit says otherwise."""
    assert plan.OPTIONS[field].parse(text, label=field) == value


def test_error_shows_value_and_range_as_they_are_typed() -> None:
    """An error of the command line says what was given and what is allowed."""
    with pytest.raises(ConfigError, match=r"^-c/--connections: '20M' is not allowed; it takes 1 to 16777216$"):
        plan.OPTIONS["connections"].parse("20M", label="-c/--connections")
    with pytest.raises(ConfigError, match=r"^-d: '2 weeks' is not a number, or one with a unit: us ms s m h$"):
        plan.OPTIONS["duration"].parse("2 weeks", label="-d")


def test_plan_is_frozen_keyword_only_and_can_be_changed_by_replace() -> None:
    """Nobody changes a plan, no field has a position, and a replaced field is checked as a new one is."""
    made = planned()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.rate = 5.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        LoadPlan(TARGET)  # type: ignore[misc]
    assert dataclasses.replace(made, rate=5) == planned(rate=5)
    with pytest.raises(ConfigError, match="rate"):
        dataclasses.replace(made, rate=0)


def test_settings_are_all_fields_but_the_target() -> None:
    """A report's settings name each option, and hold nothing that JSON does not."""
    settings = planned(message=b"\xff{{", source=("127.0.0.1",)).settings()
    assert set(settings) == {*plan.OPTIONS, "source"}
    assert settings["message"] == r"\xff{{"
    assert settings["source"] == ["127.0.0.1"]


# --- Options that can't both act ---


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"message": "x", "message_file": "f"}, ("--message", "--message-file")),
        ({"size": 5, "message_file": "f"}, ("--size", "--message-file")),
        ({"think_time": 1, "rate": 5}, ("--think-time", "--rate")),
        ({"think_time": 1, "depth": 2}, ("--think-time", "--depth")),
        ({"arrivals": "poisson"}, ("--arrivals", "--rate")),
        ({"target": "unix:/tmp/x", "source": ["127.0.0.1"]}, ("--source", "unix")),
        ({"reply_size": 5}, ("--reply-size", "line framing")),
        ({"framing": "u32", "reply_size": 5}, ("--reply-size", "u32 framing")),
        ({"framing": "stream", "reply_size": 5, "depth": 2}, ("--framing stream", "--depth")),
        ({"framing": "stream"}, ("--framing stream", "--reply-size or --expect")),
        ({"framing": "stream", "expect": ""}, ("--framing stream", "--reply-size or --expect")),
        ({"loops": 3, "connections": 2}, ("--loops", "2 connections")),
        ({"connections": 1_000_000, "depth": 11}, ("--connections", "--depth")),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_options_that_cannot_both_act_are_an_error_that_names_both(
    fields: dict[str, Any], names: tuple[str, str]
) -> None:
    """Two options of which one alone can act, or that need each other, are refused with both their names."""
    with pytest.raises(ConfigError) as caught:
        planned(**fields)
    assert all(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": 5, "duration": 1, "rate": 5},
        {"rate": 5, "arrivals": "poisson", "depth": 8},
        {"message": "x", "size": 5},
        {"framing": "stream", "reply_size": 5},
        {"framing": "stream", "expect": "{message}"},
        {"framing": "stream", "expect": "ok", "reply_size": 2},
        {"framing": "u32", "depth": 16, "expect": "{message}"},
        {"think_time": 1, "reconnect_every": 2},
        {"connections": 1_000_000, "depth": 10},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_options_that_act_together_are_allowed(fields: dict[str, Any]) -> None:
    """What makes sense together is no error."""
    planned(**fields)


@pytest.mark.parametrize("sources", [["127.0.0.1"], ("127.0.0.1", "127.0.0.2"), ["::1"], iter(["10.0.0.1"])])
def test_sources_are_numeric_addresses(sources: Any) -> None:
    """Any number of addresses, IPv4 or IPv6, is taken, and kept as a tuple."""
    assert isinstance(planned(source=sources).source, tuple)


@pytest.mark.parametrize(
    "sources",
    [
        "127.0.0.1",
        5,
        ["localhost"],
        [""],
        ["127.0.0.1:80"],
        [5],
        [b"\x7f\x00\x00\x01"],
    ],
    ids=repr,
)
def test_wrong_source_is_an_error(sources: object) -> None:
    """A name, a port, and what is no list of texts are refused, with the value."""
    with pytest.raises(ConfigError, match=r"source: .* is not "):
        planned(source=sources)


def test_template_errors_give_the_position() -> None:
    """A wrong field in a message or an expected answer is refused with the character where it is wrong, from 1."""
    with pytest.raises(ConfigError, match=r"^message: .* is wrong at character 3; it may hold \{n\}, \{conn\}"):
        planned(message="ü {message}")
    with pytest.raises(ConfigError, match=r"^expect: .* is wrong at character 4; it may hold \{message\}"):
        planned(expect="a{{{n}")


def test_select_limits_connections() -> None:
    """With select, more connections than its set holds are refused."""
    from kqnative import _native
    from kqnative.load.plan import own_descriptors

    most = _native.select_limit() - own_descriptors(1)
    planned(poller="select", connections=most)
    with pytest.raises(ConfigError, match=f"--poller select watches at most {most} connections"):
        planned(poller="select", connections=most + 1)
    with pytest.raises(ConfigError, match="--poller select watches at most"):
        planned(poller="select", connections=most, loops=2)


# --- Targets ---


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("localhost:8080", target.Target("localhost", 8080)),
        ("10.0.0.1:1", target.Target("10.0.0.1", 1)),
        ("[::1]:65535", target.Target("::1", 65_535)),
        ("tcp://example.org:80", target.Target("example.org", 80)),
        ("tcp://[::1]:80/", target.Target("::1", 80)),
        ("unix:/run/a.sock", target.Target("", 0, "/run/a.sock")),
        ("unix:a.sock", target.Target("", 0, "a.sock")),
        ("unix:///run/a.sock", target.Target("", 0, "/run/a.sock")),
    ],
)
def test_target_is_host_and_port_or_a_path(text: str, parsed: target.Target) -> None:
    """A target is HOST:PORT, [V6]:PORT, the same behind tcp://, or a unix socket's path."""
    assert target.parse(text) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "target: '' is not HOST:PORT"),
        ("localhost", "target: 'localhost' is not HOST:PORT"),
        ("localhost:", "is not HOST:PORT"),
        (":8080", "is not HOST:PORT"),
        ("[]:8080", "is not HOST:PORT"),
        ("localhost:http", "is not HOST:PORT"),
        ("localhost:0", "is not HOST:PORT"),
        ("localhost:65536", "is not HOST:PORT"),
        ("localhost:-1", "is not HOST:PORT"),
        ("localhost:\uff18\uff10", "is not HOST:PORT"),
        ("localhost:80/path", "is not HOST:PORT"),
        ("::1:8080", "put the IPv6 address of '::1:8080' in brackets: [::1]:8080"),
        ("unix:", "names no path"),
        ("unix:a\0b", "names no path"),
        ("localhost:0000801234", "is not HOST:PORT"),
        ("http://localhost:80", "is not HOST:PORT"),
    ],
)
def test_wrong_target_is_an_error_that_says_what_is_wrong(text: str, message: str) -> None:
    """What is no target is refused with what was given, and what it should be."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        planned(target=text)


def free_socket(host: str = "127.0.0.1") -> socket.socket:
    """A socket with a port of its own that does not listen: connecting to it is refused."""
    made = socket.socket()
    made.bind((host, 0))
    return made


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a name have these addresses, in this order; numeric addresses go to the system."""
    system = socket.getaddrinfo

    def inject(name: str, *hosts: str) -> None:
        def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            hosts_there = hosts if host == name else [host]
            return [one for there in hosts_there for one in system(there, port, *args, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

    return inject


def test_first_address_that_accepts_is_used_and_named(resolver: Callable[..., None], serve: Serve) -> None:
    """Where localhost is ::1 first and the server listens on IPv4 alone, the run uses that, and says so."""
    server = serve("--framing", "line", "--log-rate", "0")
    resolver("localhost", "::1", "127.0.0.1")
    done = run_load(LoadPlan(target=f"localhost:{server.port}", connections=2, messages=10))
    assert done.target == f"localhost [127.0.0.1]:{server.port}"
    assert (done.messages, done.errors["total"], done.ended_because) == (10, 0, None)


def test_numeric_target_is_named_as_it_is(serve: Serve) -> None:
    """An address that was given as a number is not shown twice."""
    server = serve("--framing", "line", "--log-rate", "0")
    done = run_load(LoadPlan(target=f"tcp://127.0.0.1:{server.port}", connections=1, messages=1))
    assert (done.target, done.messages) == (f"127.0.0.1:{server.port}", 1)


def test_source_decides_which_addresses_are_tried(resolver: Callable[..., None]) -> None:
    """From an IPv4 source only IPv4 addresses are tried, and where there is none the reason is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        resolver("both", "::1", "127.0.0.1")
        found = target.find(f"both:{port}", ("127.0.0.1",), 1.0)
        assert (found.host, found.name) == ("127.0.0.1", f"both [127.0.0.1]:{port}")
    resolver("six", "::1")
    with pytest.raises(target.UnreachableError, match="six has no address that --source can reach"):
        target.find("six:80", ("127.0.0.1",), 0.01)


def test_sources_of_both_families_do_not_fail_connections(serve: Serve) -> None:
    """Sources of the family that the target's address is not of are not used: no connection fails because of them."""
    server = serve("--framing", "line", "--log-rate", "0")
    made = LoadPlan(
        target=f"127.0.0.1:{server.port}", source=("127.0.0.1", "::1"), connections=2, messages=100, warmup=0.1
    )
    assert run_load(made).errors["total"] == 0


def test_source_that_is_not_here_is_said_in_a_sentence() -> None:
    """A source address of another machine ends the run with that reason; it is no lack of local ports."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run_load(planned(target=f"127.0.0.1:{port}", source=("192.0.2.1",), connect_timeout=0.05))
    assert done.ended_because is not None
    assert "192.0.2.1" in done.ended_because
    assert not any("local ports" in line for line in limits.hints(done))


def test_scope_of_a_link_local_target_is_not_lost() -> None:
    """[fe80::…%INTERFACE] is connected to through that interface, or refused for it: the scope is in the sentence."""
    interface = socket.if_nameindex()[0][1]
    with pytest.raises((target.UnreachableError, ConfigError)) as caught:
        target.find(f"[fe80::1%{interface}]:1", (), 0.01)
    assert f"[fe80::1%{interface}]:1" in str(caught.value)


def test_server_that_listens_a_moment_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that refuses at first is tried again until the connect timeout."""
    with free_socket() as late:
        port = late.getsockname()[1]
        rounds: list[float] = []

        def wait(seconds: float) -> None:
            rounds.append(seconds)
            if len(rounds) == 2:
                late.listen()

        monkeypatch.setattr(target, "sleep", wait)
        assert target.find(f"127.0.0.1:{port}", (), 5.0).host == "127.0.0.1"
        assert rounds == [target.RETRY_S] * 2


def test_nobody_listens_is_said_in_a_sentence() -> None:
    """A target that refuses until the connect timeout gives a result with the reason, and one error, refused."""
    with free_socket() as deaf:
        port = deaf.getsockname()[1]
        done = run_load(planned(target=f"127.0.0.1:{port}", connect_timeout=0.05))
    assert done.ended_because == f"no connection to 127.0.0.1:{port} within 0.05 s: Connection refused"
    assert {kind: count for kind, count in done.errors.items() if count} == {"refused": 1, "total": 1}
    assert (done.messages, done.latency_us["p99"], done.messages_per_second) == (0, None, None)


def test_all_addresses_are_named_when_none_accepts(resolver: Callable[..., None]) -> None:
    """The sentence names each address that was tried."""
    with free_socket() as deaf:
        port = deaf.getsockname()[1]
        resolver("pair", "127.0.0.1", "127.0.0.2")
        with pytest.raises(target.UnreachableError) as caught:
            target.find(f"pair:{port}", (), 0.01)
    assert f"pair [127.0.0.1]:{port} or pair [127.0.0.2]:{port} within 0.01 s" in str(caught.value)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70], ids=["unknown", "impossible"])
def test_name_that_cannot_be_resolved_is_said_in_a_sentence(host: str) -> None:
    """A name without an address ends the run at once, with what to do."""
    done = run_load(planned(target=f"{host}:80"))
    assert done.ended_because is not None
    assert re.fullmatch(rf"cannot find {host}: .+; check the name", done.ended_because)
    assert (done.errors["other"], done.errors["total"]) == (1, 1)


@pytest.mark.parametrize("there", [False, True], ids=["no such path", "nobody listens"])
def test_unix_socket_that_nobody_serves_is_refused(tmp_path: Path, there: bool) -> None:
    """A path that is not there and one that nobody listens on count as refused, and are named."""
    path = tmp_path / "kq.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        if there:
            deaf.bind(str(path))
        done = run_load(planned(target=f"unix:{path}", connect_timeout=0.05))
    assert done.ended_because is not None
    assert done.ended_because.startswith(f"no connection to unix:{path} within 0.05 s: ")
    assert done.errors["refused"] == 1


def test_path_too_long_for_a_unix_socket_is_said_in_a_sentence() -> None:
    """A path that no socket can have is refused for that reason, which waiting does not change."""
    done = run_load(planned(target=f"unix:/{'x' * 300}", connect_timeout=0.05))
    assert "too long" in (done.ended_because or "")


# --- Messages ---


@given(st.binary(max_size=50))
def test_escaped_bytes_are_those_bytes(data: bytes) -> None:
    r"""A text of \xNN alone stands for exactly these bytes, in hexadecimal digits of either case and in octal."""
    assert payload.unescape("".join(f"\\x{byte:02x}" for byte in data)) == data
    assert payload.unescape("".join(f"\\x{byte:02X}" for byte in data)) == data
    assert payload.unescape("".join(f"\\{byte:03o}" for byte in data)) == data


# Without what \xNN means in a str: there it is a character, here a byte.
PYTHON_TEXT = st.text(st.characters(exclude_categories=["Cs"]).filter(lambda char: not "\x80" <= char <= "\xff"))


@given(PYTHON_TEXT)
def test_python_s_own_escapes_mean_the_same(text: str) -> None:
    r"""What Python writes for a text, with \n, \\, \uNNNN and \UNNNNNNNN, is that text in UTF-8."""
    assert payload.unescape(ascii(text)[1:-1]) == text.encode()
    assert payload.unescape(text.encode("unicode_escape").decode()) == text.encode()


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\")))
def test_text_without_escapes_is_itself(text: str) -> None:
    """What holds no backslash is sent as it was typed."""
    assert payload.unescape(text) == text.encode()


@pytest.mark.parametrize("escape", list("\\'\"abfnrtv"))
def test_one_letter_escapes_are_python_s(escape: str) -> None:
    """Each escape of one letter stands for what it does in Python."""
    assert payload.unescape(f"<\\{escape}>") == f"<{ESCAPED[escape]}>".encode()


ESCAPED = {
    "\\": "\\",
    "'": "'",
    '"': '"',
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}


def test_named_and_octal_escapes_are_python_s() -> None:
    r"""\N{…} is a character by its name, and one to three octal digits are a byte."""
    assert payload.unescape(r"\N{SNOWMAN}\0\17\1014") == "☃".encode() + b"\x00\x0f" + b"A4"


@pytest.mark.parametrize(
    ("text", "position"),
    [
        (r"a\qb", 2),
        (r"\x4", 1),
        (r"é\xg0", 2),
        (r"\u12", 1),
        (r"ab\U00110000", 3),
        (r"\ud800", 1),
        (r"\N{NO SUCH NAME}", 1),
        (r"\N{é}", 1),
        (r"\N", 1),
        (r"\8", 1),
        (r"\é", 1),
        ("\\n\\", 3),
    ],
)
def test_unknown_escape_is_an_error_with_its_position(text: str, position: int) -> None:
    """What is no escape of Python's is refused, with the character where it begins, counted from 1."""
    with pytest.raises(ValueError, match=rf" at character {position} is none"):
        payload.unescape(text)
    with pytest.raises(ConfigError, match=rf"^-m: .*Python's escapes: .* at character {position} "):
        plan.OPTIONS["message"].parse(text, label="-m")


def test_without_a_message_64_bytes_are_sent() -> None:
    """The default message takes 64 bytes, the line framing's LF included."""
    assert bodies() == (b"x" * 63,)
    assert bodies(framing="u32") == (b"x" * 64,)
    assert bodies(framing="stream", reply_size=1) == (b"x" * 64,)


@pytest.mark.parametrize(
    ("framing", "size", "body"),
    [
        ("line", 8, b"abcxxxx"),
        ("line", 4, b"abc"),
        ("u32", 8, b"abcxxxxx"),
        ("u32", 3, b"abc"),
        ("stream", 8, b"abcxxxxx"),
    ],
)
def test_size_fills_the_message(framing: str, size: int, body: bytes) -> None:
    """--size is the message's bytes: with the LF in line framing, without the length in u32, exact in stream."""
    reply = {"reply_size": 1} if framing == "stream" else {}
    assert bodies(framing=framing, message="abc", size=size, **reply) == (body,)
    assert bodies(framing=framing, size=size, **reply) == (b"x" * len(body),)


@pytest.mark.parametrize(
    ("fields", "has", "room"),
    [
        ({"message": "abcd", "size": 4}, 4, 3),
        ({"framing": "u32", "message": "ab", "size": 1}, 2, 1),
        ({"message": "é", "size": 2}, 2, 1),
        ({"message": "abc{n}", "size": 3}, 3, 2),
        ({"message": "{{n}}{n}", "size": 3}, 3, 2),
    ],
    ids=str,
)
def test_message_longer_than_its_size_is_an_error(fields: dict[str, Any], has: int, room: int) -> None:
    """A message that does not fit into --size is refused, with how long it is and how much room there is."""
    with pytest.raises(ConfigError, match=rf"^--size: the message has {has} bytes already, so there are only {room} "):
        planned(**fields)


def test_message_with_fields_is_a_template_with_the_size_to_fill() -> None:
    """{n} and {conn} are left for the core to fill in, with the room that --size leaves."""
    made = planned(message="a{{{n}}} {conn}", size=20)._bodies
    assert (made.fixed, made.template, made.pad) == ((), b"a{{{n}}} {conn}", 19)
    assert planned(message="{conn}", framing="u32", size=20)._bodies.pad == 20


def test_doubled_braces_are_one_brace() -> None:
    """{{ and }} stand for a brace each, and {{n}} is no field."""
    assert bodies(message="{{n}} }}{{") == (b"{n} }{",)
    assert bodies(message=b"{{\xff}}") == (b"{\xff}",)


def test_line_feed_in_a_line_message_is_an_error() -> None:
    """A message of two lines is refused in line framing, where it would be two; elsewhere it is one message."""
    for message in ("a\nb", b"\n", "{n}\n"):
        with pytest.raises(ConfigError, match="--message holds a line feed; in line framing that would be two"):
            planned(message=message)
    assert bodies(message="a\nb", framing="u32") == (b"a\nb",)
    assert bodies(message="a\n", framing="stream", reply_size=1) == (b"a\n",)


def test_empty_message_is_allowed_where_framing_shows_it() -> None:
    """An empty message is an LF or a length of 0; in stream framing there would be nothing to send."""
    assert bodies(message="") == (b"",)
    assert bodies(message="", framing="u32") == (b"",)
    with pytest.raises(ConfigError, match="--message is empty; in stream framing"):
        planned(message="", framing="stream", reply_size=1)
    assert bodies(message="", framing="stream", reply_size=1, size=2) == (b"xx",)


@pytest.mark.parametrize(
    ("data", "messages"),
    [
        (b"one\ntwo\nthree\n", (b"one", b"two", b"three")),
        (b"one\ntwo", (b"one", b"two")),
        (b"one\r\ntwo\r\n", (b"one\r", b"two\r")),
        (b"\n", (b"",)),
        (b"a\n\n\xffb\0\n", (b"a", b"", b"\xffb\0")),
        (b"{n}\n\\n\n", (b"{n}", b"\\n")),
    ],
    ids=repr,
)
def test_message_file_has_a_message_on_each_line(tmp_path: Path, data: bytes, messages: tuple[bytes, ...]) -> None:
    """A file's lines are sent byte for byte, a CR included; neither escapes nor fields mean anything there."""
    path = tmp_path / "messages"
    path.write_bytes(data)
    assert bodies(message_file=str(path)) == messages


def test_message_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """A file that is missing, empty, a directory, or in stream framing has an empty line, is refused by name."""
    path = tmp_path / "messages"
    with pytest.raises(ConfigError, match=rf"^--message-file: cannot read {path}: No such file or directory$"):
        planned(message_file=str(path))
    with pytest.raises(ConfigError, match=rf"^--message-file: cannot read {tmp_path}: Is a directory$"):
        planned(message_file=str(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"^--message-file: {path} is empty; write a message on each line$"):
        planned(message_file=str(path))
    path.write_bytes(b"a\nb\n\nc\n")
    with pytest.raises(ConfigError, match=rf"^--message-file: line 3 of {path} is empty; in stream framing"):
        planned(message_file=str(path), framing="stream", reply_size=1)


def test_file_s_messages_are_sent_in_turn(tmp_path: Path, serve: Serve) -> None:
    """On one connection the file's lines go out one after another, and from the first again, and are compared."""
    path = tmp_path / "messages"
    path.write_bytes(b"one\nthree\r\n\n")
    server = serve("--framing", "line", "--log-rate", "1000", "--reply", "{message}")
    at = f"127.0.0.1:{server.port}"
    done = run_load(LoadPlan(target=at, connections=1, messages=7, message_file=str(path), expect="{message}"))
    assert (done.messages, done.errors["total"]) == (7, 0)
    assert done.bytes_sent == done.bytes_received == 3 * len(b"one\n") + 2 * len(b"three\r\n\n")
    server.wait_until_idle()
    server.kill()
    server.wait()
    received = [line.partition(": ")[2] for line in server.lines if line.startswith("Received:")]
    assert received == ["one", "three", "", "one", "three", "", "one"]


# --- Conditions ---


@pytest.mark.parametrize(
    ("text", "figure", "comparison", "value", "is_percent"),
    [
        ("p99 > 5ms", "p99", ">", 5_000.0, False),
        ("p99>5ms", "p99", ">", 5_000.0, False),
        ("  p99.9  >=  1.5 s  ", "p99.9", ">=", 1.5e6, False),
        ("p99_99 < 250us", "p99_99", "<", 250.0, False),
        ("p100 < 1h", "p100", "<", 3.6e9, False),
        ("max <= 1m", "max", "<=", 6e7, False),
        ("mean > 1ms", "mean", ">", 1_000.0, False),
        ("errors > 0", "errors", ">", 0.0, False),
        ("errors > 0.1%", "errors", ">", 0.1, True),
        ("errors > 0.1 %", "errors", ">", 0.1, True),
        ("rate < 45k", "rate", "<", 45_000.0, False),
        ("messages < 1.5M", "messages", "<", 1.5e6, False),
        ("unsent > 10", "unsent", ">", 10.0, False),
        ("reconnects >= 1", "reconnects", ">=", 1.0, False),
    ],
)
def test_condition_is_a_figure_a_comparison_and_a_value(
    text: str, figure: str, comparison: str, value: float, is_percent: bool
) -> None:
    """A condition is understood with and without spaces, latencies in microseconds, rates with k and M."""
    assert conditions.parse(text, "--fail-if") == conditions.Condition(text, figure, comparison, value, is_percent)


@pytest.mark.parametrize("text", ["not valid", "  not   valid "])
def test_not_valid_is_a_condition(text: str) -> None:
    """`not valid` holds of a run that is not."""
    condition = conditions.parse(text, "--fail-if")
    assert condition.holds(made_result(valid=False)) is True
    assert condition.holds(made_result()) is False


@pytest.mark.parametrize(
    ("text", "position", "why"),
    [
        ("", 1, "there is no such figure; there are: min mean max p50"),
        ("q99 > 5ms", 1, "there is no such figure"),
        ("  speed > 5", 3, "there is no such figure"),
        ("P99 > 5ms", 1, "there is no such figure"),
        ("p101 > 5ms", 1, "there is no such figure"),
        ("> 5ms", 1, "there is no such figure"),
        ("valid", 1, "there is no such figure"),
        ("p99", 4, "here should be < <= > or >="),
        ("p99 5ms", 5, "here should be < <= > or >="),
        ("p99 = 5ms", 5, "here should be < <= > or >="),
        ("p99 == 5ms", 5, "here should be < <= > or >="),
        ("p99 =< 5ms", 5, "here should be < <= > or >="),
        ("p99 >", 6, "here should be a number"),
        ("p99 > fast", 7, "here should be a number"),
        ("p99 > -5ms", 7, "here should be a number"),
        ("p99 > 5", 8, "a latency needs its unit, as in 5ms: us ms s m h"),
        ("p99 > 5%", 8, "a latency needs its unit"),
        ("p99 > 5min", 8, "a latency needs its unit"),
        ("p99 > 5k", 8, "a latency needs its unit"),
        ("errors > 5ms", 10, "here should be a number, or one with a unit: k M"),
        ("rate < 5%", 8, "here should be a number, or one with a unit: k M"),
        ("p99 > 5.5.5ms", 7, "here should be a number"),
        ("rate < 5e3", 8, "here should be a number"),
        ("p99 > 5ms and rate < 5k", 11, ""),
        ("not p99 > 5ms", 1, "there is no such figure"),
    ],
)
def test_wrong_condition_is_an_error_with_its_position(text: str, position: int, why: str) -> None:
    """What can't be understood is refused with the character where it is wrong, counted from 1, and what goes there."""
    with pytest.raises(ConfigError) as caught:
        conditions.parse(text, "--fail-if")
    assert str(caught.value).startswith(f"--fail-if: {text!r} is wrong at character {position}: {why}")


def holds(text: str, of: LoadResult) -> bool | None:
    """Whether a condition holds of a result."""
    return conditions.parse(text, "--fail-if").holds(of)


def test_condition_compares_the_result_s_figure() -> None:
    """Each figure is that of the result: latencies of the response time, the rate, the counts, errors of those sent."""
    of = made_result(
        latencies_ns=tuple(i * MS for i in range(1, 101)),
        total_errors=2,
        messages=98,
        sent=1_000,
        unsent=3,
        reconnects=1,
        messages_per_second=500.0,
    )
    for text in (
        "p99 > 98.9ms",
        "p99 < 99.1ms",
        "p50 >= 50ms",
        "p100 > 99ms",
        "min <= 1ms",
        "max >= 100ms",
        "mean > 50ms",
        "mean < 51ms",
        "rate <= 500",
        "rate >= 0.5k",
        "errors > 1",
        "errors > 0.1%",
        "errors <= 0.2%",
        "messages >= 98",
        "unsent > 2",
        "reconnects < 2",
    ):
        assert holds(text, of) is True, text
    for text in ("p99 < 98.9ms", "errors > 2", "errors > 0.2%", "rate < 500", "messages < 98", "not valid"):
        assert holds(text, of) is False, text


def test_condition_that_cannot_be_judged_fails() -> None:
    """A figure without samples holds nothing, and so fails the run; what holds is named as it was written."""
    nothing = made_result()
    assert [holds(text, nothing) for text in ("p99 > 5ms", "rate < 5", "errors > 1%")] == [None, None, None]
    given_conditions = [
        conditions.parse(one, "x") for one in (" p99 > 5ms", "errors > 0", "errors < 1 ", "rate < 5k", "not valid")
    ]
    assert conditions.failed(given_conditions, nothing) == [
        "p99 > 5ms (nothing was measured)",
        "errors < 1",
        "rate < 5k (nothing was measured)",
    ]
    assert conditions.failed(given_conditions, made_result((MS,), messages_per_second=1e6, total_errors=1)) == [
        "errors > 0"
    ]


def test_percentile_keys_are_those_that_conditions_know() -> None:
    """A percentile's name in JSON is one that a condition takes, whatever --percentiles allows."""
    assert [result.percentile_key(one) for one in (50.0, 99.9, 99.999, 100.0)] == ["p50", "p99_9", "p99_999", "p100"]
    assert conditions.percentile_of("p99_9") == conditions.percentile_of("p99.9") == 99.9
    assert result.percentile_key(0.00001) == "p0_00001"


# --- The search for the highest rate ---


class Server:
    """A model: the server's p99 is 1 ms up to some rate, and 50 ms above; the tester can't follow above another."""

    def __init__(self, capacity: float, tester_capacity: float = float("inf")) -> None:
        self.capacity = capacity
        self.tester_capacity = tester_capacity
        self.rates: list[float] = []
        self.results: list[LoadResult] = []

    def probe(self, rate: float) -> LoadResult:
        """A run at this rate."""
        self.rates.append(rate)
        valid = rate <= self.tester_capacity
        made = made_result(
            (MS if rate <= self.capacity else 50 * MS,) * 100,
            mode="open",
            sent=1_000,
            messages=1_000,
            messages_per_second=rate,
            requested_rate=rate,
            valid=valid,
            invalid_because=None if valid else "the tester was too slow",
        )
        self.results.append(made)
        return made


def searched(probe: Callable[[float], LoadResult], condition: str = "p99 < 5ms") -> Search:
    """A search that has ended; each probe was told as it ended."""
    search = Search(conditions.parse(condition, "--find-rate"))
    told: list[float] = []
    search.run(probe, lambda one: told.append(one.rate))
    assert told == [one.rate for one in search.probes]
    return search


@given(st.floats(1_000, 1_000_000))
def test_search_finds_the_highest_rate_to_5_percent(capacity: float) -> None:
    """Up to a million a second, the best rate holds, 1.05 times as much does not, and 16 probes are enough."""
    server = Server(capacity)
    search = searched(server.probe)
    assert search.best is not None
    best = search.best.requested_rate
    assert best is not None
    assert best <= capacity < PRECISION * best
    assert len(search.probes) <= MOST_PROBES == 16
    assert search.first is server.results[0]
    assert search.ended_because is None
    assert [one.held for one in search.probes] == [one.rate <= capacity for one in search.probes]


def test_search_doubles_and_then_halves_what_is_left() -> None:
    """From 1,000 the rate doubles until it breaks; then each is the middle of the best and the first that breaks."""
    server = Server(5_200)
    search = searched(server.probe)
    assert server.rates == [1_000, 2_000, 4_000, 8_000, 6_000, 5_000, 5_500, 5_250]
    assert search.best is server.results[5]


def test_search_ends_after_16_probes() -> None:
    """A server that nothing breaks ends the search at its last probe, with the highest rate as the best."""
    server = Server(float("inf"))
    search = searched(server.probe)
    assert server.rates == [1_000 * 2**i for i in range(16)]
    assert search.best is server.results[-1]


def test_search_without_a_rate_that_holds_has_the_first() -> None:
    """If 1,000 a second break it already, there is no best, and the first is kept to be reported."""
    server = Server(999)
    search = searched(server.probe)
    assert (server.rates, search.best, search.first) == ([1_000], None, server.results[0])
    assert [one.held for one in search.probes] == [False]


def test_probe_that_is_not_valid_ends_the_search() -> None:
    """Where the tester can't follow, the search ends with the best so far and says that the tester is the limit."""
    server = Server(1e9, tester_capacity=5_000)
    search = searched(server.probe)
    assert server.rates == [1_000, 2_000, 4_000, 8_000]
    assert search.best is server.results[2]
    assert (search.probes[-1].held, search.probes[-1].valid) == (False, False)
    assert search.ended_because == (
        "the tester is the limit at 8,000 messages/s (the tester was too slow); the server may do more"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"unsent": 11},
        {"sent": 0},
        {"interrupted": True},
        {"ended_because": "no connection was open for 5 s"},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_probe_that_did_not_send_what_was_asked_did_not_hold(changes: dict[str, Any]) -> None:
    """Where over 1 % was left unsent, nothing was sent, or the run ended early, good latency is no success."""
    server = Server(1e9)
    search = searched(lambda rate: dataclasses.replace(server.probe(rate), **changes))
    assert (search.probes[0].held, search.best) == (False, None)


def test_unsent_messages_of_the_last_instant_are_no_failure() -> None:
    """Up to 1 % of the messages may be left at the end of a probe that holds."""
    server = Server(2_500)
    search = searched(lambda rate: dataclasses.replace(server.probe(rate), unsent=10))
    assert search.probes[0].held


def test_run_that_ends_ends_the_search() -> None:
    """A run that could not go on ends the search with its own reason; one that was interrupted with none."""
    for changes in ({"ended_because": "no connection"}, {"interrupted": True}):
        ended = dataclasses.replace(Server(1e9).probe(1_000), **changes)
        search = searched(lambda rate, ended=ended: ended)
        assert (len(search.probes), search.ended_because) == (1, changes.get("ended_because"))


# --- How figures read ---


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [
        (None, "-"),
        (0.0, "0.00 us"),
        (0.25, "0.25 us"),
        (63.2, "63.2 us"),
        (9.994, "9.99 us"),
        (9.995, "10.0 us"),
        (99.94, "99.9 us"),
        (99.95, "100 us"),
        (999.4, "999 us"),
        (999.5, "1.00 ms"),
        (1_240.0, "1.24 ms"),
        (999_600.0, "1.00 s"),
        (2_000_000.0, "2.00 s"),
        (3.6e9, "3,600 s"),
    ],
)
def test_latency_reads_with_three_digits_and_a_unit(duration_us: float | None, text: str) -> None:
    """A duration has the unit in which it is shortest, and three digits."""
    assert report.show_us(duration_us) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(None, "-"), (0.0, "0/s"), (0.5, "0.5/s"), (99.96, "100/s"), (45_210.4, "45,210/s"), (1e6, "1,000,000/s")],
)
def test_rate_reads_as_a_number_a_second(rate: float | None, text: str) -> None:
    """A rate has its thousands apart, and decimals only where it is small."""
    assert report.show_rate(rate) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "0.977 KiB"),
        (1 << 20, "1 MiB"),
        (1_268_777, "1.21 MiB"),
        (2_000 << 30, "2,000 GiB"),
        (1_023_590, "0.976 MiB"),
    ],
)
def test_size_reads_with_three_digits_and_a_unit(size: int, text: str) -> None:
    """A size has a unit in which it is below 1,000."""
    assert report.show_bytes(size) == text


SIZES = st.integers(0, 1 << 40) | st.builds(
    lambda tenths, power: tenths * 1024**power // 10, st.integers(9_990, 10_005), st.integers(0, 3)
)


@given(SIZES)
def test_no_size_reads_with_an_exponent(size: int) -> None:
    """Nobody has to read 1e+03 KiB."""
    assert "e+" not in report.show_bytes(size)


DURATIONS_NS = st.one_of(st.integers(0, 5_000), st.integers(0, 10**9), st.integers(0, 3_600_000_000_000))


@given(st.lists(DURATIONS_NS, min_size=1, max_size=200), st.integers(1, 20))
def test_every_message_is_in_one_step_of_the_text_histogram(durations_ns: list[int], rows: int) -> None:
    """The steps' counts add up to all messages, and each holds only what is not above its end."""
    made = histogram(*durations_ns)
    steps = report.bins(made, rows)
    assert rows <= len(steps) <= rows + 1
    assert sum(count for _, count in steps) == len(made) == len(durations_ns)
    passed = 0
    for end_us, count in steps:
        passed += count
        below = sum(duration_ns <= end_us * 1_000 * 1.002 for duration_ns in durations_ns)
        assert passed <= below


@given(st.lists(DURATIONS_NS, min_size=1, max_size=200), st.integers(1, 20))
def test_steps_of_the_text_histogram_rise(durations_ns: list[int], rows: int) -> None:
    """No two rows of the histogram have the same end."""
    ends = [end_us for end_us, _ in report.bins(histogram(*durations_ns), rows)]
    assert all(end_us * 1.0001 < above_us for end_us, above_us in itertools.pairwise(ends))


# --- Limits ---


@pytest.fixture
def limited(serve: Serve) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`kqnative load` against a server, in a process that may have 100 descriptors."""
    server = serve("--framing", "line", "--log-rate", "0")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = f'ulimit -n 100 && exec "{sys.executable}" -m kqnative load "$@"'
        words = ["sh", "-c", command, "sh", f"127.0.0.1:{server.port}", *arguments]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30)

    return run


def test_limit_of_descriptors_is_named_with_its_value_and_what_to_do(
    limited: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """More connections than the system allows end before one is opened: the limit, what is possible, what raises it."""
    done = limited("-c", "200", "-n", "10")
    assert (done.returncode, done.stderr) == (1, "")
    words = " ".join(done.stdout.split())
    found = re.search(
        r"Failed: 200 connections need (\d+) descriptors, and this process may have 100: use at most -c (\d+),"
        r" or raise the limit with: (.+?)\.",
        words,
    )
    assert found, words
    if sys.platform == "linux":
        assert found[3].startswith(f"ulimit -Hn {found[1]} (as root)")
    assert int(found[1]) > 200
    most = int(found[2])
    assert limited("-c", str(most), "-n", "100", "--fail-if", "errors > 0", "--quiet").returncode == 0
    assert limited("-c", str(most + 1), "-n", "100", "--quiet").returncode == 1


def test_limits_that_a_run_met_have_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Used up ports and descriptors are said with the limit's value, and with what raises it."""
    met = made_result(connections=5_000)
    assert limits.hints(met) == []
    met.errors["no_local_port"] = met.errors["no_descriptor"] = 1
    ports, descriptors = limits.hints(met)
    assert ports.startswith("out of local ports: ")
    assert "--source" in ports
    assert re.fullmatch(r"out of descriptors: [\d,]+; raise the limit with: .*5000.*", descriptors)
    if sys.platform == "linux":
        first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        assert f": {last - first + 1:,} for each source address" in ports
        assert "sysctl -w net.ipv4.ip_local_port_range" in ports
    for system in ("darwin", "freebsd14", "openbsd7", "netbsd10", "plan9"):
        monkeypatch.setattr(sys, "platform", system)
        assert all("raise the limit with: " in line for line in limits.hints(met))


def test_the_documentation_has_every_option() -> None:
    """docs/load-testing.md shows the options as they are."""
    page = (Path(__file__).parent.parent / "docs" / "load-testing.md").read_text()
    assert options.markdown_table(plan.OPTIONS, plan.DEFAULTS) in page
