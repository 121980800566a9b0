"""What an option may be, said once for each: from these facts come the command line, checks, help and tables."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from kqnative import values
from kqnative.errors import ConfigError

if TYPE_CHECKING:
    import argparse

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to write a value: what Python takes, how text becomes it, and how it is shown."""

    types: tuple[type, ...]
    wanted: str
    metavar: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str]


TEXT = Kind((str,), "a text", "TEXT", str, str)
COUNT = Kind((int,), "a whole number", "N", values.parse_count, values.show_count)
RATE = Kind((int, float), "a number", "N", values.parse_rate, values.show_rate)
SIZE = Kind((int,), "a whole number of bytes", "SIZE", values.parse_size, values.show_size)
DURATION = Kind((int, float), "a number of seconds", "TIME", values.parse_duration, values.show_duration)


@dataclass(frozen=True, slots=True)
class Option:
    """All that is to be said of one field but its name and default."""

    kind: Kind
    group: str
    help: str
    unit: str = ""
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    metavar: str = ""
    zero: str = ""  # what 0 means where the range begins above it, or means more than none
    none: str = ""  # what None, the default, means; empty: None is not allowed
    empty: bool = False  # whether a text may be empty
    short: str = ""  # its one-letter form

    @property
    def range(self) -> str:
        """What is allowed, in words; empty where everything is."""
        if self.choices:
            return ", ".join(self.choices)
        if self.high == 0:
            return ""
        between = f"{self.kind.show(self.low)} to {self.kind.show(self.high)}"
        return f"{between} (0: {self.zero})" if self.zero else between

    def check(self, value: object, *, label: str, text: str | None = None) -> Any:
        """The value, converted where that loses nothing; ConfigError under this label if it is wrong.

        `text` is what it was written as, for the error.
        """
        if value is None and self.none:
            return None
        if isinstance(value, bool) or not isinstance(value, self.kind.types):
            raise ConfigError(f"{label}: {shown(value)} is not {self.kind.wanted}")
        if isinstance(value, str):
            return self._check_text(value, label)
        if not isinstance(value, int | float):
            return value
        if not (self.low <= value <= self.high or (self.zero and value == 0)):  # NaN is in no range
            given = shown(value if text is None else text)
            raise ConfigError(f"{label}: {given} is not allowed; it takes {self.range}")
        return float(value) if float in self.kind.types else value

    def parse(self, text: str, *, label: str) -> Any:
        """The value from its text; ConfigError under this label if it is wrong."""
        try:
            value = self.kind.parse(text)
        except ValueError as error:
            raise ConfigError(f"{label}: {shown(text)} is not {error}") from None
        return self.check(value, label=label, text=text)

    def show(self, value: object) -> str:
        """A value of the field as help and tables show it."""
        return self.none if value is None else self.kind.show(value)

    def _check_text(self, value: str, label: str) -> str:
        if self.choices and value not in self.choices:
            raise ConfigError(f"{label}: {shown(value)} is not one of {self.range}")
        if not value and not self.empty:
            raise ConfigError(f"{label}: it is empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{label}: {shown(value)} is not UTF-8") from None
        if "\0" in value and not self.empty:  # C would end the text there; a template is handed over with its length
            raise ConfigError(f"{label}: {shown(value)} holds a NUL")
        return value


def option(default: T, kind: Kind, group: str, help: str, **facts: Any) -> T:  # noqa: A002
    """A dataclass field that is an option."""
    described: T = field(default=default, metadata={"option": Option(kind, group, help, **facts)})
    return described


def options_of(cls: type) -> dict[str, Option]:
    """The options among a dataclass's fields."""
    return {f.name: f.metadata["option"] for f in dataclasses.fields(cls) if "option" in f.metadata}


def defaults_of(cls: type) -> dict[str, Any]:
    """Their defaults."""
    return {f.name: f.default for f in dataclasses.fields(cls) if "option" in f.metadata}


def shown(value: object) -> str:
    """A wrong value as an error shows it: in one line, and not too long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python converts
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def flag(name: str) -> str:
    """A field's option on the command line."""
    return "--" + name.replace("_", "-")


def markdown_table(options: dict[str, Option], defaults: dict[str, Any]) -> str:
    """Options as a document shows them."""
    lines = ["| Option | Default | Takes | What it does |", "|---|---|---|---|"]
    for name, one in options.items():
        flags = f"`{one.short}`, `{flag(name)}`" if one.short else f"`{flag(name)}`"
        row = (flags, f"`{one.show(defaults[name])}`", one.range or one.metavar or one.kind.metavar, one.help)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def add_to_parser(
    group: "argparse._ArgumentGroup", options: dict[str, Option], defaults: dict[str, Any], name: str
) -> None:
    """Gives argparse the options of one group of ours, with range, unit and default in their help."""
    for field_name, one in options.items():
        if one.group != name:
            continue
        metavar = "|".join(one.choices) or one.metavar or one.kind.metavar
        facts = [one.zero and f"0: {one.zero}", f"default: {one.show(defaults[field_name])}"]
        text = f"{one.help} ({'; '.join(fact for fact in facts if fact)})"
        flags = [one.short, flag(field_name)] if one.short else [flag(field_name)]
        group.add_argument(*flags, dest=field_name, metavar=metavar, help=text.replace("%", "%%"))
