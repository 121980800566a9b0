"""What a system lets one process have, and how to get more of it."""

import sys

from kqnative import _native
from kqnative.config import DESCRIPTOR_RESERVE
from kqnative.errors import KqnativeError
from kqnative.load.plan import LoadPlan
from kqnative.load.result import LoadResult

# How many local ports there are for one source address, and where that is set: (the range's two ends, the command).
_PORT_RANGES = {
    "linux": ("/proc/sys/net/ipv4/ip_local_port_range", "sysctl -w net.ipv4.ip_local_port_range='1024 65535'"),
    "darwin": ("net.inet.ip.portrange.first and .last", "sysctl -w net.inet.ip.portrange.first=16384"),
    "freebsd": ("net.inet.ip.portrange.first and .last", "sysctl net.inet.ip.portrange.first=1024"),
    "openbsd": ("net.inet.ip.porthifirst and .porthilast", "sysctl net.inet.ip.porthifirst=1024"),
    "netbsd": ("net.inet.ip.anonportmin and .anonportmax", "sysctl -w net.inet.ip.anonportmin=1024"),
}


class LimitError(KqnativeError):
    """A limit of this system does not allow the plan; the message says which, its value, and what raises it."""


def require_descriptors(plan: LoadPlan) -> None:
    """Raises the limit of descriptors as far as the plan needs. Raises LimitError: it can't be had."""
    wanted = plan.connections + DESCRIPTOR_RESERVE + 8 * plan.loops
    limit = _native.raise_descriptor_limit(wanted)
    if limit < wanted:
        most = max(1, limit - DESCRIPTOR_RESERVE - 8 * plan.loops)
        raise LimitError(
            f"{plan.connections:,} connections need {wanted:,} descriptors, and this process may have {limit:,}:"
            f" use at most -c {most}, or raise the limit with: {_descriptor_command(wanted)}"
        )


def hints(result: LoadResult) -> list[str]:
    """A line for each limit that a run met."""
    lines = []
    if result.errors["no_local_port"]:
        what, command = _PORT_RANGES.get(_system(), ("the range of local ports", "your system's sysctl"))
        lines.append(
            f"out of local ports: {_port_count()} for each source address ({what});"
            f" give more addresses with --source, or raise the limit with: {command}"
        )
    if result.errors["no_descriptor"]:
        limit = _native.raise_descriptor_limit(1)
        lines.append(f"out of descriptors: {limit:,}; raise the limit with: {_descriptor_command(result.connections)}")
    return lines


def _descriptor_command(wanted: int) -> str:
    """What raises the hard limit, or the system's, here."""
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


def _port_count() -> str:
    """How many there are, where that can be read at once."""
    try:
        with open(_PORT_RANGES["linux"][0], encoding="ascii") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return {"darwin": "16,384 unless changed"}.get(_system(), "all that there are")
    return f"{last - first + 1:,}"
