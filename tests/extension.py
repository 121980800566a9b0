"""The package with a C module compiled in another way than the installed one, and a part of the tests run with it."""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from programs import ROOT, compile_file, link


def build_package(folder: Path, compiler: str, flags: list[str], core: list[Path]) -> Path:
    """A folder to import kqnative from; `core` are the objects of all the C that does without Python."""
    package = folder / "site" / "kqnative"
    shutil.copytree(ROOT / "kqnative", package, ignore=shutil.ignore_patterns("__pycache__", "_kq*.so"))
    runpy.run_path(str(ROOT / "csrc" / "build_ffi.py"))["ffi"].emit_c_code(str(folder / "_kq.c"))
    limited = [] if sysconfig.get_config_var("Py_GIL_DISABLED") else ["-DPy_LIMITED_API=0x030b0000"]
    python = [f"-I{sysconfig.get_path('include')}", *limited]
    hook = compile_file("csrc/server/hook.c", folder / "csrc-server-hook.o", compiler, [*flags, *python])
    module = compile_file(str(folder / "_kq.c"), folder / "_kq.o", compiler, ["-O0", "-fPIC", *python])
    link(package / "_kq.abi3.so", compiler, ["-shared", *flags], [hook, module, *core])
    return package.parent


def pytest_with(site: Path, names: list[str], *options: str, **env: str) -> int:
    """Runs these files of tests with the package in that folder; pytest's exit code."""
    files = [f"tests/{name}.py" for name in names]
    # As a program of its own, not by -m: that would put the folder here, with its kqnative/, before the other.
    command = [str(Path(sys.executable).parent / "pytest"), "-q", *options, *files]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(site), **env}).returncode
