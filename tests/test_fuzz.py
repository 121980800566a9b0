"""What fuzzing has found, or may find: the kept inputs of each target, and configuration from any text and value."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from programs import FUZZ_TARGETS, WARNINGS, compile_file, compile_files, fuzz_sources, link
from test_c import ASAN, CC

from kqnative import ConfigError, config, sources
from kqnative.load import plan

ROOT = Path(__file__).parent.parent
FUZZ = ROOT / "tests" / "fuzz"
OPTIONS = {**{f"load {name}": one for name, one in plan.OPTIONS.items()}, **config.OPTIONS}
FLAGS = [*WARNINGS, *ASAN]
NUMBERS = {name: one for name, one in OPTIONS.items() if str not in one.kind.types}


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each source that any target is linked with, and its object."""
    folder = tmp_path_factory.mktemp("fuzz")
    wanted = sorted({source for target in FUZZ_TARGETS for source in fuzz_sources(target)})
    wanted.append("tests/fuzz/replay.c")
    return dict(zip(wanted, compile_files(wanted, folder, CC, FLAGS), strict=True))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("target", FUZZ_TARGETS)
def test_every_kept_input_of_a_target_holds(target: str, objects: dict[str, Path], tmp_path: Path) -> None:
    """No input that is kept, whatever it once found, makes its target fail under ASan and UBSan."""
    own = compile_file(f"tests/fuzz/{target}.c", tmp_path / "target.o", CC, FLAGS)
    linked = [objects[source] for source in (*fuzz_sources(target), "tests/fuzz/replay.c")]
    program = link(tmp_path / target, CC, ASAN, [own, *linked])
    kept = sorted((FUZZ / target).iterdir())
    done = subprocess.run([program, *kept], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(kept) >= 10
    assert done.stdout.splitlines() == list(map(str, kept))


def outcome_of(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What it returns, or the ConfigError that it raises, which is one line. Other exceptions come out."""
    try:
        return function(*arguments, **named)
    except ConfigError as caught:
        error = caught
    assert "\n" not in str(error)
    return error


@st.composite
def options_and_values(draw: st.DrawFn) -> tuple[str, Any]:
    """A numeric option's name, and a value in its range."""
    name = draw(st.sampled_from(sorted(NUMBERS)))
    one = NUMBERS[name]
    if float in one.kind.types:
        value: Any = draw(st.floats(max(one.low, 1e-6), one.high))
    else:
        value = draw(st.integers(int(one.low), int(one.high)))
    return name, 0 if one.zero and draw(st.booleans()) else value


@given(options_and_values())
def test_every_value_shown_can_be_typed(named: tuple[str, Any]) -> None:
    """What help and errors show of any option's value is, typed again, that value."""
    name, value = named
    one = NUMBERS[name]
    text = one.show(value).removesuffix(" bytes").removesuffix(" byte")
    assert one.parse(text, label="label") == pytest.approx(value, rel=1e-9)


@given(st.sampled_from(sorted(OPTIONS)), st.text() | st.from_regex(r"\A[0-9.]{0,40} ?[a-zA-Z]{0,3}\Z"))
@example("max_message", "9" * 5000)
@example("port", "\N{FULLWIDTH DIGIT ONE}")
def test_any_text_is_a_value_or_a_config_error(name: str, text: str) -> None:
    """No text that somebody could write for an option raises anything but ConfigError."""
    value = outcome_of(OPTIONS[name].parse, text, label="label")
    if isinstance(value, ConfigError):
        assert str(value).startswith("label: ")
    else:
        assert OPTIONS[name].check(value, label="label") == value


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


@given(st.sampled_from(sorted(OPTIONS)), ANYTHING)
def test_any_object_is_a_value_or_a_config_error(name: str, value: Any) -> None:
    """No object that somebody could give for a field raises anything but ConfigError."""
    outcome_of(OPTIONS[name].check, value, label="label")


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([*config.OPTIONS, "[server]", "\n", " = ", '"', "1", "'", "{", "[", "nan", "5m", "x"]))
    .map("".join)
    .map(str.encode)
)
def test_any_file_is_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """No file, however broken, raises anything but ConfigError in one line."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    outcome_of(sources.load, {}, {}, str(path))


def test_a_file_nested_too_deeply_is_a_config_error(tmp_path: Path) -> None:
    """Brackets without end are refused in one line, as whatever else is no TOML."""
    path = tmp_path / "deep.toml"
    path.write_bytes(b"x = " + b"[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.toml"):
        sources.load({}, {}, str(path))
