"""Long messages and answers: around each length from which they take another way through the server, byte for byte."""

import os
import random
import socket
import threading
from collections.abc import Iterator

import pytest
from conftest import FRAMED, PATIENCE_S, Serve, exchange, read_exactly
from hypothesis import given, settings
from hypothesis import strategies as st

from kqnative import Server

KIB, MIB = 1 << 10, 1 << 20
SHORT = [0, 1, 100]
# A part of over 8 KiB is not copied, a read has 64 KiB, answers gather in 256 KiB, and a block that is kept has 1 MiB.
AROUND_8_KIB = range(8 * KIB - 20, 8 * KIB + 5)
AROUND_64_KIB = range(64 * KIB - 20, 64 * KIB + 5, 3)
AROUND_256_KIB = range(256 * KIB - 60, 256 * KIB + 5, 13)
AROUND_1_MIB = range(MIB - 40, MIB + 5, 11)
PREFIX, SUFFIX = b"<<<", b">>"
TEMPLATES = {
    "{message}": (b"", b""),
    "<<<{message}": (PREFIX, b""),
    "{message}>>": (b"", SUFFIX),
    "<<<{message}>>": (PREFIX, SUFFIX),
}
TEXT = bytes(random.Random(1).choices(range(ord("a"), ord("z")), k=MIB + KIB))


def text_of(size: int) -> bytes:
    """Of this length, and unlike that of any other length: each begins elsewhere."""
    begin = size % KIB
    return TEXT[begin : begin + size]


def crlf_message(text: bytes) -> bytes:
    """A line as other systems write it."""
    return text + b"\r\n"


MESSAGES = {"line": FRAMED["line"], "crlf": crlf_message, "u32": FRAMED["u32"]}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", MESSAGES)
def test_answers_of_every_length_stand_in_their_order(kind: str, template: str, serve: Serve) -> None:
    """Short ones and long ones in one send, on both sides of each length that is answered in another way."""
    framing = "line" if kind == "crlf" else kind
    server = serve("--framing", framing, "--reply", template, "--max-message", "2M", "--log-rate", "0")
    prefix, suffix = TEMPLATES[template]
    sizes = [*AROUND_8_KIB, 10, *AROUND_64_KIB, *[8_000] * 40, *AROUND_256_KIB, *SHORT, *AROUND_1_MIB, 5]
    framed = MESSAGES[kind]
    texts = [text_of(size) for size in sizes]
    answers = b"".join(framed(prefix + text + suffix) for text in texts)
    assert server.exchange(b"".join(map(framed, texts))) == answers


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("read_size", ["32", "8k", "64k", "2M"])
def test_a_long_stream_comes_back_whole(read_size: str, template: str, serve: Serve) -> None:
    """However many bytes a read returns, their answers are the same bytes, with the template around each read's."""
    server = serve("--reply", template, "--read-size", read_size, "--log-rate", "0")
    size = 100_000 if read_size == "32" else 2 * MIB
    data = (TEXT * 2)[:size]
    answers = server.exchange(data)
    assert answers.replace(PREFIX, b"").replace(SUFFIX, b"") == data


@pytest.mark.parametrize("read_size", [1, 32, 4_096, 65_536])
def test_frames_around_a_read_s_length(read_size: int, serve: Serve, poller: str) -> None:
    """A frame of just a read, of one byte less or more, of several reads, and what stands behind it, is found."""
    server = serve("--framing", "u32", "--read-size", str(read_size), "--poller", poller, "--log-rate", "0")
    reads = [one * read_size + more for one in (1, 2, 3) for more in (-5, -4, -3, -1, 0, 1)]
    sizes = [size for size in [*reads, *range(4_090, 4_100), 9_000, 70_000, 0] if 0 <= size < 200_000]
    texts = [text_of(size) for size in sizes]
    answers = b"".join(FRAMED["u32"](b"system: " + text) for text in texts)
    assert server.exchange(b"".join(map(FRAMED["u32"], texts))) == answers


