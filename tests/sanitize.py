"""`make sanitize`: the tests that send, break off, stop and call hooks, with the C module under ASan and UBSan.

What a sanitizer has to say goes to the standard error of the process that it watches, where every test that starts a
server looks for it. Python itself is not compiled for this: the runtime is loaded before it, leaks are not looked for
(the simulation and the C tests do that), and its allocator gives way to malloc(), so that its objects are watched too.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from extension import build_package, pytest_with
from figures import record
from programs import CORE, ROOT, compile_files

CC = os.environ.get("CC", "gcc")
OUT = ROOT / ".cache" / "sanitize"
FLAGS = ["-g", "-O1", "-fPIC", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
TESTS = ["test_messages", "test_hooks", "test_library", "faults/test_input", "faults/test_output"]
# They measure memory, which a sanitizer multiplies, or end the process in ways of their own.
LEFT_OUT = "not memory and not ceiling and not million and not gibibyte and not longer_than_any"


def runtime(name: str) -> str:
    """Where the compiler keeps a sanitizer's library."""
    done = subprocess.run([CC, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> int:
    """Exit code 1: a test failed, or a sanitizer reported something."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    site = build_package(OUT, CC, FLAGS, compile_files(CORE, OUT, CC, FLAGS))
    names = [*TESTS, *sys.argv[1:]]
    code = pytest_with(
        site,
        names,
        "-k",
        LEFT_OUT,
        LD_PRELOAD=f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        ASAN_OPTIONS=f"detect_leaks=0:log_path={OUT}/report",
        UBSAN_OPTIONS=f"print_stacktrace=1:log_path={OUT}/report",
        PYTHONMALLOC="malloc",
    )
    reports = sorted(OUT.glob("report*"))
    for report in reports:
        print(Path(report).read_text())
    record(f"sanitizers: {len(names)} files of tests with the module under ASan and UBSan, {len(reports)} reports")
    return 1 if code or reports else 0


if __name__ == "__main__":
    sys.exit(main())
