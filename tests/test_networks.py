"""--allow and --deny: who may connect."""

import ipaddress
import random
import socket
import subprocess
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from conftest import Serve, read_exactly
from test_c import ASAN, build

from kqnative import Config, ConfigError, networks

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
LISTS = 5_000
ADDRESSES = 20  # compared with each list


def a_network(chooser: random.Random, nearby: Address) -> Network:
    """A network of either kind, often one that the address lies in or just misses."""
    address = nearby if chooser.random() < 0.7 else chooser.choice([IPv4Address, IPv6Address])(chooser.getrandbits(32))
    bits = address.max_prefixlen
    number = int(address) ^ (1 << chooser.randrange(bits) if chooser.random() < 0.5 else 0)
    return as_meant(
        ipaddress.ip_network((number, chooser.choice([0, bits, chooser.randrange(bits + 1)])), strict=False)
    )


def as_meant(network: Network) -> Network:
    """A network of mapped addresses means IPv4 ones, which Python's own do not lie in."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))


def an_address(chooser: random.Random) -> Address:
    """IPv4, IPv6, or near to the mapped ones."""
    kind = chooser.randrange(3)
    if kind == 0:
        return IPv4Address(chooser.getrandbits(32))
    return IPv6Address(chooser.getrandbits(128) if kind == 1 else 0xFFFE << 32 | chooser.getrandbits(32))


def is_allowed(address: Address, rules: list[tuple[Network, bool]]) -> bool:
    """The rule in Python's own terms."""
    fitting = [(network.prefixlen, allowed) for network, allowed in rules if address in network]
    if fitting:
        return max(fitting)[1]
    return not any(allowed for _, allowed in rules)


def in_hex(address: Address) -> str:
    """As the C program reads it."""
    mapped = address.packed if isinstance(address, IPv6Address) else b"\0" * 10 + b"\xff\xff" + address.packed
    return mapped.hex()


def a_question(chooser: random.Random) -> tuple[str, str]:
    """A line for the C program, with the networks as the option's text gives them, and the answer."""
    addresses = [an_address(chooser) for _ in range(ADDRESSES)]
    found = list({a_network(chooser, chooser.choice(addresses)) for _ in range(chooser.randrange(8))})
    rules = [(network, chooser.random() < 0.5) for network in found]
    allow = ",".join(str(network) for network, allowed in rules if allowed) or None
    deny = ", ".join(str(network) for network, allowed in rules if not allowed) or None
    words = [f"{'+' if allowed else '-'}{bits}/{packed.hex()}" for packed, bits, allowed in networks.of(allow, deny)]
    answers = "".join(str(int(is_allowed(address, rules))) for address in addresses)
    return " ".join([*words, *map(in_hex, addresses)]), answers


def test_the_most_specific_network_decides(tmp_path: Path) -> None:
    """100,000 addresses and lists of networks come out as Python's ipaddress has them."""
    seed = random.randrange(1 << 32)
    chooser = random.Random(seed)
    questions = [a_question(chooser) for _ in range(LISTS)]
    program = build(tmp_path, "networks", ASAN)
    text = "".join(f"{line}\n" for line, _ in questions)
    done = subprocess.run([program], input=text, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.splitlines()
    wrong = [line for (line, right), answer in zip(questions, answers, strict=True) if answer != right]
    assert not wrong, f"seed {seed}: {wrong[:3]}"


def is_served(client: socket.socket) -> bool:
    """Whether it gets an answer, and not the end."""
    try:
        client.sendall(b"hi")
        return read_exactly(client, 10) == b"system: hi"
    except ConnectionError:
        return False


@pytest.mark.parametrize(
    ("options", "served", "denied"),
    [
        (["--deny", "127.0.0.2"], ["127.0.0.1", "127.0.0.3"], ["127.0.0.2"]),
        (["--allow", "127.0.0.2/32, 10.0.0.0/8"], ["127.0.0.2"], ["127.0.0.1"]),
        (["--deny", "0.0.0.0/0", "--allow", "127.0.0.0/30"], ["127.0.0.3"], ["127.0.0.4"]),
        (["--allow", "::ffff:127.0.0.3"], ["127.0.0.3"], ["127.0.0.2"]),
        (["--deny", "::/0"], ["127.0.0.1"], []),
    ],
)
def test_clients_are_served_or_denied_by_address(
    options: list[str], served: list[str], denied: list[str], serve: Serve
) -> None:
    """Who is denied gets no byte and the end; the reason is logged and counted, and it takes no place."""
    server = serve(*options, "--max-connections", "1", "--loops", "2")
    for source in denied * 3 + served:
        with socket.create_connection(("127.0.0.1", server.port), 10, (source, 0)) as client:
            assert is_served(client) == (source in served)
    if denied:
        server.wait_for(r"^Client FD \d+ disconnected: address not allowed")
    server.wait_until_idle()
    server.finish()
    assert server.closed("denied") == 3 * len(denied)


def test_an_ipv4_client_of_an_ipv6_server_is_known_as_ipv4(serve: Serve) -> None:
    """A dual-stack listener sees IPv4 clients mapped into IPv6; an IPv4 network means them."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this system has no dual-stack listener")
    server = serve("--host", "::", "--port", "0", "--deny", "127.0.0.2,::1")
    with socket.create_connection(("127.0.0.1", server.port), 10, ("127.0.0.2", 0)) as client:
        assert not is_served(client)
    with socket.create_connection(("::1", server.port), 10) as client:
        assert not is_served(client)
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        assert is_served(client)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"allow": "10.0.0.1/8"}, "it has host bits set"),
        ({"deny": "10.0.0.0/33"}, "deny: '10.0.0.0/33' is not a network"),
        ({"deny": "10.0.0.0/8,"}, "deny: '' is not a network"),
        ({"allow": "localhost"}, "allow: 'localhost' is not a network"),
        ({"allow": "fe80::1%eth0"}, "names an interface"),
        ({"allow": "::1,10.0.0.0/8", "deny": "10.0.0.0/8"}, "allow and deny name the same network, 10.0.0.0/8"),
        ({"allow": "::ffff:10.0.0.0/104", "deny": "10.0.0.0/8"}, "allow and deny name the same network, 10.0.0.0/8"),
        ({"allow": ""}, "allow: it is empty"),
        ({"uds": "/tmp/a.sock", "deny": "::1"}, "uds and deny cannot both act"),
    ],
)
def test_networks_that_mean_nothing(fields: dict[str, str], says: str) -> None:
    """What is wrong with an option's networks is said, and nothing starts."""
    with pytest.raises(ConfigError, match=says):
        Config(**fields)  # type: ignore[arg-type]
