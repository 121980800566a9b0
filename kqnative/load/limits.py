"""The limits that a run may meet: descriptors before it, and both they and local ports in it."""

from kqnative import _native, limits
from kqnative.errors import KqnativeError
from kqnative.load.plan import LoadPlan, own_descriptors
from kqnative.load.result import LoadResult


class LimitError(KqnativeError):
    """A limit of this system does not allow the plan; the message says which, its value, and what raises it."""


def require_descriptors(plan: LoadPlan) -> None:
    """Raises the limit of descriptors as far as the plan needs. Raises LimitError: it can't be had."""
    own = own_descriptors(plan.loops)
    wanted = plan.connections + own
    limit = _native.raise_descriptor_limit(wanted)
    if limit < wanted:
        raise LimitError(
            f"{plan.connections:,} connections need {wanted:,} descriptors, and this process may have {limit:,}:"
            f" use at most -c {max(1, limit - own)}, or raise the limit with: {limits.descriptor_command(wanted)}"
        )


def hints(result: LoadResult) -> list[str]:
    """A line for each limit that a run met."""
    lines = []
    if result.errors["no_local_port"]:
        ports = limits.local_ports()
        count = "all that there are" if ports.value is None else f"{ports.value:,}"
        lines.append(
            f"out of local ports: {count} for each source address ({ports.name});"
            f" give more addresses with --source, or raise the limit with: {ports.command}"
        )
    if result.errors["no_descriptor"]:
        limit = _native.raise_descriptor_limit(1)
        command = limits.descriptor_command(result.connections)
        lines.append(f"out of descriptors: {limit:,}; raise the limit with: {command}")
    return lines
