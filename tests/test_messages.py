"""Messages and answers over real sockets, on every poller."""

import socket
import subprocess
import threading

import pytest
from conftest import (
    PATIENCE_S,
    SHORT_QUEUE,
    Serve,
    exchange,
    line_message,
    read_exactly,
    read_to_end,
    u32_message,
    wait_until,
)

MIB = 1 << 20


@pytest.mark.tool("nc")
def test_the_first_conversation(serve: Serve) -> None:
    """`nc` gets its answer, and the log tells it in four lines with one descriptor."""
    server = serve(*SHORT_QUEUE)
    client = subprocess.Popen(["nc", "localhost", str(server.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin
    assert client.stdout
    client.stdin.write(b"hello\n")
    client.stdin.flush()
    assert client.stdout.readline() == b"system: hello\n"
    client.kill()
    client.communicate()
    fd = server.wait_for(r"^New client connected: FD (\d+)$")[1]
    server.wait_for(rf"^Client FD {fd} disconnected$")
    assert server.lines == [
        f"Server started on 127.0.0.1:{server.port}",
        f"New client connected: FD {fd}",
        "Received: hello",
        f"Client FD {fd} disconnected",
    ]


def test_a_stream_message_is_what_one_read_returned(serve: Serve, poller: str) -> None:
    """In lock-step each send is a message, and --read-size cuts longer ones."""
    server = serve("--poller", poller, "--read-size", "8")
    with server.connect() as client:
        client.sendall(b"abc")
        assert read_exactly(client, 11) == b"system: abc"
        client.sendall(b"12345678\n")
        assert read_exactly(client, 25) == b"system: 12345678system: \n"


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"one\ntwo\r\n\nlast", b"system: one\nsystem: two\r\nsystem: \nsystem: last"),
        (b"a\rb\n", b"system: a\rb\n"),
        (b"\xff\x00\n", b"system: \xff\x00\n"),
        (b"", b""),
    ],
)
def test_a_line_keeps_its_ending(sent: bytes, answered: bytes, serve: Serve) -> None:
    """LF or CRLF stands behind the answer as it came; an unfinished last line is a message."""
    assert serve("--framing", "line").exchange(sent) == answered


def test_u32_messages_have_their_length_in_front(serve: Serve, poller: str) -> None:
    """Messages of no, one and many bytes get answers with their own length; an unfinished one gets none."""
    server = serve("--framing", "u32", "--poller", poller)
    texts = [b"", b"x", b"y" * 100_000]
    answers = b"".join(u32_message(b"system: " + text) for text in texts)
    assert server.exchange(b"".join(u32_message(text) for text in texts) + b"\0\0\0\5ab") == answers


@pytest.mark.parametrize("framing", ["line", "u32"])
def test_one_byte_at_a_time(framing: str, serve: Serve) -> None:
    """However a message is cut, its answer is the same."""
    message = {"line": line_message, "u32": u32_message}[framing]
    server = serve("--framing", framing)
    with server.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in message(b"hello") + message(b"world"):
            client.sendall(bytes([byte]))
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == message(b"system: hello") + message(b"system: world")


def test_one_read_of_65536_empty_lines(serve: Serve, poller: str) -> None:
    """As many answers come back as lines fitted into one read."""
    assert serve("--framing", "line", "--poller", poller).exchange(b"\n" * 65_536) == b"system: \n" * 65_536


@pytest.mark.parametrize("framing", ["stream", "line", "u32"])
def test_a_half_closed_client_gets_every_answer(framing: str, serve: Serve, poller: str) -> None:
    """A client that sends megabytes, ends its side and only then reads gets all answers, in order."""
    server = serve("--framing", framing, "--poller", poller, "--reply", "{message}")
    texts = [b"%07d" % i for i in range(200_000)]
    message = {"stream": bytes, "line": line_message, "u32": u32_message}[framing]
    data = b"".join(message(text) for text in texts)
    assert server.exchange(data) == data


def test_a_slow_reader_gets_all_and_delays_nobody(serve: Serve, poller: str) -> None:
    """The server stops reading from a client that does not read; another one is served meanwhile."""
    server = serve("--framing", "line", "--poller", poller, "--reply", "{message}")
    data = (b"z" * 999 + b"\n") * 8_000
    with server.connect() as slow:
        sender = threading.Thread(target=slow.sendall, args=(data,))
        sender.start()
        with server.connect() as other:
            for i in range(200):
                other.sendall(b"%d\n" % i)
                assert read_exactly(other, len(b"%d\n" % i)) == b"%d\n" % i
        assert read_exactly(slow, len(data)) == data
        sender.join()


