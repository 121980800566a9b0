"""The two things that pyproject.toml cannot say: the cffi module, and the wheel's limited-API tag."""

import sysconfig

from setuptools import setup

# A free-threaded interpreter has no limited API: it builds a wheel for itself alone.
ONE_WHEEL_FOR_ALL = {"bdist_wheel": {"py_limited_api": "cp311"}}

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    options={} if sysconfig.get_config_var("Py_GIL_DISABLED") else ONE_WHEEL_FOR_ALL,
)
