"""`shoal run --algo`: three workers and two servers, real processes; every contribution is accounted for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

SCRIPT = """
import shoal
from shoal import autograd, nn

net = nn.HybridSequential()
net.add(nn.Dense(300, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05})
data = shoal.data.DataLoader(shoal.data.digits("train"), 48, shuffle=True)
for epoch in range(4):
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
trainer.finish()
shoal.report(**shoal.evaluate(net, shoal.data.DataLoader(shoal.data.digits("test"), 355)))
"""


def run(folder: Path, *options: str) -> Any:
    """The final report of a run; 40 steps of each of 3 workers."""
    script, report = folder / "train.py", folder / "report.json"
    script.write_text(SCRIPT)
    command = ["-m", "shoal", "run", "-n", "3", "-s", "2", "--no-progress", "--report", str(report), *options]
    got = subprocess.run(
        [sys.executable, *command, str(script)], capture_output=True, text=True, timeout=RUN_S, cwd=folder
    )
    assert got.returncode == 0, got.stdout + got.stderr
    return json.loads(report.read_text())


@pytest.mark.parametrize(
    ("options", "algo"),
    [
        (["--algo", "backup:b=1"], "gate=backup:1"),
        (["--algo", "kasync:k=2", "--compression", "topk:ratio=0.1"], "gate=kasync:2 codec=topk:ratio=0.1"),
        (["--algo", "fedbuff:k=2"], "gate=fedbuff:2"),
        (["--gate", "essp:2", "--rule", "stale"], "gate=essp:2 rule=stale"),
        (["--algo", "dcasgd:lam=0.1"], "gate=asp rule=dcasgd:lam=0.1"),
    ],
)
def test_every_contribution_of_every_algorithm_is_accounted_for(options: list[str], algo: str, tmp_path: Path) -> None:
    r = run(tmp_path, *options)
    book = r["ledger"]
    assert r["algo"] == algo
    assert book["balanced"] and book["rejected"] == 0
    slices = 2  # the large weight, and the rest together
    steps = sum(row["samples"] for row in r["per_worker"]) / 48 * slices
    assert book["sent"] + book["skipped"] == pytest.approx(steps, abs=slices * 12)  # last batches are smaller
    assert r["accuracy"] > 0.7  # it learns; how well is told by how many are late, where workers are dropped


def test_a_wrong_combination_ends_with_its_reason_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "shoal", "run", "--algo", "diloco gate=async", "train.py"]
    got = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, cwd=tmp_path)
    assert got.returncode == 2 and "is not sound" in got.stderr and "async-diloco" in got.stderr
    assert got.stderr.count("\n") == 1
