"""Framing and templates against models of a few lines each, with whatever bytes hypothesis thinks of."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cffi import FFI
from conftest import exchange, line_message, u32_message
from hypothesis import given, settings
from hypothesis import strategies as st
from test_c import CC, ROOT

from kqnative import ConfigError, Server

MAX_MESSAGE = 20
STREAM, LINE, U32 = range(3)
DECLARATIONS = """
struct kqn_framing { int kind; size_t max_message; };
struct kqn_frame { const uint8_t *message; size_t message_len, consumed, ending_len; };
int next(const struct kqn_framing *framing, const uint8_t *bytes, size_t len, bool at_end, size_t *scanned,
         struct kqn_frame *frame);
"""
SOURCE = """
#include "core/framing.h"
int next(const struct kqn_framing *framing, const uint8_t *bytes, size_t len, bool at_end, size_t *scanned,
         struct kqn_frame *frame)
{
    return kqn_framing_next(framing, bytes, len, at_end, scanned, frame);
}
"""

Found = list[tuple[bytes, int]]  # messages, and how long the ending of each was


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> tuple[FFI, Any]:
    """csrc/core/framing.h alone."""
    path = tmp_path_factory.mktemp("framing") / "framing.so"
    source = path.with_suffix(".c")
    source.write_text(SOURCE)
    subprocess.run([CC, "-std=gnu11", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}", source, "-o", path], check=True)
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    return ffi, ffi.dlopen(str(path))


def found_in(core: tuple[FFI, Any], kind: int, pieces: list[bytes]) -> tuple[Found, bool]:
    """What framing finds when the pieces come one after another and then the end; whether it was too long."""
    ffi, lib = core
    framing = ffi.new("struct kqn_framing *", {"kind": kind, "max_message": MAX_MESSAGE})
    frame, scanned = ffi.new("struct kqn_frame *"), ffi.new("size_t *")
    found: Found = []
    held = b""
    for piece, at_end in [*((piece, False) for piece in pieces), (b"", True)]:
        held += piece
        while (rc := lib.next(framing, held, len(held), at_end, scanned, frame)) == 1:
            offset = frame.consumed - frame.message_len - frame.ending_len
            found.append((held[offset : offset + frame.message_len], frame.ending_len))
            held = held[frame.consumed :]
        if rc < 0:
            return found, True
    return found, False


def lines_in(data: bytes) -> tuple[Found, bool]:
    """The model of line framing."""
    found: Found = []
    for line in split_at_lf(data):
        text = line.removesuffix(b"\n")
        if line.endswith(b"\r\n"):
            text = line.removesuffix(b"\r\n")
        if len(text) > MAX_MESSAGE:
            return found, True
        found.append((text, len(line) - len(text)))
    return found, False


def split_at_lf(data: bytes) -> list[bytes]:
    """Lines with their LF; what is behind the last LF too, if anything is."""
    *lines, rest = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([rest] if rest else [])


def u32_in(data: bytes) -> tuple[Found, bool]:
    """The model of u32 framing."""
    found: Found = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        if size > MAX_MESSAGE:
            return found, True
        if len(data) < 4 + size:
            break
        found.append((data[4 : 4 + size], 0))
        data = data[4 + size :]
    return found, False


@st.composite
def streams(draw: st.DrawFn, message: Callable[[bytes], bytes]) -> list[bytes]:
    """Messages and noise, cut into pieces anywhere."""
    texts = st.binary(max_size=MAX_MESSAGE + 2)
    parts = st.one_of(texts.map(message), texts, st.sampled_from([b"\n", b"\r\n", b"\r", b"\0\0\0\0"]))
    data = b"".join(draw(st.lists(parts, max_size=12)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=1000)
@given(pieces=streams(line_message))
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes], core: tuple[FFI, Any]) -> None:
    """Any split of any bytes gives the model's lines."""
    assert found_in(core, LINE, pieces) == lines_in(b"".join(pieces))


@settings(max_examples=1000)
@given(pieces=streams(u32_message))
def test_u32_messages_are_the_same_however_they_are_cut(pieces: list[bytes], core: tuple[FFI, Any]) -> None:
    """Any split of any bytes gives the model's messages."""
    assert found_in(core, U32, pieces) == u32_in(b"".join(pieces))


@settings(max_examples=300)
@given(data=st.binary(min_size=1))
def test_a_stream_message_is_all_there_is(data: bytes, core: tuple[FFI, Any]) -> None:
    """In stream framing nothing is looked for."""
    assert found_in(core, STREAM, [data]) == ([(data, 0)], False)


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    """A server that sends lines back."""
    with Server(host="127.0.0.1", port=0, framing="line", reply="{message}") as server:
        yield server


@settings(max_examples=60)
@given(pieces=st.lists(st.binary(max_size=3000), max_size=8))
def test_a_server_sends_back_what_came(pieces: list[bytes], echo: Server) -> None:
    """Over a real socket, whatever the bytes and the pieces, an echo of lines is the same bytes."""
    with socket.create_connection(("127.0.0.1", echo.port)) as client:
        for piece in pieces[:-1]:
            client.sendall(piece)
        assert exchange(client, b"".join(pieces[-1:])) == b"".join(pieces)


def rendered(template: str, message: bytes) -> bytes | None:
    """The model of a template; None: it is none."""
    out, rest = b"", template
    while rest:
        for text, value in (("{{", b"{"), ("}}", b"}"), ("{message}", message)):
            if rest.startswith(text):
                out, rest = out + value, rest[len(text) :]
                break
        else:
            if rest[0] in "{}":
                return None
            out, rest = out + rest[0].encode(), rest[1:]
    return out


TEMPLATES = st.lists(st.sampled_from(["{", "}", "{{", "}}", "{message}", "{message", "a", "é", " "]), max_size=6)


@settings(max_examples=150)
@given(parts=TEMPLATES, message=st.binary(max_size=50), framing=st.sampled_from(["line", "u32"]))
def test_a_template_answers_as_its_model(parts: list[str], message: bytes, framing: str) -> None:
    """What is a template, and the answer that it makes, are the model's."""
    template = "".join(parts)
    if (answer := rendered(template, message)) is None:
        with pytest.raises(ConfigError, match="reply"):
            Server(reply=template)
        return
    framed = {"line": line_message, "u32": u32_message}[framing]
    message = message.replace(b"\n", b"").rstrip(b"\r") if framing == "line" else message
    answer = rendered(template, message)
    assert answer is not None
    with (
        Server(host="127.0.0.1", port=0, framing=framing, reply=template) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        assert exchange(client, framed(message)) == framed(answer)
