"""Workers that join, leave, die and are replaced in real processes: every sample is counted once in every epoch."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S, until_run

pytestmark = pytest.mark.net

SCRIPT = Path(__file__).with_name("elastic_script.py")
SAMPLES, BATCH, EPOCHS = 240, 4, 2
STEPS = SAMPLES * EPOCHS // BATCH // 2  # of each of two workers
SLICES = 3  # of the model
SHOAL = [sys.executable, "-m", "shoal"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


class Books:
    """What the workers of a run have written down."""

    def __init__(self, folder: Path) -> None:
        self.batches: dict[tuple[int, int], list[int]] = {}  # by rank and step: as the last process began it
        self.done: dict[int, int] = {}
        self.firsts: dict[tuple[int, int], int] = {}  # by rank and incarnation, its first step
        self.open: dict[int, int] = {}  # by rank, steps that were begun and not ended by the process that began them
        for path in sorted(folder.glob("*.jsonl")):
            rank, incarnation, _ = path.name.split(".")
            self._read(path, int(rank), int(incarnation))

    def _read(self, path: Path, rank: int, incarnation: int) -> None:
        for line in path.read_text().splitlines():
            what, step, ids = json.loads(line)
            if what == "begin":
                self.firsts.setdefault((rank, incarnation), step)
                before = self.batches.get((rank, step))
                assert before in (None, ids), f"step {step} of worker {rank} had other samples before"
                self.batches[rank, step] = ids
            elif what == "done":
                self.done[rank] = step

    @property
    def counts(self) -> Counter[int]:
        """How often each sample was counted."""
        return Counter(i for ids in self.batches.values() for i in ids)

    def steps(self, rank: int) -> list[int]:
        return sorted(step for r, step in self.batches if r == rank)


def complete(books: Books, left_out: int = 0) -> bool:
    """Whether every sample was counted once an epoch, but for so many that could not be divided."""
    counts = books.counts
    missing = sum(EPOCHS - counts[i] for i in range(SAMPLES))
    return max(counts.values()) <= EPOCHS and 0 <= missing <= left_out


def launched(folder: Path, mode: str, events: dict[str, str], *options: str, strategy: str = "") -> dict[str, Any]:
    """The report of a `shoal run` of two workers in which these things happen."""
    report = folder / "report.json"
    command = [*SHOAL, "run", "-n", "2", "-s", "2", "--mode", mode, "--no-progress", "--report", str(report), *options]
    args = [str(SCRIPT), str(folder), str(EPOCHS), strategy, json.dumps(events)]
    done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=RUN_S, env=ENV)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_worker_that_is_killed_is_replaced_and_every_sample_is_counted_once(mode: str, tmp_path: Path) -> None:
    report = launched(tmp_path, mode, {"1.1.20": "kill soon", "1.2.41": "kill soon"})
    books = Books(tmp_path)
    assert complete(books) and books.done == {0: STEPS, 1: STEPS}
    assert books.steps(1) == list(range(STEPS))
    assert 20 <= books.firsts[1, 2] <= 22 and 41 <= books.firsts[1, 3] <= 43
    assert report["ledger"]["balanced"]
    applied = [w["applied"] for w in report["per_worker"]]
    assert applied == [STEPS * SLICES] * 2  # each slice has counted each step of each worker, once


def test_local_steps_of_a_worker_that_is_killed_are_made_again(tmp_path: Path) -> None:
    launched(tmp_path, "sync", {"1.1.21": "kill"}, strategy="local:h=4")
    books = Books(tmp_path)
    assert complete(books) and books.firsts[1, 2] == 20 and books.done == {0: STEPS, 1: STEPS}


class Crew:
    """A cluster by hand: a scheduler, servers and workers, each started by itself."""

    def __init__(self, folder: Path, mode: str, events: dict[str, str], *, workers: int = 2) -> None:
        self.folder, self.events, self.everybody = folder, events, []
        read, write = os.pipe()
        numbers = ["-n", str(workers), "-s", "2", "--mode", mode, "--port", "0", "--ready-fd", str(write)]
        grace = ["--lease-s", "5", "--worker-grace-s", "2", "--report", str(folder / "report.json")]
        self.scheduler = self._start("scheduler", *numbers, *grace, pass_fds=(write,))
        os.close(write)
        with os.fdopen(read) as ready:
            self.address = f"127.0.0.1:{int(ready.readline())}"
        for _ in range(2):
            self._start("server", "--scheduler", self.address)
        self.workers = [self.worker("--rank", str(rank)) for rank in range(workers)]

    def _start(self, role: str, *args: str, **options: Any) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{role}{len(self.everybody)}.txt").open("wb") as said:
            command = [*SHOAL, role, *args]
            self.everybody.append(subprocess.Popen(command, stdout=said, stderr=said, env=ENV, **options))
        return self.everybody[-1]

    def worker(self, *options: str) -> "subprocess.Popen[bytes]":
        """One more worker."""
        script = [str(SCRIPT), str(self.folder), str(EPOCHS), "", json.dumps(self.events)]
        return self._start("worker", "--scheduler", self.address, *options, *script)

    def until(self, name: str) -> None:
        """Wait until a worker has left this sign."""
        until_run((self.folder / name).exists, self.said)

    def end(self) -> list[int]:
        """Exit codes of the workers, once the run is over."""
        assert self.scheduler.wait(RUN_S) == 0, self.said()
        return [p.wait(RUN_S) for p in self.everybody[3:]]

    def said(self) -> str:
        return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(self.folder.glob("*.txt")))


@contextmanager
def crew(folder: Path, mode: str, events: dict[str, str], *, workers: int = 2) -> Iterator[Crew]:
    made = Crew(folder, mode, events, workers=workers)
    try:
        yield made
    finally:
        for process in made.everybody:
            process.kill()
            process.wait()


MODES = ["sync", "async", "ssp:2"]


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_that_joins_in_the_middle_of_an_epoch_does_its_part_of_the_rest(mode: str, tmp_path: Path) -> None:
    with crew(tmp_path, mode, {"0.1.9": "join", "1.1.9": "wait"}) as run:
        run.until("join")
        run.worker()
        assert run.end() == [0, 0, 0], run.said()
    books = Books(tmp_path)
    assert complete(books, left_out=2 * EPOCHS), books.counts
    assert len(books.steps(2)) >= SAMPLES // BATCH // 3
    assert json.loads((tmp_path / "report.json").read_text())["ledger"]["balanced"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_when_a_worker_leaves_in_the_middle_of_an_epoch_the_others_do_the_rest(mode: str, tmp_path: Path) -> None:
    with crew(tmp_path, mode, {"1.1.9": "leave", "0.1.10": "wait"}) as run:
        codes = run.end()
        assert codes[0] == 0, run.said()
    books = Books(tmp_path)
    assert complete(books) and books.steps(1) == list(range(10))


def test_what_a_worker_that_is_given_up_has_not_done_is_done_by_the_others(tmp_path: Path) -> None:
    with crew(tmp_path, "sync", {"1.1.9": "kill", "0.1.9": "wait"}) as run:
        codes = run.end()
        assert codes[0] == 0, run.said()
    books = Books(tmp_path)
    assert complete(books), books.counts
    assert books.steps(1) == list(range(9))
