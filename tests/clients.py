"""Clients that come and go: `clients.py PORT` talks to a line server that answers `system: `, from several threads.

Each connection sends lines of many lengths in pieces of many sizes, some of them read slowly, and must get exactly its
own answers. The exit code is 0 when all did.
"""

import random
import socket
import sys
import threading
import time

THREADS = 8
CONNECTIONS = 12


def lines_of(chooser: random.Random) -> list[bytes]:
    """From one line to many, empty ones and long ones among them."""
    count = chooser.choice([1, 5, 200])
    return [bytes(chooser.choices(b"abc", k=chooser.choice([0, 1, 30, chooser.randrange(9000)]))) for _ in range(count)]


def read_all(connection: socket.socket, pause_s: float, into: bytearray) -> None:
    """Reads to the end, with a pause after each read."""
    while data := connection.recv(65536):
        into += data
        time.sleep(pause_s)


def talk(port: int, chooser: random.Random) -> None:
    """One connection's life: sends, ends its side, and compares what came."""
    lines = lines_of(chooser)
    data = b"".join(line + b"\n" for line in lines)
    answers = bytearray()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        pause_s = chooser.choice([0, 0, 0.001])
        reader = threading.Thread(target=read_all, args=(connection, pause_s, answers))
        reader.start()
        while data:
            size = chooser.choice([1, 100, 5000, 200000])
            connection.sendall(data[:size])
            data = data[size:]
        connection.shutdown(socket.SHUT_WR)
        reader.join()
    assert answers == b"".join(b"system: " + line + b"\n" for line in lines)


def main() -> int:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        chooser = random.Random(seed)
        try:
            for _ in range(CONNECTIONS):
                talk(int(sys.argv[1]), chooser)
        except (OSError, AssertionError) as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(failures)} of {THREADS} threads failed", *failures[:3])
    return len(failures) > 0


if __name__ == "__main__":
    sys.exit(main())
