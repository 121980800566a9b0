"""Every poller gives the same transcript and the same sums for the same scenario."""

import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import FRAMED, POLLERS, check_stats, read_exactly, read_to_end, wait_until

from kqnative import Server, Stats

SEEDS = range(12)
SCHEDULING = {"turns", "events", "stale_events", "log_dropped"}  # what a poller may do in its own way


Scenario = Callable[["Scene"], None]


class Scene:
    """One server, and the clients of a scenario."""

    def __init__(self, server: Server, framing: str, seed: int) -> None:
        self.server = server
        self.framed = FRAMED[framing]
        self.chooser = random.Random(seed)
        self.seen: list[bytes] = []

    def connect(self) -> socket.socket:
        """A client whose halves of messages go out at once."""
        client = socket.create_connection(("127.0.0.1", self.server.port), 10)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def messages(self, count: int) -> list[bytes]:
        """Some of many lengths."""
        sizes = [self.chooser.choice([1, 30, self.chooser.randrange(1, 9_000)]) for _ in range(count)]
        return [bytes(self.chooser.choices(b"abc", k=size)) for size in sizes]

    def wait_for_closed(self, count: int) -> None:
        """Returns when so many connections have ended."""
        wait_until(lambda: sum(self.server.stats().closed.values()) == count, f"{count} connections end")


def lock_step(scene: Scene) -> None:
    """One message at a time."""
    with scene.connect() as client:
        for message in scene.messages(20):
            data = scene.framed(message)
            client.sendall(data)
            scene.seen.append(read_exactly(client, len(b"system: ") + len(data)))


def pipelined_and_half_closed(scene: Scene) -> None:
    """All at once, then our side's end; the answers are read only then."""
    with scene.connect() as client:
        client.sendall(b"".join(map(scene.framed, scene.messages(60))))
        client.shutdown(socket.SHUT_WR)
        scene.seen.append(read_to_end(client))


def interleaved(scene: Scene) -> None:
    """Several clients, each message in two pieces, between those of others."""
    clients = [scene.connect() for _ in range(12)]
    for message in scene.messages(12):
        data = scene.framed(message)
        cut = scene.chooser.randrange(len(data))
        one, other = scene.chooser.sample(clients, 2)
        one.sendall(data[:cut])
        other.sendall(scene.framed(b"between"))
        scene.seen.append(read_exactly(other, len(b"system: ") + len(scene.framed(b"between"))))
        one.sendall(data[cut:])
        scene.seen.append(read_exactly(one, len(b"system: ") + len(data)))
    for client in clients:
        client.close()


def ends_of_every_kind(scene: Scene) -> None:
    """A message that is too long, an unfinished one, a reset, and a port scan, one after another."""
    with scene.connect() as client:
        client.sendall(scene.framed(b"ok") + scene.framed(b"x" * 20_000))
        scene.seen.append(read_to_end(client))
    scene.wait_for_closed(1)
    with scene.connect() as client:
        client.sendall(b"\0\0\1\0unfinished")
        client.shutdown(socket.SHUT_WR)
        scene.seen.append(read_to_end(client))
    scene.wait_for_closed(2)
    client = scene.connect()
    client.sendall(scene.framed(b"ok"))
    scene.seen.append(read_exactly(client, len(b"system: ") + len(scene.framed(b"ok"))))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    scene.wait_for_closed(3)
    scene.connect().close()
    scene.wait_for_closed(4)


def a_stop_with_clients(scene: Scene) -> None:
    """Some are idle at the stop, one has an unfinished message, one has just been answered."""
    clients = [scene.connect() for _ in range(3)]
    data = scene.framed(b"last")
    clients[0].sendall(data)
    scene.seen.append(read_exactly(clients[0], len(b"system: ") + len(data)))
    clients[1].sendall(data[:1])
    wait_until(lambda: scene.server.stats().bytes_in == len(data) + 1, "all is read")
    with ThreadPoolExecutor() as readers:
        endings = [readers.submit(read_to_the_end_and_close, client) for client in clients]
        scene.server.stop()
        scene.seen += [ending.result() for ending in endings]


def read_to_the_end_and_close(client: socket.socket) -> bytes:
    """What still comes."""
    with client:
        return read_to_end(client)


def run(scenario: Scenario, framing: str, poller: str, seed: int) -> tuple[list[bytes], dict[str, Any]]:
    """What the clients saw, and the counters at the end."""
    with Server(host="127.0.0.1", port=0, framing=framing, poller=poller, max_message=10_000) as server:
        scene = Scene(server, framing, seed)
        scenario(scene)
        if scenario is not a_stop_with_clients:
            wait_until(lambda: server.stats().open == 0, "all connections end")
    stats = server.stats()
    check_stats(stats)
    return scene.seen, {name: getattr(stats, name) for name in Stats.__slots__ if name not in SCHEDULING}


@pytest.mark.skipif(len(POLLERS) == 1, reason="this system has one poller")
@pytest.mark.parametrize("framing", ["line", "u32"])
@pytest.mark.parametrize(
    "scenario", [lock_step, pipelined_and_half_closed, interleaved, ends_of_every_kind, a_stop_with_clients]
)
def test_every_poller_gives_the_same_transcript(scenario: Scenario, framing: str) -> None:
    """What clients see, why connections end and what is counted do not depend on the poller."""
    for seed in SEEDS:
        expected = run(scenario, framing, POLLERS[0], seed)
        for poller in POLLERS[1:]:
            assert run(scenario, framing, poller, seed) == expected, (poller, seed)


@pytest.mark.skipif(len(POLLERS) == 1, reason="this system has one poller")
def test_every_poller_gives_the_same_stream_in_lock_step() -> None:
    """In stream framing too, where a client waits for each answer."""
    for seed in SEEDS:
        expected = run(lock_step, "stream", POLLERS[0], seed)
        assert all(run(lock_step, "stream", poller, seed) == expected for poller in POLLERS[1:])
