"""The wheel that a user installs: built as a release is, and tried away from the checkout on every Python at hand."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OLDEST = 11  # 3.11

TALK = """
import socket, sys, kqnative
from kqnative import Server
assert "site-packages" in kqnative.__file__, kqnative.__file__
for reply in ("system: {message}", lambda message: b"system: " + message):
    with Server(host="127.0.0.1", port=0, framing="line", reply=reply) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"hello\\n")
            assert client.makefile("rb").readline() == b"system: hello\\n"
assert server.stats().answered == 1
print(kqnative.__version__)
"""


def version_of(python: str) -> tuple[int, int] | None:
    """(3, 12), or None where it does not run or is free-threaded, which this wheel is not for."""
    code = "import sys, sysconfig; print(*sys.version_info[:2], sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return None
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if done.returncode == 0 and words[2] == "0" else None


def pythons_at_hand() -> dict[str, str]:
    """An interpreter of each version from 3.11 on, by name: on the path, or among pyenv's."""
    found = {}
    for path in sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python")):
        if (version := version_of(str(path))) and version >= (3, OLDEST):
            found[f"3.{version[1]}"] = str(path)
    for minor in range(OLDEST, 20):
        if version_of(f"python3.{minor}"):
            found.setdefault(f"3.{minor}", f"python3.{minor}")
    return found or {f"3.{sys.version_info.minor}": sys.executable}


PYTHONS = pythons_at_hand()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build` makes: an sdist, and from that a wheel."""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", out, ROOT], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return path


is_gil = pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="a free-threaded Python")


@is_gil
@pytest.mark.timeout(300)
def test_the_wheel_is_tagged_for_every_later_python(wheel: Path) -> None:
    """One cp311-abi3 wheel, and abi3audit finds nothing in it that 3.11 lacks."""
    assert "-cp311-abi3-" in wheel.name
    done = subprocess.run([sys.executable, "-m", "abi3audit", "--strict", wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    """The module, its stub, py.typed and the licence are in it; no source and no test."""
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.startswith("kqnative/")}
    assert {"kqnative/py.typed", "kqnative/_kq.pyi", "kqnative/cli.py"} <= inside
    assert any(name.startswith("kqnative/_kq.") and not name.endswith(".pyi") for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".c", ".h")) or "test" in name]


@is_gil
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_serves_in_an_empty_environment(version: str, wheel: Path, tmp_path: Path) -> None:
    """Installed into a new environment of this Python, away from the checkout, it answers with template and hook."""
    subprocess.run([PYTHONS[version], "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True, capture_output=True)
    done = subprocess.run([python, "-c", TALK], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
