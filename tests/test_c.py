"""The C tests: each program of tests/c is compiled with the core, under sanitizers, and its rows must pass."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from programs import CORE, WARNINGS, compile_file, compile_files, link

ROOT = Path(__file__).parent.parent
CC = os.environ.get("CC", "cc")
TSAN = ["-g", "-O1", "-fsanitize=thread"]
POLLERS = ["epoll", "poll", "select"] if sys.platform == "linux" else ["kqueue"]


@functools.cache
def has_runtime(*flags: str) -> bool:
    """Whether programs with these flags can be linked: OpenBSD's compiler has no runtime of the address sanitizer."""
    with tempfile.TemporaryDirectory() as folder:
        command = [CC, *flags, "-x", "c", "-", "-o", f"{folder}/probe"]
        return (
            subprocess.run(command, input="int main(void) { return 0; }", text=True, capture_output=True).returncode
            == 0
        )


ASAN = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
if not has_runtime(*ASAN):
    ASAN = ["-g", "-O1"]


@functools.cache
def core_objects(*flags: str) -> list[Path]:
    """The objects of the whole core, made once for all programs with these flags."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return compile_files(CORE, Path(folder.name), CC, [*WARNINGS, *flags])


def build(folder: Path, program: str, flags: list[str]) -> Path:
    """Compiles one program of tests/c with the whole core."""
    own = compile_file(f"tests/c/{program}.c", folder / f"{program}.o", CC, [*WARNINGS, *flags])
    return link(folder / program, CC, flags, [own, *core_objects(*flags)])


def run(program: Path, *args: str) -> list[str]:
    """Runs it; the lines that it printed. A row that failed fails the test with its words."""
    done = subprocess.run([program, *args], capture_output=True, text=True, timeout=120)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert not failed, "\n".join(failed)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("program", ["framing", "core", "connection", "load"])
def test_every_row_of_the_core_holds(program: str, tmp_path: Path) -> None:
    """The parts of the core, the server and the load tester keep their contracts, under ASan and UBSan."""
    assert " 0 failed, 0 skipped" in run(build(tmp_path, program, ASAN))[-1]


@pytest.fixture(scope="session")
def kevent_under_asan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kevent rows, with ASan and UBSan."""
    return build(tmp_path_factory.mktemp("kevent"), "kevent", ASAN)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("poller", POLLERS)
def test_every_kevent_row_holds(poller: str, kevent_under_asan: Path) -> None:
    """The rules of kevent that the loop relies on hold on each poller, with no gate but those it lists."""
    lines = run(kevent_under_asan, poller)
    gates = {row for row, _, _ in gates_of(kevent_under_asan)}
    skipped = {line.split(":")[0].removeprefix("skip ").removeprefix(f"{poller} ") for line in lines if "skip " in line}
    assert all(any(gate in row for gate in gates) for row in skipped)
    assert " 0 failed" in lines[-1]


def gates_of(program: Path) -> list[list[str]]:
    """(row, where it does not run, reason) of every gate."""
    return [line.split("\t") for line in run(program, "--gates")]


def test_the_documentation_lists_every_gate(kevent_under_asan: Path) -> None:
    """docs/kevent.md names each gated row and its reason."""
    page = " ".join((ROOT / "docs" / "kevent.md").read_text().split())
    for row, _, reason in gates_of(kevent_under_asan):
        assert f"`{row}`" in page
        assert reason in page


@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="ThreadSanitizer is run on Linux")
@pytest.mark.parametrize("poller", POLLERS)
def test_several_loops_race_nowhere(poller: str, tmp_path: Path) -> None:
    """Three loops under ThreadSanitizer serve clients that come and go, stop, and report nothing."""
    program = build(tmp_path, "serve", TSAN)
    with subprocess.Popen(
        [program, "0", "line", "system: {message}", "3", "0", poller],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout
        port = server.stdout.readline().rpartition(":")[2].strip()
        clients = subprocess.run([sys.executable, ROOT / "tests" / "clients.py", port], timeout=120)
        output = server.communicate("\n", timeout=60)[0]
    assert clients.returncode == 0
    assert "WARNING" not in output
    assert server.returncode == 0, output


@pytest.fixture(scope="session")
def drive_under_asan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The load tester and the server in one process, with ASan and UBSan."""
    return build(tmp_path_factory.mktemp("drive"), "drive", ASAN)


@pytest.fixture(scope="session")
def drive_under_tsan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with ThreadSanitizer."""
    return build(tmp_path_factory.mktemp("drive"), "drive", TSAN)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("poller", POLLERS)
@pytest.mark.parametrize("framing", ["stream", "line", "u32"])
def test_a_load_and_its_server_count_the_same(framing: str, poller: str, drive_under_asan: Path) -> None:
    """Every run of the load tester agrees with its intervals and with the server's counters, under ASan and UBSan."""
    assert " 0 failed, 0 skipped" in run(drive_under_asan, framing, "1", "1", poller, "1.5")[-1]


@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="ThreadSanitizer is run on Linux")
@pytest.mark.parametrize("poller", POLLERS)
def test_several_load_loops_race_nowhere(poller: str, drive_under_tsan: Path) -> None:
    """Three loops of the load tester and two of the server run under ThreadSanitizer, which reports nothing."""
    assert " 0 failed, 0 skipped" in run(drive_under_tsan, "line", "3", "2", poller, "4")[-1]


def test_the_core_builds_in_one_plain_command(tmp_path: Path) -> None:
    """Any C11 compiler builds the whole server without Python, flags or generated files."""
    out = tmp_path / "serve"
    command = [CC, "-std=gnu11", "-Icsrc", *CORE, "tests/c/serve.c", "-lpthread", "-lm", "-o", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shutil.which(str(out))