def listener_of(server: Server) -> socket.socket:
    """The listening socket of a server in this process; it is not to be closed."""
    for fd in map(int, os.listdir("/dev/fd")):
        try:
            one = socket.socket(fileno=fd)
        except OSError:
            continue
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and one.getsockname()[1] == server.port:
            return one
        one.detach()
    raise AssertionError("no listener")


def with_small_buffers(framing: str) -> Iterator[Server]:
    """A server whose kernel takes but a few KiB of an answer at a time."""
    template = "<<<{message}>>"
    fields = {"framing": framing, "reply": template, "read_size": 4_096, "log_rate": 0}
    with Server(host="127.0.0.1", port=0, **fields) as server:  # type: ignore[arg-type]
        listener = listener_of(server)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # those who are accepted have it too
        listener.detach()
        yield server


@pytest.fixture(scope="module")
def narrow_lines() -> Iterator[Server]:
    """For lines."""
    yield from with_small_buffers("line")


@pytest.fixture(scope="module")
def narrow_frames() -> Iterator[Server]:
    """For u32 frames."""
    yield from with_small_buffers("u32")


def slowly_exchanged(server: Server, data: bytes, piece: int) -> bytes:
    """The answers to these bytes, sent in such pieces, of which the client's kernel holds but few."""
    with socket.socket() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", server.port))
        sender = threading.Thread(target=send_in_pieces, args=(client, data, piece))
        sender.start()
        answers = []
        while part := client.recv(3_000):
            answers.append(part)
        sender.join()
    return b"".join(answers)


def send_in_pieces(client: socket.socket, data: bytes, piece: int) -> None:
    """Sends all, and ends our side."""
    for begin in range(0, len(data), piece):
        client.sendall(data[begin : begin + piece])
    client.shutdown(socket.SHUT_WR)


SIZES = st.lists(
    st.one_of(st.integers(0, 300), st.integers(1_500, 6_000), st.integers(8_170, 8_200), st.integers(8_192, 60_000)),
    max_size=10,
)
PIECES = st.sampled_from([700, 4_096, 30_000, 1_000_000])


@settings(max_examples=25)
@given(sizes=SIZES, piece=PIECES, ending=st.sampled_from([b"\n", b"\r\n"]))
def test_lines_arrive_whole_whatever_the_kernel_takes(
    sizes: list[int], piece: int, ending: bytes, narrow_lines: Server
) -> None:
    """Answers that are written in many parts, wherever those end, are the same bytes."""
    texts = [text_of(size) for size in sizes]
    answers = b"".join(PREFIX + text + SUFFIX + ending for text in texts)
    assert slowly_exchanged(narrow_lines, b"".join(text + ending for text in texts), piece) == answers


@settings(max_examples=25)
@given(sizes=SIZES, piece=PIECES)
def test_frames_arrive_whole_whatever_the_kernel_takes(sizes: list[int], piece: int, narrow_frames: Server) -> None:
    """So are those of frames, which are read in place once they are long."""
    framed = FRAMED["u32"]
    texts = [text_of(size) for size in sizes]
    answers = b"".join(framed(PREFIX + text + SUFFIX) for text in texts)
    assert slowly_exchanged(narrow_frames, b"".join(map(framed, texts)), piece) == answers


def test_many_long_answers_to_a_client_that_reads_late(serve: Serve, poller: str) -> None:
    """Ten answers of a mebibyte wait for a client that sends them all before it reads, and so do the short between."""
    server = serve("--framing", "u32", "--reply", "<<<{message}>>", "--poller", poller)
    framed = FRAMED["u32"]
    texts = [text_of(size) for i in range(10) for size in (i, MIB - i)]
    answers = b"".join(framed(PREFIX + text + SUFFIX) for text in texts)
    with server.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(b"".join(map(framed, texts)),))
        sender.start()
        with server.connect() as other:
            assert exchange(other, framed(b"x")) == framed(b"<<<x>>")
        assert read_exactly(client, len(answers)) == answers
        sender.join()
