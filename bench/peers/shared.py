"""What the peers written in Python share: their command line, their descriptors, and where frames of mode u32 end."""

import resource
import sys
from collections.abc import Collection
from struct import Struct

BACKLOG = 1024
HEADER_BYTES = 4

header_at = Struct("!I").unpack_from


def port_and_mode(modes: Collection[str]) -> tuple[int, str]:
    """The command's arguments; ends the process with one line if they are wrong."""
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} PORT {'|'.join(modes)}")
    port, mode = sys.argv[1:]
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        sys.exit(f"{sys.argv[0]}: {port} is no port, 1 to 65535")
    if mode not in modes:
        sys.exit(f"{sys.argv[0]}: {mode} is no mode, one of {', '.join(modes)}")
    return int(port), mode


def allow_many_connections() -> None:
    """As many as the system lets a process have: a shell's limit is often 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def complete_frames(data: bytes | memoryview, held: int) -> tuple[int, int]:
    """Where the last complete frame among the first `held` bytes ends, and how many there must be behind it to go on.

    Those are the next frame's bytes, or its header's while they are not known.
    """
    end = 0
    while held - end >= HEADER_BYTES:
        wanted = HEADER_BYTES + header_at(data, end)[0]
        if held - end < wanted:
            return end, wanted
        end += wanted
    return end, HEADER_BYTES
