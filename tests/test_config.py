"""Config: values and units, ranges, rivals, precedence, and what is made from its one declaration."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqnative import Config, ConfigError, Server, config, options, sources, values

ROOT = Path(__file__).parent.parent


def load(command_line: dict[str, str] | None = None, environ: dict[str, str] | None = None, path: Any = None) -> Config:
    """The configuration that these sources make."""
    return sources.load(command_line or {}, environ or {}, path and str(path)).config


def file(tmp_path: Path, text: str) -> Path:
    """A configuration file with these lines in its table."""
    path = tmp_path / "kq.toml"
    path.write_text(f"[server]\n{text}\n")
    return path


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300", 300.0), ("1.5", 1.5), ("250us", 0.00025), ("20ms", 0.02), ("2 s", 2.0), ("5m", 300.0), ("1h", 3600.0)],
)
def test_duration_has_units_and_is_seconds_without(text: str, seconds: float) -> None:
    """A duration is seconds unless its unit says otherwise."""
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("64k", 65536), ("64KiB", 65536), ("1M", 1 << 20), ("1.5MiB", 1572864), ("1G", 1 << 30)],
)
def test_size_units_are_1024_based(text: str, size: int) -> None:
    """A size's k, M and G are 1,024-based, as KiB, MiB and GiB are."""
    assert values.parse_size(text) == size


@pytest.mark.parametrize(("text", "count"), [("7", 7), ("20k", 20_000), ("1.5k", 1_500), ("2M", 2_000_000)])
def test_count_units_are_1000_based(text: str, count: int) -> None:
    """A count's k and M are 1,000-based."""
    assert values.parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "+1",
        "1e3",
        "0x10",
        "\uff18\uff10",
        "1_000",
        "1,000",
        "nan",
        "inf",
        "5 x",
        "k",
        "1K",
        "9" * 31,
        "1\n",
    ],
)
def test_what_is_no_plain_number_is_refused(text: str) -> None:
    """Signs, exponents, separators, digits of other scripts, unknown units and endless numbers are no values."""
    for parse in (values.parse_count, values.parse_size, values.parse_duration):
        with pytest.raises(ValueError, match="number"):
            parse(text)


@given(st.integers(0, 10**12))
def test_every_shown_size_parses_to_itself(size: int) -> None:
    """Help and errors show a size in a form that can be typed again."""
    assert values.parse_size(values.show_size(size).removesuffix(" bytes").removesuffix(" byte")) == size


@given(st.integers(1, 10**9).map(lambda ms: ms / 1_000))
def test_every_shown_duration_parses_to_itself(seconds: float) -> None:
    """Help and errors show a duration in a form that can be typed again."""
    assert values.parse_duration(values.show_duration(seconds)) == pytest.approx(seconds, rel=1e-9)


