"""`shoal run --chaos`: real processes are killed, stopped and cut off as the file says, and the run goes on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

pytestmark = pytest.mark.net

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "chaos").glob("*.toml"))

SCRIPT = """
import json, sys
from pathlib import Path

import shoal
from shoal import autograd, nn

net = nn.HybridSequential()
net.add(nn.Dense(64, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
data = shoal.data.DataLoader(shoal.data.digits("train"), 32, shuffle=True)
launcher, awaited = Path(sys.argv[1], "launcher.jsonl"), int(sys.argv[2])


def under_way():
    "Whether something is still to be done to the run, or to end."
    said = [json.loads(line)["event"] for line in launcher.read_text().splitlines()] if launcher.exists() else []
    return sum(event in ("chaos", "chaos is over") for event in said) < awaited


while under_way():
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
print("trained")
"""


class Ran:
    """How `shoal run --chaos` ended, its report, and its event logs by process.

    It trains until every fault has begun, and all of those with a time are over, however long that takes.
    """

    def __init__(self, folder: Path, *options: str, **events: dict[str, Any]) -> None:
        awaited = len(events) + sum("for_s" in e for e in events.values())
        script, plan, report = folder / "train.py", folder / "chaos.json", folder / "report.json"
        script.write_text(SCRIPT)
        plan.write_text(json.dumps({"seed": 3, "chaos": list(events.values())}))
        command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--no-progress", "--chaos", str(plan)]
        done = subprocess.run(
            [
                *command,
                "--report",
                str(report),
                "--events",
                str(folder / "events"),
                *options,
                str(script),
                str(folder / "events"),
                str(awaited),
            ],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.report: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
        self.events = [json.loads(x) for p in (folder / "events").glob("*.jsonl") for x in p.read_text().splitlines()]

    def named(self, role: str, name: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["role"] == role and e["event"] == name]


def test_scheduler_and_server_are_killed_by_step_and_clock_and_the_run_balances(tmp_path: Path) -> None:
    ran = Ran(
        tmp_path,
        "--mode=async",
        "--snapshot-every=100u",
        scheduler={"what": "kill", "who": "scheduler", "at_step": 100},
        server={"what": "kill", "who": "server 1", "at_clock": 200},
    )
    assert ran.code == 0, ran.err
    assert re.search(r"^\[chaos\] kill scheduler \(at step 100\)$", ran.err, re.MULTILINE)
    assert re.search(r"^\[chaos\] kill server 1 \(at clock 200\)$", ran.err, re.MULTILINE)
    assert ran.report["ledger"]["balanced"] and ran.report["scheduler_restarts"] == 1 and ran.report["restored"]
    assert [(c["what"], c["who"]) for c in ran.report["chaos"]] == [("kill", "scheduler"), ("kill", "server 1")]
    assert len(ran.named("launcher", "chaos")) == 2


def test_a_poor_network_a_full_disk_and_a_jump_of_the_clock_change_nothing_but_time(tmp_path: Path) -> None:
    every = {"who": "worker * <-> server *", "percent": 4}
    ran = Ran(
        tmp_path,
        "--mode=async",
        "--snapshot-every=0.3s",
        drop={"what": "drop", **every},
        twice={"what": "duplicate", **every},
        late={"what": "reorder", **every},
        far={"what": "delay", "who": "worker 1 -> server 0", "delay_s": 0.001},
        cut={"what": "partition", "who": "worker 0 <-> server *", "at_s": 0.5, "for_s": 0.5},
        full={"what": "full-disk", "who": "server 0", "at_clock": 20, "for_s": 5},
        jump={"what": "clock-jump", "who": ["worker 1", "server 1", "scheduler"], "at_s": 1, "by_s": 1000},
        slow={"what": "slow", "who": "worker 0", "at_s": 0.2, "for_s": 1},
        stop={"what": "stop", "who": "server 1", "at_s": 1.5, "for_s": 0.5},
    )
    assert ran.code == 0, ran.err
    book, done = ran.report["ledger"], {c["what"]: c for c in ran.report["chaos"]}
    assert book["balanced"] and book["lost"] == 0 and book["duplicate"] > 0
    assert set(done) == {
        "drop",
        "duplicate",
        "reorder",
        "delay",
        "partition",
        "full-disk",
        "clock-jump",
        "slow",
        "stop",
    }
    assert all(done[what]["messages"] > 0 for what in ("drop", "duplicate", "reorder", "delay")), done
    assert "no snapshot: cannot save to" in ran.err and "No space left on device" in ran.err
    assert {e["role"] for e in ran.events if e["reason"] == "clock-jump"} == {"scheduler", "server", "worker"}


def test_a_full_disk_of_the_scheduler_ends_the_run_and_says_why(tmp_path: Path) -> None:
    ran = Ran(tmp_path, full={"what": "full-disk", "who": "scheduler", "at_s": 0.1})
    assert ran.code == 1 and "No space left on device" in ran.err and "the scheduler cannot write its log" in ran.err


def test_a_file_that_names_nobody_is_refused_before_anything_starts(tmp_path: Path) -> None:
    ran = Ran(tmp_path, nobody={"what": "kill", "who": "worker 7", "at_s": 1})
    assert ran.code == 2 and "event 1: there is no worker 7 in this run" in ran.err and not ran.events


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_the_examples_are_understood(path: Path) -> None:
    words = [sys.executable, "-m", "shoal.lab.chaos", str(path), "-n", "2", "-s", "2", "--seconds", "20"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert done.returncode == 0 and " (at " in done.stdout, done.stderr
