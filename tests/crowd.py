"""Crowds: many connections to one or more servers, all held open at once while messages go to and fro."""

import contextlib
import resource
import time
from dataclasses import dataclass

import pytest
from conftest import REQUIRE_TOOLS, RunningServer
from figures import memory_bytes, slab_bytes
from tester import LoadTester

OWN_DESCRIPTORS = 100  # more than a server or a load tester has beside its connections
CONNECT_PATIENCE_S = 60.0
LOOK_S = 0.25  # a look at many descriptors takes a while itself


def need_descriptors(connections: int) -> None:
    """Skips a test of so many connections where a process may not have them; where tools are required it fails."""
    wanted, limit = connections + OWN_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and limit < wanted:
        (pytest.fail if REQUIRE_TOOLS else pytest.skip)(f"needs {wanted:,} descriptors, and may have {limit:,}")


@dataclass(frozen=True)
class Crowd:
    """What was seen while all connections were open."""

    connections: int
    messages: int
    server_bytes: float  # of the servers' own memory, for each connection
    kernel_bytes: float  # of the kernel's, for both ends of each
    longest_ms: float  # from when a message was to go out to its answer

    def __str__(self) -> str:
        return (
            f"all answered, none lost, messages {self.messages:,}, longest wait {self.longest_ms:,.0f} ms, for each"
            f" connection {self.server_bytes:,.0f} bytes of the server and {self.kernel_bytes:,.0f} of the kernel"
        )


@dataclass(frozen=True)
class _Memory:
    """Of all servers together, and of the kernel."""

    server_bytes: int
    kernel_bytes: int

    @classmethod
    def now(cls, servers: list[RunningServer]) -> "_Memory":
        return cls(sum(memory_bytes(server.process.pid) for server in servers), slab_bytes())


def hold(servers: list[RunningServer], connections: int, rate: int, held_s: float) -> Crowd:
    """Opens so many connections to each server, from an address of its own, holds them, and ends the servers.

    Messages go out at this rate to each server, over its connections in turn. Checks that each connection was used,
    that every message was answered as it was to be, and that the servers counted the same.
    """
    options = ("--connections", str(connections), "--rate", str(rate), "--timeout", "30s", "--connect-timeout", "60s")
    checked = ("--message", "hello {n} from {conn}", "--expect", "system: {message}")
    idle_counts = [server.descriptor_count() for server in servers]
    before = _Memory.now(servers)
    with contextlib.ExitStack() as stack:
        testers: list[LoadTester] = []
        for number, server in enumerate(servers, 2):
            testers.append(LoadTester(server, *options, *checked, "--source", f"127.0.0.{number}"))
            stack.callback(testers[-1].clean_up)
        _wait_until_open(servers, [count + connections for count in idle_counts], testers)
        time.sleep(held_s)
        held = _Memory.now(servers)
        reports = [tester.end() for tester in testers]
    for server, report in zip(servers, reports, strict=True):
        assert (report["connections"], report["reconnects"]) == (connections, 0)
        assert report["messages"] >= connections  # each in turn
        _end(server)
        assert server.counter("messages") == server.counter("answered") == report["messages"]
    count = connections * len(servers)
    return Crowd(
        connections=count,
        messages=sum(report["messages"] for report in reports),
        server_bytes=(held.server_bytes - before.server_bytes) / count,
        kernel_bytes=(held.kernel_bytes - before.kernel_bytes) / count,
        longest_ms=max(report["latency_us"]["max"] for report in reports) / 1_000,
    )


def _wait_until_open(servers: list[RunningServer], counts: list[int], testers: list[LoadTester]) -> None:
    """All of them have so many descriptors at the same time."""
    deadline = time.monotonic() + CONNECT_PATIENCE_S
    while any(server.descriptor_count() < count for server, count in zip(servers, counts, strict=True)):
        assert time.monotonic() < deadline, f"connections are missing: {[one.descriptor_count() for one in servers]}"
        for tester in testers:
            tester.check()
        time.sleep(LOOK_S)


def _end(server: RunningServer) -> None:
    server.wait_until_idle()
    server.kill()
    server.wait()
