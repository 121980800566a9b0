"""Where a run connects to: the target's text, its addresses, and which of them answers."""

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic, sleep

from kqnative import address
from kqnative.errors import ConfigError, KqnativeError
from kqnative.options import shown

RETRY_S = 0.1  # between two rounds of probes


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked for: a host, by name or number, and a port; or a unix socket's path."""

    host: str
    port: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a run connects to: a numeric host and a port, or a path; and how a report calls it."""

    host: str
    port: int
    path: str
    name: str


class UnreachableError(KqnativeError):
    """No address of the target took a connection; the message says why, `error` is the last one's errno."""

    def __init__(self, message: str, error: OSError) -> None:
        super().__init__(message)
        self.error = error


def parse(text: object) -> Target:
    """The target that a text names. Raises ConfigError."""
    if not isinstance(text, str):
        raise ConfigError(f"target: {shown(text)} is not a text")
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path or "\0" in path:
            raise ConfigError(f"target: {shown(text)} names no path")
        return Target("", 0, path)
    host, colon, port = text.removeprefix("tcp://").removesuffix("/").rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 65_536
    if not colon or not bare or not is_port or "/" in bare:
        raise ConfigError(f"target: {shown(text)} is not HOST:PORT, [V6]:PORT, tcp://HOST:PORT or unix:PATH")
    if "%" in bare:
        raise ConfigError(f"target: {text} has a scope; addresses with one cannot be used")
    if ":" in bare and bare == host:
        raise ConfigError(f"target: put the IPv6 address of {shown(text)} in brackets: [{bare}]:{port}")
    return Target(bare, int(port))


def check_sources(sources: object) -> tuple[str, ...]:
    """Local addresses as a tuple. Raises ConfigError unless each is numeric."""
    if isinstance(sources, str) or not isinstance(sources, Iterable):
        raise ConfigError(f"source: {shown(sources)} is not a list of addresses")
    checked = tuple(sources)
    for one in checked:
        try:
            ipaddress.ip_address(one if isinstance(one, str) and "%" not in one else "")
        except ValueError:
            raise ConfigError(f"--source: {shown(one)} is not a numeric address of this machine") from None
    return checked


def find(text: str, sources: tuple[str, ...], timeout_s: float) -> Endpoint:
    """The first address of the target that takes a connection; they are tried in the resolver's order until then.

    Raises UnreachableError when none has after so long.
    """
    wanted = parse(text)
    for source in sources:
        _check_source(source)
    candidates = [Endpoint("", 0, wanted.path, text)] if wanted.path else _resolve(wanted, sources)
    deadline = monotonic() + timeout_s
    while True:
        for i, one in enumerate(candidates):
            share_s = (deadline - monotonic()) / (len(candidates) - i)  # so that one that is silent leaves some time
            try:
                _probe(one, sources, max(0.001, share_s))
            except OSError as error:
                failure = error
            else:
                return one
        is_for_good = failure.errno is None and not isinstance(failure, TimeoutError)  # a path that is too long
        if is_for_good or monotonic() + RETRY_S >= deadline:
            why = failure.strerror or ("it did not answer" if isinstance(failure, TimeoutError) else str(failure))
            raise UnreachableError(f"no connection to {_names(candidates)} within {timeout_s:g} s: {why}", failure)
        sleep(RETRY_S)


def _check_source(source: str) -> None:
    """Raises UnreachableError unless this machine has the address."""
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET) as probe:
        try:
            probe.bind((source, 0))
        except OSError as error:
            why = f"cannot connect from {source}: {error.strerror}; give --source an address of this machine"
            raise UnreachableError(why, OSError(0, why)) from error


def _resolve(wanted: Target, sources: tuple[str, ...]) -> list[Endpoint]:
    try:
        found = socket.getaddrinfo(wanted.host, wanted.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no host name"
        os_error = error if isinstance(error, OSError) else OSError(0, why)
        raise UnreachableError(f"cannot find {wanted.host}: {why}; check the name", os_error) from error
    families = {ipaddress.ip_address(one).version for one in sources} or {4, 6}
    hosts = dict.fromkeys(
        str(where[0]) for family, _, _, _, where in found if family in (socket.AF_INET, socket.AF_INET6)
    )
    usable = [host for host in hosts if (6 if ":" in host else 4) in families]
    if not usable:
        why = f"{wanted.host} has no address that --source can reach"
        raise UnreachableError(why, OSError(0, why))
    asked = address.text((wanted.host, wanted.port))
    return [
        Endpoint(host, wanted.port, "", asked if host == wanted.host else f"{wanted.host} [{host}]:{wanted.port}")
        for host in usable
    ]


def _probe(one: Endpoint, sources: tuple[str, ...], timeout_s: float) -> None:
    if one.path:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(timeout_s)
            probe.connect(one.path)
        return
    version = 6 if ":" in one.host else 4
    own = next(((source, 0) for source in sources if ipaddress.ip_address(source).version == version), None)
    with socket.create_connection((one.host, one.port), timeout_s, own) as probe:
        if probe.getsockname() == probe.getpeername():  # a port of our own, given to us to connect from
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _names(candidates: list[Endpoint]) -> str:
    return " or ".join(one.name for one in candidates)


def error_kind(error: OSError) -> str:
    """Under which kind a report counts a probe that failed."""
    if isinstance(error, TimeoutError | BlockingIOError):  # Linux: a unix socket's queue is full
        return "timeout"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        return "refused"
    if isinstance(error, ConnectionResetError):
        return "reset"
    kinds = {
        errno.EADDRNOTAVAIL: "no_local_port",
        errno.EADDRINUSE: "no_local_port",
        errno.EMFILE: "no_descriptor",
        errno.ENFILE: "no_descriptor",
    }
    return kinds.get(error.errno or 0, "other")
