"""kill -9 of servers and replicas in the middle of a real run with --replicas 1: nothing is lost, and it goes on."""

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

SCRIPT = """
import os, signal, sys, time
from pathlib import Path

import shoal
from shoal import autograd, nn
from shoal.scheduler.watch import snapshot_of

steps, orders = int(sys.argv[1]), [o.split("@") for o in sys.argv[2:]]
words = Path("/proc/self/cmdline").read_text().split("\\0")
scheduler = words[words.index("--scheduler") + 1]


def process(role, states=("running",)):
    until = time.monotonic() + 200
    while time.monotonic() < until:
        seen = snapshot_of(scheduler)
        for n in seen.nodes if seen else ():
            if (n.role, n.rank) == (role, 0) and n.state in states:
                return n.pid
        time.sleep(0.05)
    raise SystemExit(f"there is no {role} 0")


def carry_out(step):
    for what, role in [(o[0], o[1]) for o in orders if int(o[2]) == step]:
        if what == "await":
            process(role)
        elif what == "kill":
            os.kill(process(role, ("running", "filling")), signal.SIGKILL)
        elif what == "stop":
            os.kill(process(role), signal.SIGSTOP)


net = nn.HybridSequential()
net.add(nn.Dense(512, activation="relu"), nn.Dense(256, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.03, "momentum": 0.9})
data = shoal.data.DataLoader(shoal.data.digits("train"), 64 // shoal.num_workers(), shuffle=True)
done = 0
while done < steps:
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
        done += 1
        if shoal.rank() == 0:
            carry_out(done)
        if done == steps:
            break
print("trained", done)
"""


class Ran:
    """How `shoal run` ended, and its report."""

    def __init__(self, folder: Path, mode: str, *words: str, servers: int = 2, options: tuple[str, ...] = ()) -> None:
        folder.mkdir(exist_ok=True)
        script, report = folder / "train.py", folder / "report.json"
        script.write_text(SCRIPT)
        command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", str(servers), "--mode", mode, "--no-progress"]
        done = subprocess.run(
            [*command, "--report", str(report), *options, str(script), *words],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.report: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}


ON = ("--replicas", "1")

SILENT = r"silent for \d"
"""Somebody was waited for until his lease was over."""


def test_a_killed_server_costs_a_synchronous_run_no_bit(tmp_path: Path) -> None:
    plain = Ran(tmp_path / "plain", "sync", "120")
    ran = Ran(tmp_path / "killed", "sync", "120", "kill@server@60", options=ON)
    assert ran.code == 0, ran.err
    assert re.search(r"server 0 \(pid \d+\) was killed by SIGKILL; its replica takes its place", ran.err)
    assert ran.report["weights_sha256"] == plain.report["weights_sha256"] is not None
    book = ran.report["ledger"]
    assert book["balanced"] and book["lost"] == 0
    assert not re.search(SILENT, ran.err), ran.err


def test_an_asynchronous_run_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "async", "150", "kill@server@60", options=ON)
    assert ran.code == 0, ran.err
    book = ran.report["ledger"]
    assert book["balanced"] and book["lost"] == 0 and not re.search(SILENT, ran.err)


def test_the_new_primary_may_be_killed_when_its_replica_is_filled(tmp_path: Path) -> None:
    words = ["kill@server@40", "await@replica@80", "kill@server@80", "await@replica@120", "kill@server@120"]
    ran = Ran(tmp_path, "sync", "160", *words, servers=1, options=ON)
    assert ran.code == 0, ran.err
    assert ran.err.count("its replica takes its place") == 3
    assert ran.err.count("is replicated again") >= 2
    book = ran.report["ledger"]
    assert book["balanced"] and book["lost"] == 0


def test_a_killed_replica_is_filled_anew_while_the_run_goes_on(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "sync", "120", "kill@replica@40", "await@replica@100", servers=1, options=ON)
    assert ran.code == 0, ran.err
    assert "is not replicated until a new replica is in step" in ran.err and "is replicated again" in ran.err
    assert ran.report["ledger"]["balanced"] and not re.search(SILENT, ran.err)


def test_a_server_that_is_stopped_is_succeeded_after_its_lease(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "async", "150", "stop@server@60", servers=1, options=(*ON, "--lease-s", "5"))
    assert ran.code == 0, ran.err
    assert ran.report["ledger"]["balanced"] and ran.report["ledger"]["lost"] == 0


def test_if_both_die_and_there_is_no_snapshot_the_run_ends_and_says_who(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "sync", "100", "kill@replica@40", "kill@server@40", servers=1, options=ON)
    assert ran.code == 1 and "server 0" in ran.err.splitlines()[-1]


def test_if_both_die_the_server_comes_back_from_its_snapshot_and_gets_a_replica(tmp_path: Path) -> None:
    options = (*ON, "--snapshot-every", "20u", "--run-dir", str(tmp_path / "run"))
    words = ("kill@replica@60", "kill@server@60", "await@replica@100")
    ran = Ran(tmp_path, "sync", "120", *words, servers=1, options=options)
    assert ran.code == 0, ran.err
    assert "from its newest snapshot" in ran.err and "is replicated again" in ran.err
    assert ran.report["ledger"]["balanced"]


def test_if_the_server_dies_while_its_replica_is_filled_the_run_ends_and_says_so(tmp_path: Path) -> None:
    words = ("kill@replica@40", "kill@server@41")
    ran = Ran(tmp_path, "sync", "100", *words, servers=1, options=ON)
    assert ran.code == 1 and "server 0" in ran.err.splitlines()[-1]
