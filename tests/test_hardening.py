"""What the built module, its descriptors and its log owe to whoever must trust a server."""

import json
import os
import platform
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Serve, read_to_end
from elftools.common.exceptions import ELFError
from elftools.elf.constants import P_FLAGS
from elftools.elf.elffile import ELFFile

import kqnative._kq

ROOT = Path(__file__).parent.parent
CC = os.environ.get("CC", "cc")
SANITIZERS = ("__asan_", "__tsan_", "__ubsan_")
DF_TEXTREL, DF_BIND_NOW, DF_1_NOW = 0x4, 0x8, 0x1


# --- The module as it was built ---


@dataclass(frozen=True)
class Module:
    segments: list[tuple[str, int]]  # kind and flags
    dynamic: dict[str, int]
    imports: set[str]


@pytest.fixture(scope="module")
def module() -> Module:
    """The module in use, if it is an ELF file and was not built to find mistakes."""
    with open(kqnative._kq.__file__, "rb") as file:
        try:
            elf = ELFFile(file)
        except ELFError:
            pytest.skip("the module is not an ELF file")
        found = Module(
            segments=[(str(segment["p_type"]), segment["p_flags"]) for segment in elf.iter_segments()],
            dynamic={tag["d_tag"]: tag["d_val"] for tag in elf.get_section_by_name(".dynamic").iter_tags()},
            imports={
                symbol.name
                for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
                if symbol["st_shndx"] == "SHN_UNDEF"
            },
        )
    if any(name.startswith(SANITIZERS) for name in found.imports):
        pytest.skip("the module was built with a sanitizer")
    return found


def test_addresses_of_functions_cannot_be_written_over(module: Module) -> None:
    """All of them are looked up when the module is loaded, and their table is read-only from then on."""
    flags, flags_1 = (module.dynamic.get(name, 0) for name in ("DT_FLAGS", "DT_FLAGS_1"))
    assert "DT_BIND_NOW" in module.dynamic or flags & DF_BIND_NOW or flags_1 & DF_1_NOW
    assert "PT_GNU_RELRO" in {kind for kind, _ in module.segments}


def test_nothing_that_can_be_written_can_be_executed(module: Module) -> None:
    """No segment is both, the stack is not executable, and no code is changed when the module is loaded."""
    both = P_FLAGS.PF_W | P_FLAGS.PF_X
    assert not [kind for kind, flags in module.segments if kind == "PT_LOAD" and flags & both == both]
    assert [flags & P_FLAGS.PF_X for kind, flags in module.segments if kind == "PT_GNU_STACK"] == [0]
    assert "DT_TEXTREL" not in module.dynamic
    assert not module.dynamic.get("DT_FLAGS", 0) & DF_TEXTREL


