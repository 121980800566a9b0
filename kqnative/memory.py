"""The most memory that a configuration lets the C core take, and how that is reckoned."""

from kqnative.config import Config
from kqnative.values import show_size

CONNECTION_BYTES = 96  # of one in its loop's slab, and in arrays of the poller
TABLE_BYTES = 32  # of one descriptor in each loop's table, where kevent() is ours
MOST_GROWTH = 5  # a message's bytes, in the block that it lies in and the one that it grew out of
LOOP_BYTES = 2 << 20  # its journal and inbox, answers on their way, and blocks kept for the next who needs one
EVENT_BYTES = 64  # each of a batch, and the change beside it
# A loop's messages on their way to a hook, the blocks that are kept for them, and a list of them.
HOOK_BYTES = (2 << 20) + (256 << 10)


def worst_case(config: Config, max_connections: int) -> tuple[int, str]:
    """Bytes, and the sum that they come from. What a hook returns is its own, and Python and the kernel have theirs."""
    loop = LOOP_BYTES + EVENT_BYTES * config.batch + config.read_size
    if config.hook or config.hook_batch:
        loop += HOOK_BYTES + config.max_message
    connection = CONNECTION_BYTES + config.loops * TABLE_BYTES
    total = config.max_buffered + config.loops * loop + max_connections * connection
    formula = (
        f"max_buffered {show_size(config.max_buffered)}"
        f" + loops {config.loops} x {_rough(loop)}"
        f" + max_connections {max_connections} x {connection} bytes"
    )
    return total, formula


def comments(config: Config, max_connections: int) -> str:
    """The same as lines of a TOML file that say nothing to a program."""
    total, formula = worst_case(config, max_connections)
    return (
        f"# at most {_rough(total)} of memory: {formula}\n"
        "# beside that of Python, of what a hook returns, and of the kernel's socket buffers\n"
    )


def _rough(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
