"""The load tester as clients of a test: it goes on until it is ended, and then says what it saw."""

import json
import signal
import subprocess
import sys
from typing import Any

from conftest import RunningServer

LAST_ANSWERS_S = 20.0  # for the end of a tester on a busy machine


class LoadTester:
    """`python -m kqnative load` in a process of its own."""

    def __init__(self, server: RunningServer, *args: str) -> None:
        endless = ("--warmup", "0", "--duration", "24h", "--json", "-")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kqnative", "load", server.address, *endless, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def check(self) -> None:
        """It still runs: it ends by itself only when something went wrong."""
        assert self.process.poll() is None, f"a load tester ended: {self.process.communicate()}"

    def end(self) -> dict[str, Any]:
        """Sends no more, waits for the last answers, and says what it saw: all that was sent was answered."""
        self.check()
        self.process.send_signal(signal.SIGINT)
        written, complaint = self.process.communicate(timeout=LAST_ANSWERS_S)
        assert self.process.returncode == 130, complaint
        report: dict[str, Any] = json.loads(written)
        errors = {kind: count for kind, count in report["errors"].items() if count}
        assert not errors, (errors, report["wrong_answers"])
        assert report["messages"] == report["sent"] > 0
        return report

    def clean_up(self) -> None:
        """Leaves no process and no descriptor."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()
