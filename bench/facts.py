"""What a run's figures depend on: machine, kernel, versions, commit."""

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import BENCH
from servers import ALL, compiler_version


def of_this_run(options: argparse.Namespace, used: set[str], missing: dict[str, str]) -> dict[str, Any]:
    return {
        "machine": {
            "processor": cpu_field("model name") or platform.machine(),
            "cores": os.cpu_count(),
            "virtual": "hypervisor" in cpu_field("flags").split(),
            "kernel": f"{platform.system()} {platform.release()}",
            "libc": " ".join(platform.libc_ver()),
        },
        "python": sys.version.split()[0],
        "compiler": compiler_version(),
        "options": vars(options),
        "peers": {
            peer.name: {"language": peer.language, "about": peer.about, "version": peer.version()}
            for peer in ALL
            if peer.name in used and peer.name not in missing
        },
        "missing": missing,
    }


def of_this_commit() -> dict[str, str]:
    """Tells figures of a tree that is committed from those of one that is not."""
    status = git("status", "--porcelain", "--", ":/", ":(top,exclude)bench/results")
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") or "unknown",
        "tree": "changed" if status else "clean",
        "date": time.strftime("%Y-%m-%d"),
    }


def cpu_field(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def git(*words: str) -> str:
    try:
        said = subprocess.run(["git", *words], cwd=BENCH, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
