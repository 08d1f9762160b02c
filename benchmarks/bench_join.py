"""How long a worker takes to join a run, and what the others notice of it.

    python benchmarks/bench_join.py [--workers 2] [--step-ms 20] [--rounds 5] [--mode sync]

Real processes: a scheduler, a server, and workers whose steps wait on a timer and then push and pull a small layer.
Then one more process is started. From its start (fork) are told: ``counted_s`` until the scheduler has written down
that it joined, ``script_s`` until its script begins, ``ready_s`` until its script has made its model and waits to be
let in, ``entered_s`` until it takes part, ``first_step_s`` until its first step has ended. ``longest_step_s`` is the
longest step of anybody else from the process's start to its first step, ``usual_step_s`` their median before;
``heartbeat_s`` is what ``disturbed_s``, the difference, must stay below. Prints a JSON object: medians, and the worst.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kv_control import prefer

__all__ = ["figures"]

SCRIPT = Path(__file__).with_name("join_worker.py")
SHOAL = [sys.executable, "-m", "shoal"]
LEASE_S = 10.0
HEARTBEAT_S = LEASE_S / 4

Mark = Mapping[str, Any]


def figures(started: float, counted: float, mine: Sequence[Mark], others: Sequence[Sequence[Mark]]) -> dict[str, float]:
    """What one joining has shown; times as seconds since 1970.

    >>> me = [{"what": w, "time": t} for w, t in (("script", 2.0), ("ready", 3.0), ("entered", 4.0), ("step", 5.0))]
    >>> other = [{"what": "step", "time": t} for t in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.5, 5.0)]
    >>> found = figures(1.0, 1.5, me, [other])
    >>> [found[k] for k in ("counted_s", "first_step_s", "usual_step_s", "longest_step_s", "steps_meanwhile")]
    [0.5, 4.0, 0.5, 1.5, 6]
    """
    at = {what: next(m["time"] for m in mine if m["what"] == what) for what in ("script", "ready", "entered", "step")}
    before, during = [], []
    for marks in others:
        ends = [m["time"] for m in marks if m["what"] == "step"]
        for begin, end in itertools.pairwise(ends):
            if end <= started:
                before.append(end - begin)
            elif begin < at["step"]:
                during.append(end - begin)
    usual, longest = statistics.median(before), max(during)
    names = {"script": "script_s", "ready": "ready_s", "entered": "entered_s", "step": "first_step_s"}
    return {
        "counted_s": counted - started,
        **{name: at[what] - started for what, name in names.items()},
        "usual_step_s": usual,
        "longest_step_s": longest,
        "disturbed_s": longest - usual,
        "steps_meanwhile": len(during),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, as far as they are whole."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


class Run:
    """A run to which one more worker comes."""

    def __init__(self, folder: Path, o: argparse.Namespace) -> None:
        self.folder, self.processes = folder, []
        self._o = o
        counts = ["-n", str(o.workers), "-s", "1", "--mode", o.mode, "--port", "0", "--lease-s", str(LEASE_S)]
        read_fd, write_fd = os.pipe()
        self._start("scheduler", *counts, "--events", str(folder), "--ready-fd", str(write_fd), pass_fds=(write_fd,))
        os.close(write_fd)
        with os.fdopen(read_fd) as ready:
            self.address = f"127.0.0.1:{int(ready.readline())}"
        self._start("server", "--scheduler", self.address)
        for _ in range(o.workers):
            self.worker()

    def _start(self, role: str, *args: str, **options: Any) -> "subprocess.Popen[bytes]":
        with (self.folder / "said.txt").open("ab") as said:
            env = {**os.environ, "OMP_NUM_THREADS": "1", "SHOAL_LOG": "warning"}
            process = subprocess.Popen([*SHOAL, role, *args], stdout=said, stderr=said, env=env, **options)
        self.processes.append(process)
        if self._o.urgent:
            prefer([process.pid])
        return process

    def worker(self) -> "subprocess.Popen[bytes]":
        """One more worker."""
        return self._start(
            "worker", "--scheduler", self.address, str(SCRIPT), str(self.folder), str(self._o.step_ms), "1000000"
        )

    def book(self, rank: int) -> list[dict[str, Any]]:
        """What a worker has written down."""
        return read(self.folder / f"worker-{rank}.jsonl")

    def until(self, rank: int, steps: int) -> None:
        """Wait until a worker has made so many steps."""
        deadline = time.monotonic() + 60.0
        while sum(m["what"] == "step" for m in self.book(rank)) < steps:
            if time.monotonic() > deadline:
                raise SystemExit(f"worker {rank} does not get on:\n{(self.folder / 'said.txt').read_text()}")
            time.sleep(0.02)

    def measure(self) -> dict[str, float]:
        """Start one more worker, and see."""
        n = self._o.workers
        for rank in range(n):
            self.until(rank, 30)
        started = time.time()
        late = self.worker()
        self.until(n, 5)
        events = read(self.folder / "scheduler.jsonl")
        counted = next(e["time"] for e in events if e["event"] == "joined" and str(late.pid) in json.dumps(e))
        return figures(started, counted, self.book(n), [self.book(rank) for rank in range(n)])

    def end(self) -> None:
        """Leave nobody behind."""
        (self.folder / "stop").touch()
        for process in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5.0)
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--step-ms", type=float, default=20.0)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--mode", default="sync")
    p.add_argument("--urgent", action="store_true", help="go before other processes of this machine (needs root)")
    o = p.parse_args()
    found = []
    for _ in range(o.rounds):
        with tempfile.TemporaryDirectory(prefix="kvjoin") as folder:
            run = Run(Path(folder), o)
            try:
                found.append(run.measure())
            finally:
                run.end()
    names = list(found[0])
    row = {"median": {k: round(statistics.median(f[k] for f in found), 4) for k in names}}
    row["worst"] = {k: round(max(f[k] for f in found), 4) for k in names}
    about = {"benchmark": "join", "mode": o.mode, "workers": o.workers, "step_ms": o.step_ms, "rounds": o.rounds}
    print(json.dumps({**about, "heartbeat_s": HEARTBEAT_S, **row}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
