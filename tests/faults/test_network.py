"""Faults of the network: links that go down, packets that get lost, firewalls, addresses that come and go."""

import random
import re
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from conftest import PATIENCE_S, RunningServer, Serve, exchange, line_message, read_exactly, u32_message, wait_until
from measures import wait_until_read
from tools import HARMED, SOUND, Namespace, Network, have_namespaces, namespaced

CHATTY = ("--framing", "line", "--log-rate", "10k")  # so that the witness does not crowd out other lines


@pytest.fixture
def network() -> Iterator[Network]:
    """Two namespaces and two links. To stand before `serve` among a test's arguments: the server ends first."""
    have_namespaces()
    with closing(Network()) as network:
        yield network


def ask(client: socket.socket, text: bytes = b"hi") -> None:
    """One exchange of a line."""
    client.sendall(text + b"\n")
    assert read_exactly(client, 9 + len(text)) == b"system: " + text + b"\n"


def numbered_lines(count: int) -> bytes:
    """Lines of 100 bytes that differ."""
    return b"".join(b"%099d\n" % i for i in range(count))


def answers_to(lines: bytes) -> bytes:
    """What a line server answers."""
    return b"".join(b"system: " + line for line in lines.splitlines(keepends=True))


def closed(server: RunningServer, reason: str) -> int:
    """How many connections ended for this reason, once the server has stopped."""
    server.finish()
    return server.closed(reason)


# --- The peer dies ---


@namespaced
def test_a_quiet_peer_that_is_cut_off_is_idle(network: Network, serve: Serve) -> None:
    """Of a peer whose link went down no end ever comes: at the idle timeout it is closed, and its descriptor too."""
    server = network.serve(serve, *CHATTY, "--idle-timeout", "600ms")
    with network.connect(server) as client, network.witness(server):
        ask(client)
        begun = time.monotonic()
        network.server_side.run(f"ip link set link{HARMED} down")
        server.wait_for("disconnected: idle for 600 ms")
        assert 0.5 < time.monotonic() - begun < 1.6
    assert closed(server, "idle") == 1


def read_until_silence(client: socket.socket) -> None:
    """Takes all that comes before a tenth of a second without any."""
    client.settimeout(0.1)
    with suppress(TimeoutError):
        while client.recv(1 << 20):
            pass


class Sender:
    """Sends the same line over and over, until the connection ends."""

    def __init__(self, client: socket.socket) -> None:
        self.sent = 0
        self._client = client
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        line = b"x" * 999 + b"\n"
        try:
            while True:
                self._client.sendall(line)
                self.sent += 1
        except OSError:
            pass

    def wait_until_stuck(self) -> None:
        """Returns when it could send nothing for a tenth of a second."""
        sent = -1
        while sent < self.sent:
            sent = self.sent
            time.sleep(0.1)

    def end(self) -> None:
        """Ends the connection, if nothing else has, and so the thread."""
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join()


@namespaced
def test_a_peer_that_is_cut_off_amid_its_answers_takes_none(network: Network, serve: Serve) -> None:
    """One that is owed answers is closed at the write timeout, however willing to read it is."""
    server = network.serve(serve, "--framing", "line", "--write-timeout", "600ms")
    with network.connect(server) as client, network.witness(server):
        sender = Sender(client)
        try:
            assert read_exactly(client, 1_000_000)
            sender.wait_until_stuck()
            before = server.descriptor_count()
            begun = time.monotonic()
            network.server_side.run(f"ip link set link{HARMED} down")
            read_until_silence(client)
            wait_until(lambda: server.descriptor_count() < before, "it is closed")
            assert time.monotonic() - begun < 1.6
        finally:
            sender.end()
    assert closed(server, "write_timeout") == 1


# --- Packets get lost, late, cut and small ---


def add_rule(rule: str, *sides: Namespace) -> None:
    """A firewall's rule for all that comes in on these sides by the harmed link."""
    for side in sides:
        side.run(
            "nft add table ip harm",
            "nft add chain ip harm in { type filter hook input priority 0 ; }",
            f"nft add rule ip harm in iifname link{HARMED} {rule}",
        )


