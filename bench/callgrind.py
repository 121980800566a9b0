"""Reads what callgrind wrote: instructions and calls of each function of csrc, and what it had the C library do."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

OURS = "csrc/"

COMMAND = ["valgrind", "--tool=callgrind", "--dump-line=no", "--dump-instr=no", "--compress-strings=yes"]

# A name is written out once, as in "fn=(7) name", and then only as "fn=(7)". A c before them: the called function's.
POSITION = re.compile(r"(c?)(fn|fl|fi|fe|ob)=\((\d+)\)(?: (.*))?$")
COST = re.compile(r"(?:\d+|[+-]\d+|\*) (\d+)$")  # behind the line of the source, which is not asked for


@dataclass(slots=True)
class Profile:
    """Of one run."""

    # Of its own, by file and function; those of an inlined function belong to the one that it became a part of.
    instructions: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by the called function's name
    library_instructions: int = 0  # in functions that are not of csrc, on behalf of one that is


class Names:
    """What the numbers in such a file stand for. The three kinds of file names share one list."""

    def __init__(self) -> None:
        self._known: dict[tuple[bool, bool, str], str] = {}

    def name(self, kind: str, number: str, text: str | None) -> str:
        """The name; text holds it where it has not been said before."""
        key = (kind == "fn", kind == "ob", number)
        if text is not None:
            self._known[key] = text
        return self._known[key]


def is_ours(path: str) -> bool:
    """Whether a file is one of the core."""
    return OURS in path


def read_profile(path: Path) -> Profile:
    """Reads one file."""
    profile = Profile()
    names = Names()
    file = function = called_file = called = ""
    is_call = False  # the next cost is what the called function and all that it called came to
    for line in path.read_text().splitlines():
        if found := POSITION.match(line):
            of_called, kind, number, text = found.groups()
            name = names.name(kind, number, text)
            if kind == "fn" and of_called:
                called = name
            elif kind == "fn":
                function = name
            elif kind != "ob" and of_called:
                called_file = name
            elif kind == "fl":
                file = called_file = name
        elif line.startswith("calls="):
            profile.calls[called] += int(line.removeprefix("calls=").split()[0])
            is_call = True
        elif found := COST.match(line):
            count = int(found[1])
            if is_ours(file) and not is_call:
                profile.instructions[file[file.rfind(OURS) :], function] += count
            elif is_ours(file) and not is_ours(called_file) and not called.startswith("__wrap_"):
                profile.library_instructions += count
            if is_call:
                is_call, called_file = False, file
    return profile