@pytest.mark.skipif(sys.platform.startswith("openbsd"), reason="OpenBSD: its compiler guards the stack in its own way")
def test_an_overrun_stack_ends_the_process(module: Module) -> None:
    """Functions with arrays look at their end whether somebody wrote past them."""
    assert module.imports & {"__stack_chk_fail", "__stack_chk_fail_local"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has functions that check their buffers")
def test_copies_into_arrays_are_checked(module: Module) -> None:
    """What the compiler can't prove to fit goes through glibc's functions that know the array's size."""
    assert "__snprintf_chk" in module.imports


# --- How its flags are chosen ---

# Takes every flag but those that an environment variable names; says something of those that another one names.
COMPILER = """\
#!/bin/sh
for word; do
    case " $REFUSED " in *" $word "*) exit 1 ;; esac
    case " $FROWNED_UPON " in *" $word "*) echo "warning: $word" >&2 ;; esac
done
"""
FlagsFor = Callable[[list[str]], tuple[list[str], list[str]]]


@pytest.fixture
def flags_for() -> FlagsFor:
    """What csrc/hardening.py says of a compiler."""
    found: FlagsFor = runpy.run_path(str(ROOT / "csrc" / "hardening.py"))["flags_for"]
    return found


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """A compiler that makes nothing."""
    path = tmp_path / "cc"
    path.write_text(COMPILER)
    path.chmod(0o755)
    return str(path)


def test_a_flag_that_the_compiler_refuses_is_left_out(
    flags_for: FlagsFor, compiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error or a single word about a flag, and the build does without it, or with the next best."""
    compile_args, link_args = flags_for([compiler])
    assert {"-D_FORTIFY_SOURCE=3", "-fstack-protector-strong", "-fcf-protection"} <= set(compile_args)
    assert link_args == ["-Wl,-z,relro,-z,now,-z,noexecstack"]
    monkeypatch.setenv("REFUSED", f"-fcf-protection {link_args[0]}")
    monkeypatch.setenv("FROWNED_UPON", "-D_FORTIFY_SOURCE=3 -fstack-clash-protection")
    wanted = ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-fno-strict-overflow"]
    assert flags_for([compiler]) == (wanted, [])


def test_a_sanitizer_has_the_build_for_itself(flags_for: FlagsFor, compiler: str) -> None:
    """With -fsanitize among the compiler's flags there is no flag of ours; nor where there is no compiler at all."""
    assert flags_for([compiler, "-g", "-fsanitize=address,undefined"]) == ([], [])
    assert flags_for([f"{compiler}-that-is-not-there"]) == ([], [])


def test_no_flag_makes_the_compiler_warn_of_our_c(flags_for: FlagsFor, tmp_path: Path) -> None:
    """All C but the hook's compiles with them and -Wall, warnings being errors: some come only with fortified calls."""
    compile_args, _ = flags_for([CC, "-O2"])
    sources = [path for path in (ROOT / "csrc").rglob("*.c") if path.name != "hook.c"]
    command = [CC, "-std=gnu11", "-O2", "-Wall", "-Werror", *compile_args, "-I", ROOT / "csrc", "-c", *sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- What a child inherits ---

LOOKING_HOOK = """
import subprocess, sys

LOOK = '''
import os
for fd in range(1000):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print(fd)
'''

def reply(message):
    command = [sys.executable, "-I", "-c", LOOK]
    return subprocess.run(command, close_fds=False, stdout=subprocess.PIPE, check=True).stdout
"""


@pytest.mark.parametrize("is_unix", [False, True], ids=["tcp", "unix"])
def test_a_program_started_by_a_hook_inherits_nothing_of_ours(
    is_unix: bool, serve: Serve, poller: str, tmp_path: Path
) -> None:
    """Listener, clients, pollers and what wakes them are all close-on-exec: the child has descriptors 0 to 2."""
    (tmp_path / "looking.py").write_text(LOOKING_HOOK)
    address = ["--uds", str(tmp_path / "socket")] if is_unix else []
    server = serve("--hook", "looking:reply", "--poller", poller, "--loops", "2", *address)
    clients = [server.connect() for _ in range(6)]
    clients[-1].sendall(b"look")
    assert clients[-1].recv(1000) == b"0\n1\n2\n"
    for client in clients:
        client.close()


# --- What a client can write into the log through a hook ---

FAILING_HOOK = "def reply(message):\n    raise ValueError(message.decode('utf-8', 'surrogateescape'))\n"
FORGED = (
    "x\nServer stopped: forged\r\nerror: forged\x0bforged\x85forged\u2028forged \x1b[2J \u202e\x00".encode() + b"\xff"
)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_with_a_clients_bytes_forges_no_line(log_format: str, serve: Serve, tmp_path: Path) -> None:
    """A hook's exception may quote its message: each line is ours or indented, and none holds a control."""
    (tmp_path / "failing.py").write_text(FAILING_HOOK)
    server = serve("--hook", "failing:reply", "--framing", "u32", "--log-format", log_format)
    server.allow("ValueError", "forged")
    with server.connect() as client:
        client.sendall(len(FORGED).to_bytes(4, "big") + FORGED)
        assert read_to_end(client) == b""
    server.finish()
    assert all(line.isprintable() for line in server.lines)
    if log_format == "json":
        messages = [json.loads(line)["message"] for line in server.lines]
        assert len(messages) == len(server.lines)
    about = re.compile(r"hook failed: ValueError: x|Received: x\\x0a|  ")
    text = server.lines if log_format == "text" else "\n".join(messages).split("\n")
    assert all(about.match(line.removeprefix("error: ")) for line in text if "forged" in line)
    assert r"\x1b[2J \u202e\x00\xff" in "".join(line for line in text if line.startswith("  "))
