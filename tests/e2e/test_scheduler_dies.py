"""kill -9 of the scheduler in the middle of a real run: it is started again, and nothing of the training is lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.scheduler.revival import REVIVALS
from tests.patience import RUN_S

pytestmark = pytest.mark.net

SCRIPT = """
import os, signal, sys
from contextlib import suppress
from pathlib import Path

import shoal
from shoal import autograd, nn

steps, kills = int(sys.argv[1]), [int(k) for k in sys.argv[2:]]
killed = []


def scheduler():
    "The scheduler's process, as soon as there is one: a child of the launcher, as this one is."
    while (pid := child()) in (None, *killed):
        pass
    killed.append(pid)
    return pid


def child():
    for task in Path(f"/proc/{os.getppid()}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            with suppress(OSError):  # it has gone meanwhile
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\\0")
                if "scheduler" in words[:4]:
                    return pid


net = nn.HybridSequential()
net.add(nn.Dense(32, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
data = shoal.data.DataLoader(shoal.data.digits("train"), 64 // shoal.num_workers(), shuffle=True)
done = 0
while done < steps:
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
        done += 1
        if shoal.rank() == 0 and done in kills:
            os.kill(scheduler(), getattr(signal, os.environ.get("HOW", "SIGKILL")))
        if done == steps:
            break
print("trained", done)
"""


class Ran:
    """How `shoal run` ended, and its report."""

    def __init__(self, folder: Path, *args: str, **env: str) -> None:
        script, report = folder / "train.py", folder / "report.json"
        script.write_text(SCRIPT)
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--mode", "sync", "--no-progress"]
        options = [a for a in args if not a.isdecimal()]
        numbers = [a for a in args if a.isdecimal()]
        done = subprocess.run(
            [*command, "--report", str(report), *options, str(script), *numbers],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.report: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}


def test_a_run_whose_scheduler_is_killed_ends_with_the_same_weights_and_says_what_happened(tmp_path: Path) -> None:
    undisturbed, disturbed = Ran(tmp_path, "40"), Ran(tmp_path, "40", "12", "--run-dir=" + str(tmp_path / "run"))
    assert (undisturbed.code, disturbed.code) == (0, 0), disturbed.err
    assert disturbed.report["weights_sha256"] == undisturbed.report["weights_sha256"]
    assert disturbed.report["ledger"]["balanced"]
    assert [r.report["scheduler_restarts"] for r in (undisturbed, disturbed)] == [0, 1]
    told = r"\[shoal run\] scheduler \(pid \d+\) was killed by SIGKILL; it is started again, and the run goes on"
    assert re.search(told, disturbed.err)
    assert re.search(
        r"going on with run \w+, which is running: term 2, 4 of its processes are waited for", disturbed.err
    )
    assert len(set(re.findall(r"(\w+ \d): the scheduler \S+ is back after .* \(term 2\)", disturbed.err))) == 4
    assert (tmp_path / "run/scheduler/log.ended").read_bytes().count(b'"Ruled"') == 2
    assert not undisturbed.err


def test_a_scheduler_that_is_stopped_for_long_is_replaced(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "20", "12", "--lease-s=5", "--scheduler-grace=16", HOW="SIGSTOP")
    assert ran.code == 0, ran.err
    assert re.search(r"scheduler \(pid \d+\) has been silent for \d+\.\d s\n.*was killed by SIGKILL; it is", ran.err)
    assert ran.report["ledger"]["balanced"] and ran.report["scheduler_restarts"] == 1


def test_a_scheduler_that_is_killed_again_and_again_is_named_in_the_end(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "40", *(str(5 + i) for i in range(REVIVALS + 1)))
    assert ran.code == 1
    assert ran.err.count("it is started again") == REVIVALS
    assert re.search(r"the run has failed: scheduler \(pid \d+\) was killed by SIGKILL", ran.err)


def test_without_a_grace_the_run_ends_with_its_scheduler(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "40", "5", "--scheduler-grace=0")
    assert ran.code == 1
    assert re.search(r"the run has failed: scheduler \(pid \d+\) was killed by SIGKILL", ran.err)
    assert "it is started again" not in ran.err
