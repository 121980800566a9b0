"""The command line: which command, and how all of them take options and report what went wrong."""

import argparse
import importlib
import os
import signal
import sys
from typing import Any, NoReturn

DONE, FAILED, USAGE = 0, 1, 2

# A command is the module of its name; serve comes first, and is meant when none is given.
COMMANDS = {
    "serve": "answer the messages of TCP clients",
    "load": "load-test a TCP server that answers messages",
    "compare": "compare two JSON reports of load",
    "doctor": "check this machine, and say what to do",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0 done, 1 it could not be done, 2 bad usage or configuration."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before a command has its own answer: no traceback
    _fill_standard_descriptors()
    words = sys.argv[1:] if arguments is None else arguments
    command, options = ("serve", words) if not words or words[0].startswith("-") else (words[0], words[1:])
    if command not in COMMANDS:
        return complain(f"there is no command {command!r}; the commands are: {', '.join(COMMANDS)}", USAGE)
    code: int = importlib.import_module(f"kqnative.{command}").main(options)
    return code


def say(text: str) -> int:
    """Writes what was asked for to the standard output; the exit code."""
    try:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer would fail again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return complain(f"cannot write to the standard output: {error.strerror}", FAILED)
    return DONE


def complain(message: str, code: int) -> int:
    """Writes one line to the standard error; the exit code."""
    from kqnative.logs import printable

    try:
        print(f"kqnative: error: {printable(message)}", file=sys.stderr)
    except OSError:  # nobody listens; the exit code says it too
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return code


class Parser(argparse.ArgumentParser):
    """argparse with our one-line errors, whole option names, and help that keeps to the text's own lines."""

    def __init__(self, command: str, *, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"kqnative {command}",
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.general = self.add_argument_group("options")
        self.general.add_argument("-h", "--help", action="store_true", help="show this and exit")
        self.general.add_argument("--version", action="store_true", help="show version and build, and exit")

    def understand(self, arguments: list[str]) -> dict[str, Any] | int:
        """The options, or the exit code when help or version was all that was asked for."""
        options = vars(self.parse_args(arguments))
        shows_help, shows_version = options.pop("help"), options.pop("version")
        if shows_help:
            return say(self.format_help())
        if shows_version:
            from kqnative.doctor import version_line

            return say(version_line())
        return options

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2."""
        sys.exit(complain(f"{message}; see: {self.prog} --help", USAGE))


def _fill_standard_descriptors() -> None:
    """Started without some of descriptors 0 to 2: a client must not get one, for it would read our errors."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free, which is this one
