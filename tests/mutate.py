"""`make mutants`: breaks the C core in one small place at a time, and counts how often the tests notice.

A mutant that does not compile, or compiles to what was there before or to what another one did, is not counted. Those
that survive are listed with a reason in mutants-survivors.md: each shows a test that is missing, or is the same program
written in another way. Exit code 1: fewer than nine in ten are noticed in some file, or a survivor is not listed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from figures import record
from programs import CORE, REFUSING, ROOT, SERVER, SIMULATION, SYSTEM, compile_file, compile_files, link

CC = os.environ.get("CC", "cc")
FLAGS = ["-O1"]
ASAN = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SURVIVORS = ROOT / "tests" / "mutants-survivors.md"
LEAST_SHARE = 0.9
SEEDS = 20000
POLLERS = ("epoll", "poll", "select")
# A mutant may take memory without end. But the address sanitizer needs all the addresses there are.
LIMITED = ["/bin/sh", "-c", 'test "$1" = refuse || ulimit -v 4000000; shift; exec "$@"', "sh"]
TIMEOUT_FACTOR = 5  # of what the judge takes when nothing is wrong
FILES = ("csrc/core/framing.h", "csrc/server/reply.c", "csrc/server/connection.c", "csrc/poller/knotes.c")
# Of a header, the files that have its functions in their code; whoever else includes it has the sound one.
USERS = {
    "csrc/core/framing.h": (
        "csrc/server/batch.c",
        "csrc/server/connection.c",
        "csrc/server/reply.c",
        "tests/c/framing.c",
    )
}

TOKEN = re.compile(
    r"""(?P<skip>\s+|/\*.*?\*/|//[^\n]*|\#(?:[^\n]|\\\n)*)
    |(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<word>[A-Za-z_]\w*)
    |(?P<number>\d\w*)
    |(?P<sign><<=|>>=|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)""",
    re.VERBOSE | re.DOTALL,
)
REPLACEMENTS = {
    "<": ("<=", ">="),
    ">": (">=", "<="),
    "<=": ("<", ">"),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "&&": ("||",),
    "||": ("&&",),
    "+": ("-",),
    "-": ("+",),
    "++": ("--",),
    "--": ("++",),
    "+=": ("-=",),
    "-=": ("+=",),
}
OTHER_CONSTANTS = {"true": "false", "false": "true"}
# What begins no statement that could be left out: declarations, and what leads elsewhere.
NOT_DROPPED = {"return", "goto", "break", "continue", "if", "else", "while", "for", "do", "switch", "case", "default"}
NOT_DROPPED |= {"const", "static", "struct", "enum", "union", "unsigned", "int", "bool", "char", "size_t", "ssize_t"}
NOT_DROPPED |= {"int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t", "socklen_t"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Mutant:
    function: str
    old: str  # the lines that change, in one
    new: str
    line: int
    source: str  # the whole file

    @property
    def name(self) -> tuple[str, str, str]:
        """What it is known by, wherever it stands in the file."""
        return self.function, self.old, self.new


@dataclass(frozen=True, slots=True)
class Judge:
    """A program that fails when something is wrong."""

    name: str
    flags: list[str]  # that the file under test is compiled with
    users: list[str]  # what is compiled anew for each mutant: that file, or those that include it
    objects: list[Path]  # of all others
    arguments: list[str]
    patience_s: float = 60.0

    def runs_well(self, program: Path) -> bool:
        """Whether it finds nothing wrong, in time. The first row that fails is enough: others may wait for long."""
        command = [*LIMITED, self.name, program, *self.arguments]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout
            timer = threading.Timer(self.patience_s, process.kill)
            timer.start()
            failed = any(line.startswith("FAIL") for line in process.stdout)
            if failed:
                process.kill()
            timer.cancel()
        return not failed and process.returncode == 0


def tokens_of(source: str) -> list[Token]:
    """The file's tokens, comments and preprocessor lines left out."""
    found = []
    for match in TOKEN.finditer(source):
        if match.lastgroup and match.lastgroup != "skip":
            found.append(Token(match.lastgroup, match[0], match.start(), match.end()))
    return found


def bodies_of(tokens: list[Token]) -> Iterator[tuple[str, list[Token]]]:
    """Each function's name, and the tokens between its braces."""
    depth = 0
    begin = 0
    name = ""
    for index, token in enumerate(tokens):
        if token.text == "{":
            if depth == 0 and tokens[index - 1].text == ")":
                name = name_before(tokens, index - 1)
                begin = index + 1
            depth += 1
        elif token.text == "}":
            depth -= 1
            if depth == 0 and name:
                yield name, tokens[begin:index]
                name = ""


def name_before(tokens: list[Token], closing: int) -> str:
    """What stands before the parenthesis that is closed here."""
    index = opening_of(tokens, closing)
    return tokens[index - 1].text


def opening_of(tokens: list[Token], closing: int) -> int:
    """The index of the parenthesis that is closed here."""
    depth = 0
    for index in range(closing, -1, -1):
        depth += {")": 1, "(": -1}.get(tokens[index].text, 0)
        if depth == 0:
            return index
    raise ValueError("unbalanced")


def closing_of(tokens: list[Token], opening: int) -> int:
    """The index of the parenthesis that closes this one."""
    depth = 0
    for index in range(opening, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index].text, 0)
        if depth == 0:
            return index
    raise ValueError("unbalanced")


