"""Flags that leave an attacker less to work with should the C be wrong: those that the compiler at hand takes.

Each is tried once, with a small program that is compiled and linked with warnings as errors. So a build neither fails
nor warns for one, for whichever system it is: that may be another one than this.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

Choices = tuple[list[str], ...]  # flags that do the same; the first that the compiler takes are used

# Some compilers define _FORTIFY_SOURCE unasked, and a C library that knows no level 3 warns.
FORTIFY = (["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"], ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"])
PROTECT_STACK: Choices = (["-fstack-protector-strong"],)
PROBE_STACK: Choices = (["-fstack-clash-protection"],)  # no array is so large that it reaches past the guard page
MARK_TARGETS: Choices = (["-fcf-protection"],)  # of jumps and calls; x86
KEEP_OVERFLOW_TESTS: Choices = (["-fno-strict-overflow"],)  # CPython is built so, but CFLAGS may be others
COMPILER = (FORTIFY, PROTECT_STACK, PROBE_STACK, MARK_TARGETS, KEEP_OVERFLOW_TESTS)
LINKER = ((["-Wl,-z,relro,-z,now,-z,noexecstack"],),)  # ELF

# It needs what the flags bring from the C library: a checked copy, and the end of a program whose stack is overrun.
PROGRAM = """\
#include <string.h>

int main(int count, char **words)
{
    char copy[16384];
    strcpy(copy, words[count - 1]);
    return copy[count];
}
"""


def is_taken(compiler: Sequence[str], flags: list[str]) -> bool:
    """Whether this compiler makes a program with these flags, without a word."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "program.c")
        source.write_text(PROGRAM, encoding="utf-8")
        command = [*compiler, "-Werror", *flags, str(source), "-o", f"{folder}/program"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError:
            return False  # there is no compiler, as the build itself will say
    return done.returncode == 0 and not done.stdout


def taken(compiler: Sequence[str], wanted: Sequence[Choices]) -> list[str]:
    """Of each choice the first flags that the compiler takes."""
    found = (next((flags for flags in choices if is_taken(compiler, flags)), []) for choices in wanted)
    return [flag for flags in found for flag in flags]


def flags_for(compiler: Sequence[str]) -> tuple[list[str], list[str]]:
    """What to add for this compiler, called with its own flags: when it compiles, and when it links.

    Nothing under a sanitizer, which is to see what these flags would hide.
    """
    if any(word.startswith("-fsanitize=") for word in compiler):
        return [], []
    return taken(compiler, COMPILER), taken(compiler, LINKER)
