"""What setup.py does on other Pythons and systems, as far as this machine can tell."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from test_wheel import PYTHONS

ROOT = Path(__file__).parent.parent
CC = os.environ.get("CC", "cc")


def include_folder(python: str) -> str:
    """Where the headers of an interpreter are."""
    code = "import sysconfig; print(sysconfig.get_path('include'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("version", PYTHONS)
def test_what_a_free_threaded_python_compiles_has_no_warning(version: str, tmp_path: Path) -> None:
    """hook.c and the cffi module compile as they do without a GIL, where there is no limited API."""
    headers = include_folder(PYTHONS[version])
    module = tmp_path / "_kq.c"
    runpy.run_path(str(ROOT / "csrc" / "build_ffi.py"))["ffi"].emit_c_code(str(module))
    without_gil = ["-DPy_GIL_DISABLED=1", "-D_CFFI_NO_LIMITED_API"]
    for source, strict in ((ROOT / "csrc/server/hook.c", ["-Wextra", "-Wshadow", "-Wconversion"]), (module, [])):
        command = [CC, "-std=gnu11", "-O2", "-Wall", *strict, "-Werror", *without_gil, "-Icsrc", "-isystem", headers]
        done = subprocess.run(
            [*command, "-c", source, "-o", tmp_path / "out.o"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_a_system_without_any_poller_is_told_so() -> None:
    """Where there is neither kqueue nor epoll nor poll, the build ends with that sentence."""
    code = "import os, runpy, setuptools; os.name = 'nt'; runpy.run_path('setup.py')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("kqnative needs kqueue, epoll or poll")
