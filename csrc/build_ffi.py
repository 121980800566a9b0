"""How kqnative._kq is built: cffi reads what Python may call from api.h, setuptools compiles all of csrc.

Strict warnings are the Makefile's business: a stranger's newer compiler must not fail on one.
"""

import os
import shlex
import sys
import sysconfig
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
ROOT = HERE.parent  # setuptools wants every path relative to setup.py, or the sdist would name ours
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")


def files(pattern: str) -> list[str]:
    """The files of csrc that fit, in an order that does not depend on the file system."""
    return sorted(path.relative_to(ROOT).as_posix() for path in HERE.glob(pattern))


def cdef() -> str:
    """api.h without its preprocessor lines, which a cdef refuses."""
    lines = (HERE / "api.h").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def compile_args() -> list[str]:
    """-O2 only when nobody chose: the environment's CFLAGS replace those that Python was built with."""
    flags = os.environ.get("CFLAGS") or sysconfig.get_config_var("CFLAGS") or ""
    chosen = any(flag.startswith("-O") for flag in shlex.split(flags))
    return ["-std=gnu11", "-fvisibility=hidden", *([] if chosen else ["-O2"])]


DLSYM = ["dl"] if sys.platform == "linux" else []  # glibc before 2.34 has it in a library of its own

ffi = FFI()
ffi.cdef(cdef())
ffi.set_source(
    "kqnative._kq",
    '#include "api.h"\n',
    sources=[*files("poller/*.c"), *files("core/*.c"), *files("server/*.c"), *files("load/*.c")],
    libraries=["m", *DLSYM],
    include_dirs=[HERE.relative_to(ROOT).as_posix()],
    depends=[*files("**/*.h"), *files("*.py")],
    define_macros=[("Py_LIMITED_API", "0x030b0000")] if LIMITED_API else [],
    py_limited_api=LIMITED_API,
    extra_compile_args=compile_args(),
    extra_link_args=["-pthread"],
)
