"""The soak: clients of all kinds talk to a server for a long time, and nothing of it grows: `soak.py --minutes 10`.

Of 200 clients 60 % are in lock-step, 15 % send without waiting, and 10 % come and go: load testers, which check each
answer. 5 % each read slowly, write slowly, and are hostile: those are chaos.py. Meanwhile the server's memory and
descriptors are looked at each second, and a witness on each loop sees how long it ever waits for an answer.
The seed decides what clients do, but not when, so what failed may pass with the same seed.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conftest import PATIENCE_S, RunningServer, wait_until
from figures import cpu_s, memory_bytes, record
from samples import LONG_S, Sample, check_memory, growth_bytes
from tester import LoadTester
from witness import Witness

LOOPS = 2
MAX_MESSAGE = 65_536
SERVER_LIMITS = ("--max-message", str(MAX_MESSAGE), "--idle-timeout", "5s")
LOCK_STEP = ("--connections", "120")
PIPELINED = ("--connections", "30", "--depth", "16")
COMING_AND_GOING = ("--connections", "20", "--reconnect-every", "5", "--think-time", "20ms")
LONGEST_LINE = 10_000

# glibc keeps ever more of what large blocks leave behind, for a minute or two until it has enough. That is no leak, so
# in a short soak it has to give them back.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}

SAMPLE_S = 1.0
IDLE_CPU_SHARE = 0.05  # of a core, when all clients have gone


class SoakedServer(RunningServer):
    """A server whose lines about clients are only looked at and not kept, for there are too many."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        options = ("--framing", "line", "--loops", str(LOOPS), "--log-format", "json", *SERVER_LIMITS)
        super().__init__(options, exit_code=0, cwd=folder, env=env)

    def _read_lines(self) -> None:
        assert self.process.stderr
        with self.process.stderr:
            for line in self.process.stderr:
                if not _is_about_a_client(line):
                    self._new_lines.put(line.decode().removesuffix("\n"))
        self._new_lines.put(None)

    def finish(self) -> None:
        """Also: every line was JSON, and none was above INFO."""
        super().finish()
        assert {json.loads(line)["level"] for line in self.lines} == {"info"}, self.lines


def _is_about_a_client(line: bytes) -> bool:
    try:
        said = json.loads(line)
    except ValueError:
        return False  # it is kept, and finish() fails for it
    return bool(said["logger"] == "kqnative.client" and said["level"] == "info")


class Chaos:
    """The slow and the hostile clients, in a process of their own."""

    def __init__(self, server: RunningServer, seed: int) -> None:
        program = str(Path(__file__).with_name("chaos.py"))
        self.process = subprocess.Popen(
            [sys.executable, program, str(server.port), str(seed), str(MAX_MESSAGE)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_flooded(self) -> None:
        """What the server needs most is behind it."""
        assert self.process.stdout
        assert self.process.stdout.readline() == "flooded\n", self.process.communicate()[1]

    def check(self) -> None:
        """It still runs: it ends by itself only when an answer was wrong."""
        assert self.process.poll() is None, self.process.communicate()[1]

    def end(self) -> None:
        """All its clients go."""
        self.check()
        self.process.terminate()
        complaint = self.process.communicate(timeout=PATIENCE_S)[1]
        assert self.process.returncode == 0, complaint

    def clean_up(self) -> None:
        """Leaves no process and no descriptor."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


def lines_of_many_lengths(chooser: random.Random, path: Path) -> Path:
    """A file of messages, the short ones more often."""
    sizes = [int(LONGEST_LINE ** chooser.random()) for _ in range(100)]
    path.write_text("".join(f"{chooser.randbytes(size).hex()[:size]}\n" for size in sizes))
    return path


def sample(server: RunningServer, begun_at: float) -> Sample:
    """The server as it is now."""
    return Sample(time.monotonic() - begun_at, memory_bytes(server.process.pid), server.descriptor_count())


def watch(
    server: RunningServer, clients: list[LoadTester | Chaos], witness: Witness, duration_s: float
) -> list[Sample]:
    """Looks at everything each second for so long, and says what it sees."""
    samples: list[Sample] = []
    begun_at = time.monotonic()
    while (remaining_s := begun_at + duration_s - time.monotonic()) > 0:
        time.sleep(min(SAMPLE_S, remaining_s))
        for client in clients:
            client.check()
        seen = sample(server, begun_at)
        samples.append(seen)
        print(
            f"{seen.at_s:5.0f} s: {seen.memory_bytes // 1024:,} KiB, {seen.descriptors} descriptors,"
            f" longest gap {witness.longest_gap_s * 1_000:.0f} ms",
            file=sys.stderr,
            flush=True,
        )
    return samples


def check_idle(server: RunningServer) -> None:
    """All clients have gone: no descriptor is left of them, and the server has nothing to do."""
    server.wait_until_idle()
    last_s = cpu_s(server.process.pid)

    def rests() -> bool:
        nonlocal last_s
        time.sleep(SAMPLE_S)
        before_s, last_s = last_s, cpu_s(server.process.pid)
        return last_s - before_s <= IDLE_CPU_SHARE * SAMPLE_S

    wait_until(rests, "the server rests when all clients have gone")


def run(duration_s: float, seed: int, folder: Path) -> str:
    """One soak; its figures."""
    chooser = random.Random(seed)
    with contextlib.ExitStack() as stack:
        server = SoakedServer(folder, {} if duration_s >= LONG_S else GIVE_BACK)
        stack.callback(server.clean_up)
        with Witness(server, connections=LOOPS, framing="line") as witness:
            testers = []
            for number, manner in enumerate((LOCK_STEP, PIPELINED, COMING_AND_GOING)):
                lines = lines_of_many_lengths(chooser, folder / f"{number}.txt")
                tester = LoadTester(server, "--message-file", str(lines), "--expect", "system: {message}", *manner)
                stack.callback(tester.clean_up)
                testers.append(tester)
            chaos = Chaos(server, chooser.getrandbits(32))
            stack.callback(chaos.clean_up)
            chaos.wait_until_flooded()
            samples = watch(server, [*testers, chaos], witness, duration_s)
            chaos.end()
            for tester in testers:
                tester.end()
        check_idle(server)
        server.finish()
        check_memory(samples)
    return (
        f"soak: {duration_s:.0f} s, messages {server.counter('messages'):,},"
        f" connections {server.counter('accepted'):,},"
        f" memory {growth_bytes(samples) // 1024:+,} KiB, descriptors flat,"
        f" longest gap {witness.longest_gap_s * 1_000:.0f} ms"
    )


def soak(duration_s: float, seed: int) -> None:
    """One soak, whose figures are recorded; a failure names the seed."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            record(run(duration_s, seed, Path(folder)))
    except Exception as failure:
        failure.add_note(f"soak: seed {seed}")
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description="Soaks a server with clients of all kinds.")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long (default: 10)")
    parser.add_argument("--seed", type=int, metavar="N", help="what clients do (default: any)")
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    print(f"soak: seed {seed}", file=sys.stderr)
    soak(options.minutes * 60, seed)


if __name__ == "__main__":
    main()
