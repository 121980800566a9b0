"""What tests measure of a process and of the system, and where the figures go."""

import os
import sys
import time


def memory_bytes(process: int) -> int:
    """Memory of a process, a page that others share counted as its share (Pss); 0 where that can't be seen."""
    return 1024 * _first_number(f"/proc/{process}/smaps_rollup", "Pss:")


def own_bytes(process: int) -> int:
    """Memory that a process has written to and shares with nobody; 0 where that can't be seen."""
    return 1024 * _first_number(f"/proc/{process}/smaps_rollup", "Private_Dirty:")


def peak_bytes(process: int) -> int:
    """The most memory that a process has had so far; 0 where that can't be seen."""
    return 1024 * _first_number(f"/proc/{process}/status", "VmHWM:")


def slab_bytes() -> int:
    """What the kernel holds in small objects, all sockets among them; 0 where that can't be seen."""
    return 1024 * _first_number("/proc/meminfo", "Slab:")


def _first_number(path: str, key: str) -> int:
    try:
        with open(path) as file:
            return next(int(line.split()[1]) for line in file if line.startswith(key))
    except OSError:
        return 0


def cpu_s(process: int) -> float:
    """Processor time that a process has used: Linux numbers the clock of a process so. 0 where that can't be seen."""
    try:
        return time.clock_gettime(~process << 3 | 2)
    except OSError:
        return 0.0


def record(figures: str) -> None:
    """Says a line of figures, and adds it to the file that KQNATIVE_FIGURES names."""
    print(figures, file=sys.stderr, flush=True)
    if path := os.environ.get("KQNATIVE_FIGURES"):
        with open(path, "a") as file:
            file.write(figures + "\n")
