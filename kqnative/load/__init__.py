"""A load tester for TCP servers, on the same C loop as the server.

from kqnative.load import LoadPlan, run_load

result = run_load(LoadPlan(target="localhost:8080", connections=100, duration=3))
assert result.errors["total"] == 0
assert result.latency_us["p99"] < 5_000
"""

from kqnative.load.plan import LoadPlan
from kqnative.load.result import LoadResult
from kqnative.load.run import run_load

__all__ = ["LoadPlan", "LoadResult", "run_load"]


def main(arguments: list[str]) -> int:
    """The command `load`; the exit code."""
    from kqnative.load import command

    return command.main(arguments)
