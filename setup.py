"""What pyproject.toml cannot say: the cffi module, the wheel's limited-API tag, and where none of it can be built."""

import os
import sys
import sysconfig

from setuptools import setup

if os.name != "posix":
    sys.exit("kqnative needs kqueue, epoll or poll, and this system has none of them: use macOS, a BSD, Linux or WSL")

# A free-threaded interpreter has no limited API: it builds a wheel for itself alone.
ONE_WHEEL_FOR_ALL = {"bdist_wheel": {"py_limited_api": "cp311"}}

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    options={} if sysconfig.get_config_var("Py_GIL_DISABLED") else ONE_WHEEL_FOR_ALL,
)
