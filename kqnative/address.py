"""Where a server listens: a name made numeric, an address as text, and why one could not be had."""

import errno
import os

from kqnative.errors import ListenError


def resolve(host: str) -> str:
    """The first numeric address of a host, IPv4 before IPv6. Raises ListenError."""
    import socket

    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no host name"
        code = error.errno if isinstance(error, OSError) else errno.EINVAL
        raise ListenError(code, f"cannot listen on {host}: {why}; check the host") from error
    addresses = [(family, where) for family, _, _, _, where in found if family in (socket.AF_INET, socket.AF_INET6)]
    if not addresses:
        raise ListenError(errno.EAFNOSUPPORT, f"cannot listen on {host}: it has no IP address; check the host")
    addresses.sort(key=lambda one: one[0] != socket.AF_INET)  # stable: the resolver's order within a family
    return socket.getnameinfo(addresses[0][1], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def text(address: tuple[str, int] | str) -> str:
    """`127.0.0.1:80`, `[::1]:80` or `unix:/run/a.sock`."""
    if isinstance(address, str):
        return f"unix:{address}"
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_TCP = {
    errno.EADDRINUSE: "the port is in use; stop what uses it, or choose another port",
    errno.EACCES: "the system does not allow this port; choose one above 1023",
    errno.EPERM: "the system does not allow it; choose another port",
    errno.EADDRNOTAVAIL: "no interface here has this address; choose another host",
    errno.EAFNOSUPPORT: "this system does not speak this kind of address; choose another host",
    errno.EINVAL: "this is not an address to listen on; choose another host",
}
_UNIX = {
    errno.EADDRINUSE: "a server listens there; stop it, or choose another path",
    errno.EACCES: "its directory does not allow it; choose another path",
    errno.EPERM: "its directory does not allow it; choose another path",
    errno.ENOTSOCK: "it is not a socket; remove it, or choose another path",
    errno.ENAMETOOLONG: "the path is too long for a unix socket; choose a shorter one",
    errno.ENOENT: "its directory does not exist; make it, or choose another path",
    errno.ENOTDIR: "its directory is a file; choose another path",
    errno.EROFS: "its file system is read-only; choose another path",
}
_ANY = {
    errno.EMFILE: "this process has no descriptor left; raise its limit with ulimit -n",
    errno.ENFILE: "the system has no descriptor left; close programs, or raise its limit",
    errno.ENOMEM: "there is no memory left; free some, or lower loops, batch and read_size",
}


def listen_error(code: int, step: str, address: tuple[str, int] | str) -> ListenError:
    """The exception for the errno with which this step of opening a server failed."""
    sentences = _ANY | (_UNIX if isinstance(address, str) else _TCP)
    why = sentences.get(code, f"{os.strerror(code)} ({step})")
    return ListenError(code, f"cannot listen on {text(address)}: {why}")
