"""kill -9, SIGSTOP and SIGTERM of workers in the middle of real runs: they go on, and every push is accounted for."""

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
import os, signal, subprocess, sys, time
from pathlib import Path
import shoal
from shoal import autograd, nn
from shoal.worker import cluster

how, who, at = sys.argv[1], [int(r) for r in sys.argv[2].split(",")], int(sys.argv[3])
me = cluster.current()


def server():
    "The process of a server: a child of the launcher, as this one is."
    for pid in Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split():
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\\0")
        if "server" in words[:4]:
            return int(pid)


def suffer():
    if sys.argv[4:] == ["server"] and me.rank == 0:
        os.kill(server(), signal.SIGKILL)
    if how == "stop":  # somebody lets it go on again
        again = f"sleep {sys.argv[4]}; kill -CONT {os.getpid()}"
        subprocess.Popen(["sh", "-c", again], start_new_session=True, stdout=-3, stderr=-3)
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "leave": signal.SIGTERM}[how])


net = nn.HybridSequential()
net.add(nn.Dense(64, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.03, "momentum": 0.9})
data = shoal.data.DataLoader(shoal.data.digits("train"), 16, shuffle=True)
done = 0
for epoch in range(2):
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
        done += 1
        time.sleep(0.01)
        if me.rank in who and me.incarnation == 1 and done == at:
            suffer()
trainer.finish()
test = shoal.data.DataLoader(shoal.data.digits("test"), 64)
right = sum(int((net(x).argmax(axis=1).asnumpy() == y.asnumpy()).sum()) for x, y in test)
shoal.report(accuracy=right / sum(len(y) for _, y in test))
"""


class Ran:
    """How `shoal run` ended, and its report."""

    def __init__(self, folder: Path, mode: str, *args: str, options: tuple[str, ...] = ()) -> None:
        folder.mkdir(exist_ok=True)
        script, self.place = folder / "train.py", folder / "run"
        script.write_text(SCRIPT)
        command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--mode", mode, "--no-progress"]
        done = subprocess.run(
            [*command, "--run-dir", str(self.place), *options, str(script), *args],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.code, self.err = done.returncode, done.stderr
        path = self.place / "report.json"
        self.report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def check(self) -> None:
        """It has run to its end, every push is accounted for, and none is lost."""
        assert self.code == 0, self.err
        assert self.report["ledger"]["balanced"] and not self.report["ledger"]["lost"]
        ledger = [sys.executable, "-m", "shoal", "ledger", str(self.place)]
        shown = subprocess.run(ledger, capture_output=True, text=True, timeout=RUN_S, check=False)
        assert shown.returncode == 0 and shown.stdout.endswith("balanced\n")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    ran = Ran(tmp_path_factory.mktemp("quiet"), "sync", "kill", "9", "0")
    ran.check()
    return ran


@pytest.mark.parametrize("who", ["0", "1", "0,1"])
def test_a_sync_run_whose_workers_are_killed_ends_with_the_same_bits(
    who: str, undisturbed: Ran, tmp_path: Path
) -> None:
    ran = Ran(tmp_path, "sync", "kill", who, "30")
    ran.check()
    assert re.search(r"worker \d \(pid \d+\) was killed by SIGKILL; it is started again, and goes on where", ran.err)
    assert ran.report["weights_sha256"] == undisturbed.report["weights_sha256"]
    assert ran.report["accuracy"] == undisturbed.report["accuracy"] > 0.8
    assert ran.report["ledger"]["applied"] == undisturbed.report["ledger"]["applied"]


def test_an_async_run_whose_worker_is_killed_counts_every_batch_once(undisturbed: Ran, tmp_path: Path) -> None:
    ran = Ran(tmp_path, "async", "kill", "1", "30")
    ran.check()
    assert ran.report["ledger"]["applied"] == undisturbed.report["ledger"]["applied"]
    assert ran.report["accuracy"] > 0.8


def test_a_worker_that_is_stopped_for_longer_than_its_lease_goes_on(undisturbed: Ran, tmp_path: Path) -> None:
    ran = Ran(tmp_path, "sync", "stop", "1", "30", "8", options=("--lease-s", "4"))
    ran.check()
    assert "worker 1" in ran.err and "has been silent for" in ran.err and "is heard again" in ran.err
    assert ran.report["weights_sha256"] == undisturbed.report["weights_sha256"]


def test_one_that_is_stopped_for_longer_than_its_grace_is_given_up_and_ends_when_it_wakes(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "async", "stop", "1", "3", "12", options=("--lease-s", "4", "--worker-grace-s", "2"))
    ran.check()
    assert re.search(r"worker 1 .* is given up \(silent for \d+\.\d s, and nobody has taken its place\)", ran.err)
    assert [row["state"] for row in ran.report["per_worker"]] == ["done", "lost"]
    assert ran.report["accuracy"] > 0.8 and ran.report["weights_sha256"]


def test_when_the_first_worker_leaves_the_next_one_does_what_it_did(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "sync", "leave", "0", "30")
    ran.check()
    assert "worker 0 leaves: stopped by SIGTERM" in ran.err and "workers 1 take part from now on" in ran.err
    assert [row["state"] for row in ran.report["per_worker"]] == ["left", "done"]
    assert ran.report["accuracy"] > 0.8 and ran.report["weights_sha256"]


def test_when_all_have_left_the_run_is_not_finished(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "sync", "leave", "0,1", "30")
    assert ran.code == 1
    assert re.search(r"the run has failed: worker \d .*: stopped by SIGTERM; it was the last worker, and", ran.err)


def test_without_a_grace_a_killed_worker_ends_the_run(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "sync", "kill", "1", "30", options=("--worker-grace-s", "0"))
    assert ran.code == 1
    assert re.search(r"the run has failed: worker 1 \(pid \d+\) was killed by SIGKILL", ran.err)


def test_all_workers_and_a_server_are_killed_at_once(tmp_path: Path) -> None:
    ran = Ran(tmp_path, "sync", "kill", "0,1", "30", "server", options=("--snapshot-every", "40u"))
    assert ran.code == 0, ran.err
    assert "it is started again, from its newest snapshot" in ran.err
    assert ran.report["ledger"]["balanced"] and ran.report["accuracy"] > 0.8
