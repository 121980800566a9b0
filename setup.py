"""What pyproject.toml cannot say: the cffi module, its hardening, the wheel's tag, and where none can be built."""

import os
import runpy
import sys
import sysconfig

if os.name != "posix":
    sys.exit("kqnative needs kqueue, epoll or poll, and this system has none of them: use macOS, a BSD, Linux or WSL")

# Not before: it fails in its own words there.
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# A free-threaded interpreter has no limited API: it builds a wheel for itself alone.
ONE_WHEEL_FOR_ALL = {"bdist_wheel": {"py_limited_api": "cp311"}}


class HardenedBuild(build_ext):
    """Adds the flags of csrc/hardening.py that the compiler takes."""

    def build_extension(self, extension: Extension) -> None:
        """Builds one module."""
        flags_for = runpy.run_path("csrc/hardening.py")["flags_for"]
        compile_args, link_args = flags_for([*self.compiler.compiler_so, *extension.extra_compile_args])
        extension.extra_compile_args += compile_args
        extension.extra_link_args += link_args
        super().build_extension(extension)


setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": HardenedBuild},
    options={} if sysconfig.get_config_var("Py_GIL_DISABLED") else ONE_WHEEL_FOR_ALL,
)
