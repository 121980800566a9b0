"""Hooks: Python functions that decide the answers, and what happens when they misbehave."""

import array
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import (
    RunningServer,
    Serve,
    exchange,
    line_message,
    read_exactly,
    read_to_end,
    u32_message,
    wait_until,
)

MIB = 1 << 20
MESSAGES = {"stream": bytes, "line": line_message, "u32": u32_message}

# b"wait" keeps the hook busy until the test has made the file "go"; "busy" says that it has begun.
WAITING = """
import pathlib
import time

def wait_for_go(message):
    if message == b"wait":
        pathlib.Path("busy").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.005)
"""

Hooked = Callable[..., RunningServer]


@pytest.fixture
def hooked(serve: Serve, tmp_path: Path) -> Hooked:
    """Starts a server whose hook is `reply` in this source: hooked(source, "--framing", "line", option="--hook")."""

    def start(source: str, *args: str, option: str = "--hook") -> RunningServer:
        name = f"answers{len(list(tmp_path.glob('answers*.py')))}"
        (tmp_path / f"{name}.py").write_text(source)
        return serve(option, f"{name}:reply", *args)

    return start


def both_kinds(expression: str) -> dict[str, str]:
    """Sources of a hook and of a batch hook that answer a message with this expression of it."""
    return {
        "--hook": f"def reply(message):\n    return {expression}\n",
        "--hook-batch": f"def reply(messages):\n    return [{expression} for message in messages]\n",
    }


def ask(server_client: "object", text: bytes) -> None:
    """One exchange of a line with a hook that echoes."""
    client = server_client
    client.sendall(text + b"\n")  # type: ignore[attr-defined]
    assert read_exactly(client, len(text) + 1) == text + b"\n"  # type: ignore[arg-type]


KINDS = ["--hook", "--hook-batch"]
