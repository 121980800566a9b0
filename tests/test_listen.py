"""Where a server listens, and what it does when it can't."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHORT_QUEUE, Serve, exchange

from kqnative import limits


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """A server that ends by itself."""
    return subprocess.run([sys.executable, "-m", "kqnative", *args], capture_output=True, text=True, timeout=20)


def test_a_port_in_use_is_one_line_and_exit_1(serve: Serve) -> None:
    """It says which address, why, and what to do."""
    server = serve()
    failed = run("--host", "127.0.0.1", "--port", str(server.port))
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert f"127.0.0.1:{server.port}" in failed.stderr
    assert "in use" in failed.stderr


def test_a_port_is_free_again_at_once(serve: Serve) -> None:
    """A killed server's port can be bound anew though its connections linger in the kernel."""
    server = serve(exit_code=-signal.SIGKILL)
    with server.connect() as client:
        client.sendall(b"x")
        assert client.recv(100)
        server.kill(signal.SIGKILL)
        server.wait()
    again = serve("--host", "127.0.0.1", "--port", str(server.port))
    assert again.exchange(b"x") == b"system: x"


def test_ipv6_is_shown_in_brackets(serve: Serve) -> None:
    """`--host ::1` listens there, and says so as an address is written."""
    server = serve("--host", "::1", "--port", "0")
    assert server.address == f"[::1]:{server.port}"
    assert server.exchange(b"x") == b"system: x"


@pytest.mark.skipif(sys.platform.startswith("openbsd"), reason="OpenBSD has no dual-stack sockets")
def test_the_unspecified_ipv6_address_takes_ipv4_too(serve: Serve) -> None:
    """`--host ::` is dual-stack, and an IPv4 client's address is shown as IPv4."""
    server = serve("--host", "::", "--port", "0", "--reply", "{peer}")
    assert server.address == f"[::]:{server.port}"
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        assert exchange(client, b"x") == f"127.0.0.1:{client.getsockname()[1]}".encode()


def test_a_name_is_bound_at_its_ipv4_address(serve: Serve) -> None:
    """`--host localhost` is 127.0.0.1 wherever it is that, too."""
    assert serve("--host", "localhost", "--port", "0").address.startswith("127.0.0.1:")


def test_a_unix_socket_is_made_and_removed(serve: Serve, tmp_path: Path) -> None:
    """It is served at its path, and gone after the stop."""
    path = tmp_path / "a.sock"
    server = serve("--uds", str(path), "--reply", "{peer} {message}")
    assert server.address == f"unix:{path}"
    assert server.exchange(b"x") == b"unix x"
    server.finish()
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(serve: Serve, tmp_path: Path) -> None:
    """What a killed server left behind is in nobody's way."""
    path = tmp_path / "a.sock"
    killed = serve("--uds", str(path), exit_code=-signal.SIGKILL)
    killed.kill(signal.SIGKILL)
    killed.wait()
    assert path.exists()
    assert serve("--uds", str(path)).exchange(b"x") == b"system: x"


def test_a_live_unix_socket_is_in_use(serve: Serve, tmp_path: Path) -> None:
    """A second server does not take the path away."""
    path = tmp_path / "a.sock"
    server = serve("--uds", str(path))
    failed = run("--uds", str(path))
    assert failed.returncode == 1
    assert str(path) in failed.stderr
    assert server.exchange(b"x") == b"system: x"


def test_a_plain_file_is_never_deleted(tmp_path: Path) -> None:
    """A path that holds something else than a socket is an error, and stays as it is."""
    path = tmp_path / "precious"
    path.write_text("data")
    failed = run("--uds", str(path))
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert path.read_text() == "data"


def test_another_servers_socket_is_not_removed(serve: Serve, tmp_path: Path) -> None:
    """A server whose path somebody else has taken leaves that alone when it stops."""
    path = tmp_path / "a.sock"
    first = serve("--uds", str(path))
    os.unlink(path)
    second = serve("--uds", str(path))
    first.finish()
    assert second.exchange(b"x") == b"system: x"


def test_a_path_too_long_for_a_unix_socket(tmp_path: Path) -> None:
    """It is said, not cut."""
    failed = run("--uds", str(tmp_path / ("x" * 200)))
    assert failed.returncode == 1
    assert "too long" in failed.stderr


def test_a_foreign_address_cannot_be_bound() -> None:
    """An address that is no interface's is one line and exit 1."""
    failed = run("--host", "203.0.113.1", "--port", "0")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "127.0.0.1"])
def test_a_server_that_all_can_reach_says_so(host: str, serve: Serve) -> None:
    """One line right behind the start's, and none where only this machine can connect."""
    server = serve("--host", host, "--port", "0", *SHORT_QUEUE)
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(b"x")
        assert client.recv(100) == b"system: x"
    server.finish()
    assert server.lines[0].startswith("Server started on ")
    assert ("listens on all addresses" in server.lines[1]) == (host != "127.0.0.1")
    assert sum("listens on all addresses" in line for line in server.lines) == (host != "127.0.0.1")


def test_a_backlog_that_the_system_cuts_is_said(serve: Serve) -> None:
    """The line says to how many, and what raises that."""
    limit = limits.backlog(65_535)
    if limit.value is None or limit.value >= 65_535:
        pytest.skip("this system would not cut it")
    server = serve("--backlog", "65535")
    server.finish()
    assert server.lines[1].startswith(f"The system cuts backlog from 65535 to {limit.value} ({limit.name}); for more: ")
    assert "65535" in server.lines[1].partition("for more")[2]
    server = serve("--backlog", str(limit.value))
    server.finish()
    assert not any("backlog" in line for line in server.lines)