def changes_of(tokens: list[Token]) -> Iterator[tuple[int, int, str]]:
    """(from, to, new text): each thing that can be wrong in a function."""
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index > 0 else ";"
        is_unary = before in {"(", ",", "return", "=", "?", ":", ";", "{", "&&", "||", "==", "!=", "<", ">"}
        if token.kind == "sign" and token.text in REPLACEMENTS and not (token.text in "+-" and is_unary):
            for text in REPLACEMENTS[token.text]:
                yield token.begin, token.end, text
        elif token.kind == "number":
            yield token.begin, token.end, f"({token.text} + 1)"
        elif token.text in OTHER_CONSTANTS:
            yield token.begin, token.end, OTHER_CONSTANTS[token.text]
        elif token.text in {"if", "while"}:
            closing = closing_of(tokens, index + 1)
            begin, end = tokens[index + 1].end, tokens[closing].begin
            yield begin, begin, "!("
            yield end, end, ")"
        elif token.text == "return" and tokens[index + 1].text == "-":
            yield tokens[index + 1].begin, tokens[index + 1].end, ""
    yield from dropped_statements(tokens)


def dropped_statements(tokens: list[Token]) -> Iterator[tuple[int, int, str]]:
    """Statements that can be left out: assignments and calls."""
    begin = 0
    index = 0
    while index < len(tokens):
        text = tokens[index].text
        if text in {"if", "while", "for", "switch"}:
            index = closing_of(tokens, index + 1)
            begin = index + 1
        elif (text in {"{", "}", "else", "do", ":"} and index == begin) or text in {"{", "}"}:
            begin = index + 1
        elif text == ";":
            if index > begin and tokens[begin].text not in NOT_DROPPED:
                yield tokens[begin].begin, tokens[index].begin, ""
            begin = index + 1
        index += 1


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every mutant of a file."""
    for function, tokens in bodies_of(tokens_of(source)):
        pending: tuple[int, int, str] | None = None
        for change in changes_of(tokens):
            if change[2] == "!(":  # the next one closes it
                pending = change
            elif pending:
                yield mutant_with(source, function, [pending, change])
                pending = None
            else:
                yield mutant_with(source, function, [change])


def mutant_with(source: str, function: str, changes: list[tuple[int, int, str]]) -> Mutant:
    """The mutant with these changes, which are in order."""
    first = source.rfind("\n", 0, changes[0][0]) + 1
    last = source.find("\n", changes[-1][1])
    new = []
    at = first
    for begin, end, text in changes:
        new += [source[at:begin], text]
        at = end
    new.append(source[at:last])
    changed = "".join(new)
    line = source.count("\n", 0, first) + 1
    return Mutant(
        function, in_one_line(source[first:last]), in_one_line(changed), line, source[:first] + changed + source[last:]
    )


def in_one_line(text: str) -> str:
    """A mutant's lines without their indentation."""
    return " ".join(text.split())


def judges_of(file: str, folder: Path) -> list[Judge]:
    """Who notices what is wrong in a file, the quickest first; their objects are made here."""
    if file == "csrc/poller/knotes.c":
        kevent = [*SERVER, *SYSTEM, "tests/c/kevent.c"]
        return [*(judge("kevent", file, kevent, folder, poller) for poller in POLLERS), refusing_judge(file, folder)]
    judges = [
        judge("simulate", file, [*SIMULATION, "tests/c/simulate.c"], folder, "--from", "1", "--seeds", str(SEEDS)),
        refusing_judge(file, folder),
    ]
    if file in {"csrc/server/connection.c", "csrc/server/reply.c"}:
        judges.insert(1, judge("connection", file, [*SERVER, *SYSTEM, "tests/c/connection.c"], folder))
    if file == "csrc/core/framing.h":
        judges.insert(0, judge("framing", file, [*SERVER, *SYSTEM, "tests/c/framing.c"], folder))
    return judges


def users_of(file: str, sources: list[str]) -> list[str]:
    """Which of a program's files are compiled anew for a mutant of this one."""
    return [source for source in sources if source in USERS.get(file, (file,))]


def judge(name: str, file: str, sources: list[str], folder: Path, *arguments: str) -> Judge:
    """One whose files are all compiled in the same way."""
    users = users_of(file, sources)
    others = [source for source in sources if source not in users]
    return Judge(name, FLAGS, users, compile_files(others, made(folder / name), CC, FLAGS), list(arguments))


