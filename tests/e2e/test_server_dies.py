"""kill -9 of a server in the middle of a real run: it comes back from its snapshot, and the loss is said exactly."""

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
import os, signal, sys
from contextlib import suppress
from pathlib import Path

import shoal
from shoal import autograd, nn

steps, kills = int(sys.argv[1]), [int(k) for k in sys.argv[2:]]


def server():
    "The process of server 0: a child of the launcher, as this one is."
    for task in Path(f"/proc/{os.getppid()}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            with suppress(OSError):  # it has gone meanwhile
                words = Path(f"/proc/{pid}/cmdline").read_text().split("\\0")
                if "server" in words[:4] and words[words.index("--rank") + 1] == "0":
                    return pid


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
        if shoal.rank() == 0 and done in kills:
            os.kill(server(), signal.SIGKILL)
        if done == steps:
            break
test = shoal.data.DataLoader(shoal.data.digits("test"), 64)
right = sum(int((net(x).argmax(axis=1).asnumpy() == y.asnumpy()).sum()) for x, y in test)
total = sum(len(y) for _, y in test)
shoal.report(accuracy=right / total)
print("trained", done)
"""


class Ran:
    """How `shoal run` ended, and its report."""

    def __init__(self, folder: Path, mode: str, *args: str) -> None:
        script, report = folder / "train.py", folder / "run" / "report.json"
        script.write_text(SCRIPT)
        command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--mode", mode, "--no-progress"]
        options = [a for a in args if not a.isdecimal()]
        numbers = [a for a in args if a.isdecimal()]
        done = subprocess.run(
            [*command, *options, str(script), *numbers],
            capture_output=True,
            text=True,
            timeout=RUN_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.report: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_run_whose_server_is_killed_goes_on_and_says_what_is_lost(mode: str, tmp_path: Path) -> None:
    ran = Ran(tmp_path, mode, "--run-dir=" + str(tmp_path / "run"), "--snapshot-every=60u", "200", "90")
    assert ran.code == 0, ran.err
    assert re.search(r"server 0 \(pid \d+\) was killed by SIGKILL; it is started again", ran.err)
    book, (said,) = ran.report["ledger"], ran.report["restored"]
    assert book["balanced"] and said in ran.err
    assert sum(int(n) for n in re.findall(r"(\d+) in the ledger", said)) == book["lost"]
    assert "nothing is lost" in said or book["lost"] > 0
    assert ran.report["accuracy"] > 0.8
    ledger = [sys.executable, "-m", "shoal", "ledger", str(tmp_path / "run")]
    shown = subprocess.run(ledger, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert shown.returncode == 0 and shown.stdout.endswith("balanced\n")


def test_without_snapshots_the_run_ends_and_says_how_it_would_not(tmp_path: Path) -> None:
    kept = "--run-dir=" + str(tmp_path / "run"), "--snapshot-every=never"
    ran = Ran(tmp_path, "sync", *kept, "40", "10")
    assert ran.code == 1
    assert re.search(r"server 0 \(pid \d+\) was killed by SIGKILL. With --snapshot-every 30s a server", ran.err)
    again = Ran(tmp_path, "sync", *kept, "5")
    assert again.code == 0 and "trained 5" in again.out, again.err  # the run that was cut off is not gone on with
