"""The sdist, from which a system without a wheel builds: it needs a C compiler and no network."""

import os
import shlex
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_wheel import TALK

ROOT = Path(__file__).parent.parent
CFLAGS = "-O1 -DKQN_SDIST_TEST"

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Installed:
    python: Path
    log: str


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What it printed; the test fails with that if it failed."""
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def without_settings() -> dict[str, str]:
    """The environment without what this machine tells pip, such as another folder of packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `python -m build --sdist` makes."""
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pyproject.toml requires for the build and at run time, and what that requires."""
    folder = tmp_path_factory.mktemp("packages")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["build-system"]["requires"] + project["project"]["dependencies"]
    run(sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, *wanted, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(sdist: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The sdist, installed from the folder alone into an empty environment, with CFLAGS of the user's."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--verbose",
        "--no-index",
        "--find-links",
        str(packages),
        str(sdist),
    ]
    return Installed(python, run(*command, cwd=folder, env=without_settings() | {"CFLAGS": CFLAGS}))


def test_the_sdist_holds_no_cache_and_nothing_compiled(sdist: Path) -> None:
    """The tests and the documents are in it; no cache, no compiled file and no C that cffi makes."""
    with tarfile.open(sdist) as archive:
        paths = [Path(name).relative_to(sdist.name.removesuffix(".tar.gz")) for name in archive.getnames()]
    assert {"csrc/api.h", "tests/c/kevent.c", "docs/kevent.md", "LICENSE"} <= {path.as_posix() for path in paths}
    assert not [path for path in paths if any(part.startswith((".", "__pycache__")) for part in path.parts)]
    assert not [path for path in paths if path.suffix in (".so", ".o", ".pyc") or path.name.endswith("_kq.c")]


def test_the_sdist_serves_once_it_is_built_without_an_index(installed: Installed, tmp_path: Path) -> None:
    """Built and installed away from the checkout and the network, it answers with template and hook."""
    assert run(installed.python, "-W", "error", "-c", TALK, cwd=tmp_path, env=without_settings())
    version = run(installed.python, "-m", "kqnative", "--version", cwd=tmp_path, env=without_settings())
    assert "kqnative" in version


def test_cflags_reach_every_compiler_command(installed: Installed) -> None:
    """Each C file of csrc and cffi's own are compiled with the user's CFLAGS, and no -O follows that undoes them."""
    commands = [shlex.split(line) for line in installed.log.splitlines() if " -c " in line and ".c -o " in line]
    compiled = {Path(word).name for command in commands for word in command if word.endswith(".c")}
    assert compiled == {path.name for path in (ROOT / "csrc").rglob("*.c")} | {"kqnative._kq.c"}
    for command in commands:
        assert set(shlex.split(CFLAGS)) <= set(command)
        assert [word for word in command if word.startswith("-O")][-1] == "-O1"
