"""Strategies and overlap in clusters of real processes: what is learned, and that servers and overlap change no bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

SCRIPT = """
import contextlib
import sys
import shoal
from shoal import autograd, nn

strategy, overlap = sys.argv[1], sys.argv[2] == "overlap"
net = nn.HybridSequential()
net.add(nn.Dense(300, activation="relu"), nn.Dense(300, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
net.hybridize()
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.5}, strategy=strategy)
data = shoal.data.DataLoader(shoal.data.digits("train"), 48, shuffle=True)
for epoch in range(3):
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        with trainer.overlap(len(x)) if overlap else contextlib.nullcontext():
            loss.backward()
        trainer.step(len(x))
trainer.finish()
shoal.report(**shoal.evaluate(net, shoal.data.DataLoader(shoal.data.digits("test"), 355)))
weights = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
if shoal.rank() == 1:
    print("weights", shoal.kv.weights_sha256(weights))
"""


def run(folder: Path, strategy: str, *, servers: int = 1, mode: str = "sync", overlap: str = "") -> tuple[Any, str]:
    """The final report, and the hash of the weights that worker 1 has at the end."""
    script, report = folder / "train.py", folder / "report.json"
    script.write_text(SCRIPT)
    command = f"-m shoal run -n 2 -s {servers} --mode {mode} --no-progress --report {report} {script}".split()
    got = subprocess.run(
        [sys.executable, *command, strategy, overlap or "-"], capture_output=True, text=True, timeout=RUN_S, cwd=folder
    )
    assert got.returncode == 0, got.stdout + got.stderr
    return json.loads(report.read_text()), got.stdout.split("weights ")[1].split()[0]


@pytest.mark.parametrize("strategy", ["gradient", "diloco:h=7"])
def test_servers_and_overlap_change_no_bit(strategy: str, tmp_path: Path) -> None:
    one, mine = run(tmp_path, strategy)
    two, others = run(tmp_path, strategy, servers=2, overlap="overlap")
    assert one["weights_sha256"] == mine == two["weights_sha256"] == others
    assert one["metrics"] == two["metrics"] and one["metrics"]["accuracy"] > 0.7


@pytest.mark.parametrize("strategy", ["easgd:tau=4", "async-diloco:h=5"])
def test_asynchronous_strategies_learn_and_end_with_the_global_weights(strategy: str, tmp_path: Path) -> None:
    report, mine = run(tmp_path, strategy, mode="async")
    assert report["weights_sha256"] == mine
    assert report["metrics"]["accuracy"] > 0.6
