"""kqnative serve: options, signals and exit codes around one Server."""

import logging
import os
import signal
import sys
from types import FrameType

from kqnative import cli, config, limits, logs, memory, sources, values
from kqnative.errors import ConfigError, KqnativeError
from kqnative.options import add_to_parser
from kqnative.server import LINGER_S, Server

USAGE = "kqnative [serve] [options]"
DESCRIPTION = "Answers every message of its TCP clients, with a template or a Python function."
EPILOG = """\
Each option can be given as a variable too (--read-size: KQNATIVE_READ_SIZE), or
in a file (read_size in the table [server]); the command line beats variables,
and they beat the file. Times: us ms s m h, a bare number is seconds. Sizes: k M
G are 1,024-based. Counts: k M are 1,000-based.

commands:
{commands}

examples:
  kqnative --port 9000 --framing line --reply 'you said {{message}}'
  kqnative serve --hook app:reply --loops 2 --config kqnative.toml
"""
GROUPS = {
    "address": "where clients connect",
    "messages": "what a message is, and what answers it",
    "limits": "what one client, and all of them, may take",
    "logging": "lines on the standard error",
    "advanced": "how the loops work",
}


def main(arguments: list[str]) -> int:
    """Serves until a signal ends it; the exit code."""
    options = _parser().understand(arguments)
    if isinstance(options, int):
        return options
    path, only_prints = options.pop("config"), options.pop("print_config")
    given = {name: text for name, text in options.items() if text is not None}
    is_debug = given.get("log_level") == "debug"
    try:
        loaded = sources.load(given, os.environ, path)
        if only_prints:
            most = limits.connections(loaded.config)[1]
            return cli.say(sources.to_toml(loaded) + memory.comments(loaded.config, most))
        is_debug = loaded.config.log_level == "debug"
        logs.configure(loaded.config.log_level, loaded.config.log_format)
        return _Service(Server(loaded.config)).run()
    except KqnativeError as error:
        if is_debug:
            import traceback

            traceback.print_exc()
        return cli.complain(str(error), cli.USAGE if isinstance(error, ConfigError) else cli.FAILED)


class _Service:
    """A server in the main thread's care: its signals, its log, and its end."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_asked = False

    def run(self) -> int:
        """Serves until SIGINT or SIGTERM; the exit code."""
        sys.unraisablehook = _show_unless_signals_raced
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:  # before anybody can read that the server has started
            signal.signal(number, self._on_signal)
        try:
            self._server._launch(in_background=False)
            if self._is_asked:  # while it was being started
                self._server._ask_to_stop(self._server.config.grace)
            if not self._server._drain_until_ended(gives_up=True):
                self._leave()
        finally:
            for number in signals:
                signal.signal(number, signal.SIG_DFL)
        return cli.DONE if self._server._is_clean() else cli.FAILED

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Begins the stop. The next signal ends the process at once, as if we had never been asked."""
        del number, frame
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._is_asked = True
        if self._server._pid:
            self._server._ask_to_stop(self._server.config.grace)

    def _leave(self) -> None:
        """Ends without the loop that does not end: Python's own exit would wait for nothing good."""
        waited = values.show_duration(self._server._stop_grace_s + LINGER_S)
        message = f"a loop is stuck, most likely in its hook; left without it after {waited}"
        logs.say(logs.SERVER, logging.ERROR, "stuck", message)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(cli.FAILED)


def _show_unless_signals_raced(shown: "sys.UnraisableHookArgs") -> None:
    """Two signals at the same moment count as one: the handler of the first takes the second's away.

    Python would print a traceback for that.
    """
    if not (isinstance(shown.exc_value, OSError) and "ignored due to race condition" in str(shown.exc_value)):
        sys.__unraisablehook__(shown)


def _parser() -> cli.Parser:
    commands = "\n".join(f"  {name:<10}{what}" for name, what in cli.COMMANDS.items())
    parser = cli.Parser("serve", usage=USAGE, description=DESCRIPTION, epilog=EPILOG.format(commands=commands))
    parser.general.add_argument("--config", metavar="FILE", help="read options from this TOML file, table [server]")
    parser.general.add_argument(
        "--print-config", action="store_true", help="show all options with their sources and exit"
    )
    for group in config.GROUPS:
        add_to_parser(parser.add_argument_group(group, GROUPS[group]), config.OPTIONS, config.DEFAULTS, group)
    return parser