@namespaced
@pytest.mark.tool("nft")
@pytest.mark.parametrize(
    ("percent", "deaf"),
    [(5, ["server_side", "client_side"]), (30, ["server_side"]), (30, ["client_side"])],
    ids=["5-both-ways", "30-of-requests", "30-of-answers"],
)
def test_lost_packets_lose_no_byte(percent: int, deaf: list[str], network: Network, serve: Serve) -> None:
    """Where so many of the packets that come in are dropped, all answers come, in order and once: only later."""
    server = network.serve(serve, "--framing", "line")
    sides: list[Namespace] = [getattr(network, name) for name in deaf]
    for side in (network.server_side, network.client_side):
        side.run(f"ip link set link{HARMED} gso_max_segs 1")  # or one packet would be worth forty
    with network.connect(server) as client, network.connect(server) as other, network.witness(server):
        add_rule(f"numgen random mod 100 < {percent} counter drop", *sides)
        for i in range(20):
            ask(client, b"%d" % i)
        lines = numbered_lines(2_000)
        assert exchange(other, lines) == answers_to(lines)
    for side in sides:
        lost = re.search(r"counter packets (\d+)", side.run("nft list ruleset"))
        assert lost
        assert int(lost[1]) > 0


class Relay:
    """Stands between one client and a server; cuts what passes into pieces and delays each, as the seed says."""

    def __init__(self, server: RunningServer, seed: int) -> None:
        near, self.client = socket.socketpair()
        self._sockets = [near, server.connect()]
        self._threads = [
            threading.Thread(target=self._pass_on, args=(*pair, random.Random(seed + i)))
            for i, pair in enumerate([self._sockets, self._sockets[::-1]])
        ]
        for thread in self._threads:
            thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, chooser: random.Random) -> None:
        while data := source.recv(chooser.choice([100, 5_000, 65_536])):
            while data:
                size = chooser.choice([1, 7, 536, 10_000])
                time.sleep(chooser.choice([0, 0, 0.002]))
                target.sendall(data[:size])
                data = data[size:]
        target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Once both ends have come."""
        for thread in self._threads:
            thread.join()
        for one in [self.client, *self._sockets]:
            one.close()


FRAMINGS: dict[str, Callable[[bytes], bytes]] = {"stream": bytes, "line": line_message, "u32": u32_message}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_relay_that_cuts_and_delays_changes_no_byte(framing: str, serve: Serve, poller: str) -> None:
    """However the network cuts and delays both ways, the answers are those of the bytes alone."""
    seed = random.randrange(1 << 32)
    chooser = random.Random(seed)
    server = serve("--framing", framing, "--reply", "{message}", "--poller", poller)
    with ExitStack() as stack:
        for _ in range(4):
            relay = stack.enter_context(closing(Relay(server, chooser.randrange(1 << 32))))
            texts = [b"%d" % i * chooser.choice([1, 100, 1_000]) for i in range(30)]
            messages = b"".join(FRAMINGS[framing](text) for text in texts)
            assert exchange(relay.client, messages) == messages, f"seed {seed}"


@namespaced
def test_small_packets_stall_nothing(network: Network, serve: Serve) -> None:
    """With an MTU of 576 no answer waits for an acknowledgement: lock-step takes less than 10 ms, 99 times of 100."""
    server = network.serve(serve, "--framing", "line")
    for side in (network.server_side, network.client_side):
        side.run(f"ip link set link{HARMED} mtu 576")
    with network.connect(server) as client, network.witness(server):
        assert min(slowest_but_one_percent_s(client) for _ in range(3)) < 0.01


def slowest_but_one_percent_s(client: socket.socket) -> float:
    """The 99th percentile of what exchanges take of lines from 1 byte to some packets."""
    took_s = []
    for size in [1, 500, 536, 537, 1_072, 5_000] * 30:
        begun = time.monotonic()
        ask(client, b"x" * size)
        took_s.append(time.monotonic() - begun)
    return statistics.quantiles(took_s, n=100)[-1]


# --- Somebody in between ends it ---


@namespaced
@pytest.mark.tool("nft")
def test_a_firewall_that_resets_ends_one_connection(network: Network, serve: Serve) -> None:
    """The connection whose packets are answered with a reset has been reset; nobody else notices."""
    server = network.serve(serve, *CHATTY)
    with network.connect(server) as client, network.witness(server):
        ask(client)
        add_rule("reject with tcp reset", network.client_side)
        client.sendall(b"lost\n")
        server.wait_for("disconnected: connection reset")
    assert closed(server, "reset") == 1


@namespaced
@pytest.mark.tool("nft")
def test_a_host_that_is_said_to_be_unreachable_may_come_back(network: Network, serve: Serve) -> None:
    """ICMP's word ends nothing: the answer is sent again until the firewall lets it pass."""
    server = network.serve(serve, "--framing", "line")
    with network.connect(server) as client, network.witness(server) as witness:
        ask(client)
        add_rule("reject with icmp type host-unreachable", network.client_side)
        client.sendall(b"late\n")
        wait_until_read(witness)
        network.client_side.run("nft delete table ip harm")
        assert read_exactly(client, 13) == b"system: late\n"
    assert closed(server, "eof") == 2