def test_a_message_as_long_as_allowed_and_one_byte_longer(serve: Serve) -> None:
    """--max-message bytes are answered; one more ends the connection, said with its reason, after earlier answers."""
    server = serve("--framing", "line", "--max-message", "1000", "--reply", "{message}")
    longest = b"m" * 1000 + b"\r\n"
    assert server.exchange(longest) == longest
    with server.connect() as client:
        client.sendall(b"early\n" + b"m" * 1001)
        assert read_to_end(client) == b"early\n"
    server.wait_for("disconnected: message longer than 1000 bytes")


def test_a_claimed_length_costs_nothing(serve: Serve) -> None:
    """A u32 length above the limit ends the connection before anything of it has come."""
    server = serve("--framing", "u32")
    with server.connect() as client:
        client.sendall(u32_message(b"early") + b"\xff\xff\xff\xff")
        assert read_to_end(client) == u32_message(b"system: early")
    server.wait_for("disconnected: message longer than 1048576 bytes")


def test_answers_arrive_though_input_was_left_unread(serve: Serve) -> None:
    """A connection ended by us is not reset under the answers that are on their way."""
    server = serve("--framing", "line", "--max-message", "10")
    for _ in range(20):
        assert server.exchange(b"one\ntwo\n" + b"x" * 300_000) == b"system: one\nsystem: two\n"


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        ("{message}", b"hi"),
        ("<{message}>", b"<hi>"),
        ("{message}{message}", b"hihi"),
        ("{{{message}}}", b"{hi}"),
        ("fixed", b"fixed"),
        ("é: {message}", "é: hi".encode()),
    ],
)
@pytest.mark.parametrize("framing", ["stream", "line", "u32"])
def test_a_template_makes_the_answer(template: str, answer: bytes, framing: str, serve: Serve) -> None:
    """Text, the message wherever it stands, and braces, in every framing."""
    message = {"stream": bytes, "line": line_message, "u32": u32_message}[framing]
    assert serve("--framing", framing, "--reply", template).exchange(message(b"hi")) == message(answer)


def test_the_peer_field_is_the_clients_address(serve: Serve) -> None:
    """{peer} is the client's own address and port."""
    server = serve("--reply", "{peer} {message}")
    with server.connect() as client:
        host, port = client.getsockname()
        assert exchange(client, b"x") == f"{host}:{port} x".encode()


def test_an_answer_larger_than_any_buffer(serve: Serve, poller: str) -> None:
    """A message of a mebibyte, answered three times over, arrives whole."""
    server = serve("--framing", "line", "--reply", "{message}{message}{message}", "--poller", poller)
    text = bytes(range(32, 127)) * (MIB // 95)
    assert server.exchange(line_message(text) * 2) == line_message(text * 3) * 2


def test_a_reset_harms_nobody_else(serve: Serve, poller: str) -> None:
    """Clients that break off with answers under way are counted, and a witness sees nothing of it."""
    server = serve("--framing", "line", "--poller", poller)
    with server.connect() as witness:
        for i in range(50):
            with server.connect() as rude:
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                rude.sendall(b"x\n" * 1000)
            witness.sendall(b"%d\n" % i)
            expected = b"system: %d\n" % i
            assert read_exactly(witness, len(expected)) == expected


def test_a_batch_of_ten(serve: Serve, poller: str) -> None:
    """With --batch 1 or 10 (the article's) a hundred clients are all served."""
    for batch in ("1", "10"):
        server = serve("--batch", batch, "--poller", poller)
        clients = [server.connect() for _ in range(100)]
        for client in clients:
            client.sendall(b"hi")
        for client in clients:
            assert read_exactly(client, 10) == b"system: hi"
        for client in clients:
            client.close()


@pytest.mark.parametrize("framing", ["line", "u32"])
def test_several_loops_serve_alike(framing: str, serve: Serve, poller: str) -> None:
    """Four loops, forty clients at a time: each gets its own answers, and the sums balance."""
    server = serve("--loops", "4", "--framing", framing, "--poller", poller)
    message = {"line": line_message, "u32": u32_message}[framing]
    failures = []

    def talk(i: int) -> None:
        texts = [b"%d.%d" % (i, j) for j in range(500)]
        answers = server.exchange(b"".join(message(text) for text in texts))
        if answers != b"".join(message(b"system: " + text) for text in texts):
            failures.append(i)

    threads = [threading.Thread(target=talk, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_an_urgent_byte_is_no_end(serve: Serve) -> None:
    """Out-of-band data neither ends the connection nor makes the loop spin."""
    server = serve()
    with server.connect() as client:
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"hello")
        wait_until(lambda: b"hello" in client.recv(100, socket.MSG_PEEK), "the answer", PATIENCE_S)
