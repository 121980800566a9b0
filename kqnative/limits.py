"""What this system lets one process have, and what raises it here."""

import os
import sys
from dataclasses import dataclass

from kqnative.config import DESCRIPTOR_RESERVE, MOST_CONNECTIONS, Config

# For each system: the name of its setting for a listener's queue, the names of those for the ends of the range of local
# ports (as sysctl calls them, or as files), and what to do to have more.
_BACKLOGS = {
    "linux": ("/proc/sys/net/core/somaxconn", "sysctl -w net.core.somaxconn={wanted}"),
    "darwin": ("kern.ipc.somaxconn", "sudo sysctl kern.ipc.somaxconn={wanted}"),
    "freebsd": ("kern.ipc.soacceptqueue", "sysctl kern.ipc.soacceptqueue={wanted}"),
    "openbsd": ("kern.somaxconn", "sysctl kern.somaxconn={wanted}"),
    "netbsd": ("SOMAXCONN", "a kernel compiled with SOMAXCONN={wanted}"),
    "dragonfly": ("kern.ipc.somaxconn", "sysctl kern.ipc.somaxconn={wanted}"),
}
_PORTS = {
    "linux": (("/proc/sys/net/ipv4/ip_local_port_range",), "sysctl -w net.ipv4.ip_local_port_range='1024 65535'"),
    "darwin": (
        ("net.inet.ip.portrange.first", "net.inet.ip.portrange.last"),
        "sudo sysctl net.inet.ip.portrange.first=16384",
    ),
    "freebsd": (
        ("net.inet.ip.portrange.first", "net.inet.ip.portrange.last"),
        "sysctl net.inet.ip.portrange.first=1024",
    ),
    "openbsd": (("net.inet.ip.porthifirst", "net.inet.ip.porthilast"), "sysctl net.inet.ip.porthifirst=1024"),
    "netbsd": (("net.inet.ip.anonportmin", "net.inet.ip.anonportmax"), "sysctl -w net.inet.ip.anonportmin=1024"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of the system: its value (None: it can't be read here), its name there, and what raises it."""

    value: int | None
    name: str
    command: str


def connections(config: Config) -> tuple[int, int]:
    """The limit of descriptors in force once raised, and how many clients may be served at a time."""
    from kqnative import _native

    asked = config.max_connections
    limit = _native.raise_descriptor_limit(asked + DESCRIPTOR_RESERVE if asked else 0)
    room = min(max(1, limit - DESCRIPTOR_RESERVE), MOST_CONNECTIONS)
    if config.poller == "select":
        room = min(room, _native.select_limit() - DESCRIPTOR_RESERVE)
    return limit, room if asked is None else min(asked, room)


def backlog(wanted: int) -> Limit:
    """How many clients a listener's queue may hold, and what lets it hold so many."""
    from kqnative import _native

    name, command = _BACKLOGS.get(_system(), ("somaxconn", "your system's sysctl"))
    return Limit(_native.backlog_limit(), name, command.format(wanted=wanted))


def local_ports() -> Limit:
    """How many ports one source address has to connect from."""
    names, command = _PORTS.get(_system(), ((), "your system's sysctl"))
    ends = _numbers(names)
    return Limit(ends[1] - ends[0] + 1 if len(ends) == 2 else None, " and ".join(names), command)


def descriptor_command(wanted: int) -> str:
    """What lets a process have so many descriptors."""
    system = _system()
    if system == "darwin":
        return f"sudo sysctl kern.maxfiles={2 * wanted} kern.maxfilesperproc={wanted}, then ulimit -n {wanted}"
    if system == "linux":
        return f"ulimit -Hn {wanted} (as root), or LimitNOFILE={wanted} in a systemd unit"
    if system == "openbsd":
        return f"openfiles={wanted} for your class in /etc/login.conf, and sysctl kern.maxfiles={2 * wanted}"
    return f"sysctl kern.maxfiles={2 * wanted}, then ulimit -n {wanted}"


def _system() -> str:
    return sys.platform.rstrip("0123456789")


def _numbers(names: tuple[str, ...]) -> list[int]:
    """The numbers that these settings hold; nothing if one can't be read."""
    import subprocess

    try:
        return [int(word) for name in names for word in _read(name).split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _read(name: str) -> str:
    if name.startswith("/"):
        with open(name, encoding="ascii") as file:
            return file.read()
    import subprocess

    # Some systems keep it where a user's path does not look.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/sbin", "/usr/sbin"))
    command = ["sysctl", "-n", name]
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=5, check=True
    )
    return done.stdout
