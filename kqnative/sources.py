"""Where a command's configuration comes from: the command line, then the environment, then a file, then defaults."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kqnative import config as fields
from kqnative.config import Config
from kqnative.errors import ConfigError
from kqnative.options import flag, shown

COMMAND_LINE = "command line"
TABLE = "server"


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody gave: where, and how an error calls it there."""

    value: Any
    source: str
    label: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and what was given for it; the other fields have their defaults."""

    config: Config
    given: dict[str, Given]


def load(command_line: Mapping[str, str], environ: Mapping[str, str], path: str | None) -> Loaded:
    """The configuration that these make together. Raises ConfigError."""
    given = _from_file(path) if path is not None else {}
    for name in fields.OPTIONS:
        variable, option = fields.variable(name), flag(name)
        if name in command_line:
            given[name] = _from_text(name, command_line[name], COMMAND_LINE, option)
        elif variable in environ:
            given[name] = _from_text(name, environ[variable], variable, variable)
    _settle_rivals(given)
    return Loaded(Config(**{name: one.value for name, one in given.items()}), given)


def to_toml(loaded: Loaded) -> str:
    """The configuration as a file that gives it again, each line with its source."""
    lines = [f"[{TABLE}]"]
    for name in fields.OPTIONS:
        value = getattr(loaded.config, name)
        source = _one_line(loaded.given[name].source) if name in loaded.given else "default"
        if value is None:
            lines.append(f"# {name}: {fields.OPTIONS[name].none}  # {source}")
        elif rival := _acting_rival(name, loaded):
            lines.append(f"# {name} = {_toml_value(value)}  # {source}, and {rival} acts instead")
        else:
            lines.append(f"{name} = {_toml_value(value)}  # {source}")
    return "\n".join(lines) + "\n"


def _from_text(name: str, text: str, source: str, label: str) -> Given:
    return Given(fields.parse(name, text, label=label), source, label)


def _from_file(path: str) -> dict[str, Given]:
    given = {}
    for name, value in _read_table(path).items():
        label = f"{name} in {path}"
        if name not in fields.OPTIONS:
            raise ConfigError(f"{path}: unknown key {shown(name)} in [{TABLE}]")
        if isinstance(value, str):  # units are allowed here too
            given[name] = _from_text(name, value, path, label)
        else:
            given[name] = Given(fields.check(name, value, label=label), path, label)
    return given


def _read_table(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: it is nested too deeply") from error
    unknown = [name for name in tables if name != TABLE]
    if unknown:
        raise ConfigError(f"{path}: unknown table or key {shown(unknown[0])}; all stands in [{TABLE}]")
    table = tables.get(TABLE, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {TABLE} is not a table; begin it with [{TABLE}]")
    return table


def _settle_rivals(given: dict[str, Given]) -> None:
    """Drops what an option of the command line beats; what is still there together is an error."""
    for pair in fields.RIVALS:
        for winner, loser in (pair, pair[::-1]):
            if winner in given and loser in given and given[winner].source == COMMAND_LINE != given[loser].source:
                del given[loser]
    for one, other in fields.RIVALS:
        if one in given and other in given:
            labels = f"{given[one].label} and {given[other].label}"
            raise ConfigError(f"{labels} cannot both act: leave one of them out")


def _acting_rival(name: str, loaded: Loaded) -> str | None:
    """The option because of which this one, a default, does nothing."""
    if name in loaded.given:
        return None
    pairs = [pair for pair in fields.RIVALS if name in pair]
    rivals = [one for pair in pairs for one in pair if one != name and one in loaded.given]
    return rivals[0] if rivals else None


def _toml_value(value: str | float) -> str:
    if not isinstance(value, str):
        return repr(value)
    import json

    # A JSON string is a TOML basic string but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return text if text.isprintable() else ascii(os.fsencode(text))[1:]