@namespaced
@pytest.mark.tool("ss")
def test_a_connection_that_the_administrator_ends_was_reset(network: Network, serve: Serve) -> None:
    """ECONNABORTED out of the blue, with answers owed or without, is the end of that connection alone."""
    server = network.serve(serve, *CHATTY)
    with network.connect(server) as quiet, network.connect(server) as owed, network.witness(server):
        ask(quiet)
        sender = Sender(owed)
        try:
            sender.wait_until_stuck()
            before = server.descriptor_count()
            for client in (quiet, owed):
                network.server_side.run(f"ss -K sport = :{server.port} dport = :{client.getsockname()[1]}")
            wait_until(lambda: server.descriptor_count() == before - 2, "both are closed")
        finally:
            sender.end()
    assert closed(server, "reset") == 2
    assert server.counter("unanswered") > 0


@namespaced
@pytest.mark.tool("nft")
def test_half_open_connects_are_no_clients(network: Network, serve: Serve) -> None:
    """Who asks for a connection and never completes it never gets to accept(), and is in nobody's way."""
    server = network.serve(serve, "--framing", "line")
    add_rule("drop", network.client_side)
    with network.witness(server) as witness, ExitStack() as stack:
        for _ in range(500):
            with network.client_side.entered():
                client = stack.enter_context(socket.socket())
            client.setblocking(False)
            assert client.connect_ex((f"10.0.{HARMED}.1", server.port))
        half_open = network.server_side.run(f"ss -Htn state syn-recv sport = :{server.port}").count("\n")
        assert half_open >= 100  # beyond some number the kernel answers with cookies, and keeps nothing
        with network.connect(server, SOUND) as client:
            ask(client)
        wait_until_read(witness)
    server.finish()
    assert server.counter("accepted") == 2


# --- Addresses ---


@namespaced
def test_an_address_may_go_and_come_back(network: Network, serve: Serve) -> None:
    """A server whose own address is removed says nothing and does not end; with the address all goes on."""
    host = f"10.0.{HARMED}.1"
    server = network.serve(serve, "--framing", "line", "--log-rate", "0", host=host)
    device = f"dev link{HARMED}"
    with network.connect(server) as client, network.witness(server, most_gap_s=None):
        ask(client)
        network.server_side.run(f"ip address del {host}/30 {device}")
        client.sendall(b"late\n")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        network.server_side.run(
            f"ip address add {host}/30 {device}", f"ip route change 10.0.{HARMED}.0/30 {device} rto_min 5ms"
        )
        client.settimeout(PATIENCE_S)
        assert read_exactly(client, 13) == b"system: late\n"
        with network.connect(server) as another:
            ask(another)
    server.finish()
    assert [line.split()[1] for line in server.lines] == ["started", "stopped:"]


@namespaced
def test_ipv6_of_all_kinds_is_served_by_one_listener(network: Network, serve: Serve) -> None:
    """`--host ::` takes IPv4 though the system's default is IPv6 alone, and shows each address in its short form."""
    with network.server_side.entered():
        Path("/proc/sys/net/ipv6/bindv6only").write_text("1")
    for side, last in ((network.server_side, 1), (network.client_side, 2)):
        for address in (f"fd00:0:0:0::{last}", f"fe80::{last}"):
            side.run(f"ip address add {address}/64 dev link{HARMED} nodad")
    server = network.serve(serve, "--reply", "{peer}", host="::")
    cases = [
        (f"10.0.{HARMED}.1", f"10.0.{HARMED}.2:%d"),
        ("fd00::1", "[fd00::2]:%d"),
        (f"fe80::1%link{HARMED}", "[fe80::2]:%d"),
    ]
    for host, shown in cases:
        with network.client_side.entered():
            client = socket.create_connection((host, server.port), PATIENCE_S)
        with client:
            port = client.getsockname()[1]
            assert exchange(client, b"x").decode() == shown % port