def refusing_judge(file: str, folder: Path) -> Judge:
    """Whatever call can be refused, on real descriptors; what leaks is seen by the address sanitizer."""
    flags = [*FLAGS, *ASAN, *REFUSING]
    users = users_of(file, CORE)
    core = compile_files([source for source in CORE if source not in users], made(folder / "refuse"), CC, flags)
    own = compile_file("tests/c/refuse.c", folder / "refuse.o", CC, [*FLAGS, *ASAN])
    return Judge("refuse", flags, users, [own, *core], [])


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compile_mutant(file: str, source: str, users: Iterable[str], folder: Path, flags: list[str]) -> list[Path] | None:
    """The objects of what is compiled anew, or None. A header is found before the sound one by who includes it.

    The names are the files' own, for they stand in the objects.
    """
    path = made(folder / Path(file).parent) / Path(file).name
    path.write_text(source)
    if file in USERS:
        flags = ["-iquote", str(folder / "csrc"), *flags]
    else:
        users = [str(path)]
    try:
        return [compile_file(user, folder / f"mutant{number}.o", CC, flags) for number, user in enumerate(users)]
    except AssertionError:
        return None


def code_of(compiled: list[Path]) -> bytes:
    """By which mutants are told apart."""
    return b"".join(path.read_bytes() for path in compiled)


def is_content(judge: Judge, file: str, source: str, folder: Path) -> bool:
    """Whether a judge finds nothing wrong with this source of the file."""
    compiled = compile_mutant(file, source, judge.users, folder, judge.flags)
    if compiled is None:
        return False
    return judge.runs_well(link(folder / "judge", CC, judge.flags, [*compiled, *judge.objects]))


def with_patience(judge: Judge, file: str, folder: Path) -> Judge:
    """The judge with its patience, by the time that it takes when nothing is wrong; it must be content then."""
    start = time.monotonic()
    if not is_content(judge, file, (ROOT / file).read_text(), folder):
        sys.exit(f"{judge.name} fails with nothing wrong in {file}: mend that first")
    took_s = time.monotonic() - start
    return replace(judge, patience_s=2 + TIMEOUT_FACTOR * took_s)


def judge_file(file: str, scratch: Path, jobs: int) -> tuple[int, list[Mutant]]:
    """How many mutants a file has that count, and those that survive."""
    source = (ROOT / file).read_text()
    judges = [with_patience(judge, file, scratch / "original") for judge in judges_of(file, scratch)]
    users = USERS.get(file, (file,))
    original = compile_mutant(file, source, users, scratch / "original", FLAGS)
    assert original
    seen = {code_of(original)}

    def counts_and_survives(numbered: tuple[int, Mutant]) -> tuple[bool, bool]:
        number, mutant = numbered
        folder = scratch / str(number)
        compiled = compile_mutant(file, mutant.source, users, folder, FLAGS)
        code = code_of(compiled or original)
        if code in seen:
            return False, False
        seen.add(code)
        survives = all(is_content(judge, file, mutant.source, folder) for judge in judges)
        shutil.rmtree(folder)
        return True, survives

    mutants = list(mutants_of(source))
    with ThreadPoolExecutor(jobs) as pool:
        verdicts = list(pool.map(counts_and_survives, enumerate(mutants)))
    survivors = [mutant for mutant, (_, survives) in zip(mutants, verdicts, strict=True) if survives]
    return sum(counts for counts, _ in verdicts), survivors


LISTED = re.compile(r"^- `(\w+)`: `([^`]+)` becomes `([^`]*)`: \S", re.MULTILINE)


def listed_survivors() -> set[tuple[str, str, str]]:
    """The names of those that the page gives a reason for."""
    text = re.sub(r"\n  +", " ", SURVIVORS.read_text()) if SURVIVORS.exists() else ""
    return {(found[1], found[2], found[3]) for found in LISTED.finditer(text)}


def main() -> int:
    """Exit code 1: a share is too low, or a survivor is not listed."""
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("files", nargs="*", metavar="FILE", help=f"default: {' '.join(FILES)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants judged at a time")
    options = parser.parse_args()
    files = options.files or FILES
    listed = listed_survivors()
    is_well = True
    for file in files:
        with tempfile.TemporaryDirectory() as scratch:
            count, survivors = judge_file(file, Path(scratch), options.jobs)
        killed = count - len(survivors)
        record(f"mutants {Path(file).name}: killed {killed} of {count} ({100 * killed / max(count, 1):.1f} %)")
        is_well = is_well and killed >= LEAST_SHARE * count
        for mutant in survivors:
            if mutant.name not in listed:
                is_well = False
                print(f"{file}:{mutant.line} survives and is not listed:")
                print(f"- `{mutant.function}`: `{mutant.old}` becomes `{mutant.new}`: ")
    return not is_well


if __name__ == "__main__":
    sys.exit(main())
