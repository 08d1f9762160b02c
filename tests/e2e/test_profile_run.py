"""`shoal run --profile`: every worker leaves a table and a picture."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.lab.tracecheck import faults
from shoal.worker import profiling
from tests.patience import RUN_S

TRAIN = """
import shoal
from shoal import autograd, nn

net = nn.HybridSequential(nn.Dense(8, in_units=4), nn.Dense(2, in_units=8))
net.initialize()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
for _ in range(3):
    with autograd.record():
        loss = net(shoal.np.ones((4, 4))).sum()  # the forward pass
    loss.backward()
    trainer.step(4)
"""


@pytest.mark.net
def test_each_worker_of_a_run_leaves_a_table_and_a_picture(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    command = [sys.executable, "-m", "shoal", "run", "--no-progress", "-n", "2", "--profile", "out", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stderr
    assert "profiles in out" in done.stderr
    for rank in (0, 1):
        text = (tmp_path / "out" / f"worker-{rank}.txt").read_text()
        assert "fully_connected" in text and "backward" in text and "# the forward pass" in text
        picture = json.loads((tmp_path / "out" / f"worker-{rank}.json").read_text())
        assert faults(picture) == [] and picture["otherData"]["run"] == f"worker {rank}"


@pytest.mark.net
def test_the_operators_are_part_of_the_trace_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    command = [
        sys.executable,
        "-m",
        "shoal",
        "run",
        "--no-progress",
        "-n",
        "2",
        "--profile",
        "out",
        "--trace",
        "t.json",
    ]
    done = subprocess.run([*command, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stderr
    picture = json.loads((tmp_path / "t.json").read_text())
    names = {e["name"] for e in picture["traceEvents"] if e["ph"] == "X"}
    assert {"fully_connected", "fully_connected backward", "forward", "backward"} <= names and faults(picture) == []


def test_nothing_is_written_unless_it_was_wanted(tmp_path: Path) -> None:
    profiling.begin(0)
    profiling.end()
    assert list(tmp_path.iterdir()) == []
