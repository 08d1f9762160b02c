"""The chaos file between machines: real packets are lost, late and cut off, and the weights are the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.kvstore.wire.keys import new_keys
from shoal.lab import soak_train
from shoal.lab.chaos.cast import Cast
from shoal.lab.chaos.plan import parse_plan
from shoal.lab.chaos.schedule import Facts, Fault, Schedule
from tests.netlab import Lab, Link, why_not
from tests.patience import RUN_S

NO_LAB = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.skipif(bool(NO_LAB), reason=NO_LAB)]

CAST = Cast(workers=2, servers=2)
TRAINING = [str(Path(soak_train.__file__)), "--steps", "180"]
SECONDS = 280

PLAN = parse_plan(
    {
        "seed": 4,
        "chaos": [
            {"what": "kill", "who": "scheduler", "at_s": 3},
            {"what": ["partition", "stop"], "who": "random", "every_s": 2.5, "jitter_s": 1, "for_s": 1},
        ],
    }
)


def host(name: str) -> str:
    return name.replace(" ", "-")


class Machines:
    """A cluster of one process a machine, and what the plan does to it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.keys = new_keys(str(folder / "keys"))
        self.processes = {name: self.start(name) for name in CAST.names}
        self.cuts: list[Fault] = []
        self.done: list[str] = []

    def start(self, name: str) -> Any:
        role, _, rank = name.partition(" ")
        if role == "scheduler":
            options = ["-n", "2", "-s", "2", "--mode", "sync", "--seed", "1", "--state", str(self.folder / "state")]
            options += ["--report", str(self.folder / "report.json")]
        else:
            options = ["--scheduler", "scheduler:9091", "--rank", rank]
            options += [*TRAINING, "--rate", "10"] if role == "worker" else []
        env = {**os.environ, "SHOAL_KEYS": str(self.keys), "OMP_NUM_THREADS": "1"}
        env |= {"SHOAL_EVENTS": str(self.folder / "events")}
        with (self.folder / f"{host(name)}.txt").open("a") as said:
            return self.lab.popen(
                host(name), [sys.executable, "-m", "shoal", role, *options], env=env, stdout=said, stderr=said
            )

    def follow(self) -> None:
        """Until the run is over."""
        schedule, began = Schedule(PLAN, CAST), 0.0
        deadline = time.monotonic() + SECONDS
        while self.processes["scheduler"].poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            if not began and self.trains():
                began = time.monotonic()
            workers = [self.processes[f"worker {i}"].poll() for i in range(2)]
            if began and workers == [None, None]:
                for found in schedule.due(Facts(time.monotonic() - began)):
                    self.carry_out(found.fault if not isinstance(found, Fault) else found, isinstance(found, Fault))
            elif began:
                self.calm()

    def trains(self) -> bool:
        seen = self.folder / "events" / "worker-0.jsonl"
        return seen.exists() and '"event": "step"' in seen.read_text()

    def carry_out(self, fault: Fault, begins: bool) -> None:
        if fault.links:
            self.cuts = [*self.cuts, fault] if begins else [c for c in self.cuts if c.number != fault.number]
            self.cut()
        for name in fault.victims:
            if fault.what == "kill":
                self.lab.kill(self.processes[name])
                self.processes[name] = self.start(name)
            else:
                self.processes[name].send_signal(signal.SIGSTOP if begins else signal.SIGCONT)
        self.done += [fault.what] * begins

    def cut(self) -> None:
        self.lab.heal()
        for fault in self.cuts:
            for a, b in fault.links:
                self.lab.partition({host(a)}, {host(b)})

    def calm(self) -> None:
        self.cuts = []
        self.lab.heal()
        for p in self.processes.values():
            if p.poll() is None:
                p.send_signal(signal.SIGCONT)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab([host(name) for name in CAST.names]) as lab:
        lab.link_all(Link(delay_s=0.001, loss=0.003))
        yield lab


def test_weights_are_the_same_bits_as_without_partitions_stops_and_a_kill_of_the_scheduler(
    lab: Lab, tmp_path: Path
) -> None:
    machines = Machines(lab, tmp_path)
    machines.follow()
    said = "\n".join(p.read_text() for p in tmp_path.glob("*.txt"))
    assert (tmp_path / "report.json").exists(), said
    report, quiet = json.loads((tmp_path / "report.json").read_text()), tmp_path / "quiet.json"
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--mode", "sync", "--seed", "1"]
    subprocess.run([*command, "--no-progress", "--report", str(quiet), *TRAINING], timeout=RUN_S, check=True)
    assert report["ledger"]["balanced"] and report["ledger"]["lost"] == 0 and report["scheduler_restarts"] == 1
    assert set(machines.done) == {"kill", "partition", "stop"}
    assert report["weights_sha256"] == json.loads(quiet.read_text())["weights_sha256"]