def test_every_default_is_valid_and_described() -> None:
    """Each field has a group, a help text and a default that its own range allows."""
    assert Config() == Config(**config.DEFAULTS)
    for name, option in config.OPTIONS.items():
        assert option.group in config.GROUPS
        assert option.help, name
        assert option.show(config.DEFAULTS[name]), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 65_536),
        ("port", -1),
        ("port", True),
        ("port", 80.0),
        ("port", "80"),
        ("port", 10**30),
        ("port", 10**5_000),
        ("backlog", 0),
        ("read_size", 0),
        ("read_size", (16 << 20) + 1),
        ("max_message", (1 << 30) + 1),
        ("batch", 65_537),
        ("loops", 257),
        ("spin", -1),
        ("spin", 1.5),
        ("max_connections", 0),
        ("idle_timeout", float("nan")),
        ("idle_timeout", float("inf")),
        ("idle_timeout", -1),
        ("idle_timeout", 0.0001),
        ("idle_timeout", 25 * 86_400),
        ("idle_timeout", "5m"),
        ("grace", False),
        ("framing", "lines"),
        ("log_level", "INFO"),
        ("log_rate", None),
        ("host", ""),
        ("host", "a\0b"),
        ("uds", b"/tmp/x"),
        ("hook", ""),
        ("reply", None),
        ("reply", "\ud800"),
    ],
    ids=lambda value: options.shown(value)[:20],
)
def test_wrong_value_is_an_error_that_names_the_field(field: str, value: object) -> None:
    """A wrong type or a value out of range raises ConfigError, one line that names the field."""
    with pytest.raises(ConfigError, match=rf"^{field}: ") as caught:
        Config(**{field: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_error_shows_value_and_range() -> None:
    """An error says what was given and what is allowed."""
    with pytest.raises(ConfigError, match=r"^port: 70000 is not allowed; it takes 0 to 65535"):
        Config(port=70_000)
    with pytest.raises(ConfigError, match=r"^--idle-timeout: '25h00' is not"):
        load({"idle_timeout": "25h00"})
    with pytest.raises(ConfigError, match=r"^--max-message: '2G' is not allowed; it takes 1 byte to 1 GiB$"):
        load({"max_message": "2G"})


def test_zero_means_something_where_the_help_says_so() -> None:
    """0 is no timeout and no lines, although 0 is below the least timeout."""
    assert Config(idle_timeout=0).idle_timeout == 0.0
    assert Config(log_rate=0).log_rate == 0
    assert Config().spin == Config(spin=0).spin == 0.0


def test_config_is_frozen_and_keyword_only() -> None:
    """Nobody changes a Config, and no field has a position."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Config("localhost")  # type: ignore[misc]


def test_template_error_gives_the_position() -> None:
    """A wrong template is refused with the character where it is wrong, counted from 1."""
    with pytest.raises(ConfigError, match=r"^reply: .* at character 7"):
        Config(reply="für {{{mesage}")
    Config(reply="{{{message}}} {peer}")


def test_absent_poller_is_an_error_that_names_those_there_are() -> None:
    """A poller of another system is refused, and the error says what this one has."""
    from kqnative import _native

    absent = [name for name in _native.POLLERS if not _native.lib.kqn_poller_available(_native.POLLERS[name])]
    for name in absent:
        with pytest.raises(ConfigError, match=rf"poller: this system has no {name}; it has auto, "):
            Config(poller=name)  # type: ignore[arg-type]


def test_select_limits_max_connections() -> None:
    """With select, more connections than its set holds less the reserve are refused."""
    from kqnative import _native

    limit = _native.select_limit() - config.DESCRIPTOR_RESERVE
    try:
        assert Config(poller="select", max_connections=limit).max_connections == limit
    except ConfigError as error:
        pytest.skip(str(error))
    with pytest.raises(ConfigError, match=f"^max_connections: {limit + 1} .* 1 to {limit}"):
        Config(poller="select", max_connections=limit + 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"uds": "/tmp/x", "port": 1},
        {"uds": "/tmp/x", "host": "::"},
        {"hook": "a:b", "reply": "x"},
        {"hook_batch": "a:b", "reply": "x"},
        {"hook": "a:b", "hook_batch": "a:b"},
    ],
    ids=" ".join,
)
def test_rivals_are_an_error_that_names_both(fields: dict[str, Any]) -> None:
    """Two options of which one alone can act are refused together: in Config, on the command line, in a file."""
    one, other = fields
    with pytest.raises(ConfigError, match=f"{one}.*{other}|{other}.*{one}"):
        Config(**fields)
    with pytest.raises(ConfigError, match=r"--.*--.*cannot both act"):
        load({name: str(value) for name, value in fields.items()})


def test_server_refuses_rivals_and_unknown_fields() -> None:
    """Server's own keywords follow the same rules."""
    for fields in ({"reply": len, "reply_batch": len}, {"reply": "x", "hook": "a:b"}, {"prot": 1}, {"reply": 3}):
        with pytest.raises(ConfigError):
            Server(**fields)  # type: ignore[arg-type]
    assert Server(Config(hook="a:b"), reply="x").config == Config(reply="x")


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    """Of several sources the nearest one counts, field by field."""
    path = file(tmp_path, "port = 1\nbacklog = 1\nloops = 1")
    got = load({"port": "3"}, {"KQNATIVE_PORT": "2", "KQNATIVE_BACKLOG": "2"}, path)
    assert (got.port, got.backlog, got.loops) == (3, 2, 1)


def test_command_line_beats_its_rival_elsewhere(tmp_path: Path) -> None:
    """An option of the command line acts although its rival stands in the environment or the file."""
    path = file(tmp_path, 'hook = "a:b"\nuds = "/tmp/x"')
    got = load({"reply": "x", "port": "1"}, {"KQNATIVE_HOOK_BATCH": "c:d"}, path)
    assert (got.reply, got.hook, got.hook_batch, got.uds, got.port) == ("x", None, None, None, 1)


def test_rivals_of_environment_and_file_are_an_error(tmp_path: Path) -> None:
    """Neither the environment nor the file beats a rival: the error says where both stand."""
    with pytest.raises(ConfigError, match=r"hook in .*kq\.toml and KQNATIVE_REPLY cannot both act"):
        load({}, {"KQNATIVE_REPLY": "x"}, file(tmp_path, 'hook = "a:b"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1", "unknown key 'prot'"),
        ("[serve]\nport = 1", "unknown table or key 'serve'"),
        ("port = 1", "unknown table or key 'port'"),
        ("server = 1", "not a table"),
        ("[server]\nport = true", "port in .*: True"),
        ("[server]\nport = 1\nport = 2", "overwrite"),
        ("[server]\nport = 1979-05-27", "port in "),
        ("[server]\nidle_timeout = nan", "idle_timeout in .*nan is not allowed"),
        ("[server", ":"),
        ("\xff", "codec"),
    ],
)
def test_wrong_file_is_an_error_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    """An unknown key or table, a wrong type, or what is no TOML is refused in one line with the file's name."""
    path = tmp_path / "kq.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        load(path=path)
    assert "kq.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_takes_numbers_and_texts_with_units(tmp_path: Path) -> None:
    """In a file a value is a number, or a text as on the command line."""
    got = load(path=file(tmp_path, 'idle_timeout = "5m"\ngrace = 2\nread_size = "1k"\nmax_message = 2048'))
    assert (got.idle_timeout, got.grace, got.read_size, got.max_message) == (300.0, 2.0, 1024, 2048)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0{}"), min_size=1)


@given(
    reply=TEXT,
    uds=st.none() | TEXT,
    hook=st.booleans(),
    numbers=st.fixed_dictionaries(
        {},
        optional={
            "read_size": st.integers(1, 16 << 20),
            "idle_timeout": st.just(0.0) | st.floats(0.001, 24 * 86_400),
            "grace": st.floats(0, 24 * 86_400),
            "max_connections": st.integers(1, 1 << 24),
            "log_rate": st.integers(0, 1_000_000),
        },
    ),
)
def test_printed_config_gives_itself_again(
    tmp_path_factory: pytest.TempPathFactory, reply: str, uds: str | None, hook: bool, numbers: dict[str, Any]
) -> None:
    """--print-config writes TOML that, as a --config, is the same configuration."""
    given_fields = {**numbers, **({"uds": uds} if uds else {}), **({"hook": reply} if hook else {"reply": reply})}
    made = {name: sources.Given(value, "x\ny", name) for name, value in given_fields.items()}
    text = sources.to_toml(sources.Loaded(Config(**given_fields), made))
    tomllib.loads(text)
    path = tmp_path_factory.getbasetemp() / "printed.toml"
    path.write_text(text)
    assert load(path=path) == Config(**given_fields)


def test_printed_config_says_where_each_line_comes_from(tmp_path: Path) -> None:
    """Every field has a line with its source; what has no value, or does not act, is a comment."""
    path = file(tmp_path, "loops = 2")
    text = sources.to_toml(sources.load({"port": "1"}, {"KQNATIVE_HOOK": "a:b"}, str(path)))
    for line in (
        "port = 1  # command line",
        'hook = "a:b"  # KQNATIVE_HOOK',
        f"loops = 2  # {path}",
        "batch = 1024  # default",
        "# uds: none  # default",
        '# reply = "system: {message}"  # default, and hook acts instead',
    ):
        assert f"\n{line}\n" in text
    assert all(re.search(rf"^(# )?{name}\b", text, re.MULTILINE) for name in config.OPTIONS)


def test_readme_has_the_table_of_the_declaration() -> None:
    """The README's table of options is the one that is made from the fields."""
    assert options.markdown_table(config.OPTIONS, config.DEFAULTS) in (ROOT / "README.md").read_text()


def test_reserve_is_the_core_s() -> None:
    """The descriptors that are kept back are as many here as in api.h."""
    from kqnative import _native

    assert _native.lib.KQN_DESCRIPTOR_RESERVE == config.DESCRIPTOR_RESERVE
