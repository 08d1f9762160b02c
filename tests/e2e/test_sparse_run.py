"""An embedding whose gradients are rows trains on real clusters of local processes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.ops.tensorfile import load_tensors
from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

SCRIPT = """
import json, sys
import numpy as np
import shoal
from shoal import autograd, nn

out, sparse, optimizer = sys.argv[1], sys.argv[2] == "rows", sys.argv[3]
net = nn.HybridSequential()
net.add(nn.Embedding(500, 8, sparse_grad=sparse), nn.Dense(3, in_units=16))
net.initialize(shoal.init.Xavier(), seed=3)
net.hybridize(len(sys.argv) > 4)
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), optimizer, {"learning_rate": 0.1})
rng = np.random.default_rng(shoal.rank())
for step in range(12):
    ids = rng.integers(0, 40, (8, 2)) + 100 * shoal.rank()
    with autograd.record():
        loss = loss_of(net(shoal.np.array(ids, dtype="int64")), shoal.np.array(ids[:, 0] % 3, dtype="int64"))
    loss.backward()
    trainer.step(8)
trainer.finish()
if shoal.rank() == 0:
    net.save_parameters(out)
    print("pushed", trainer.kvstore.ledger()["bytes_pushed"])
"""


def run(folder: Path, kind: str, optimizer: str, servers: int, mode: str = "sync", *more: str) -> tuple[Any, int]:
    """(weights, bytes that worker 0 has pushed)."""
    script, out = folder / "train.py", folder / f"{kind}{servers}{mode}.safetensors"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", str(servers), "--mode", mode, "--no-progress"]
    got = subprocess.run(
        [*command, str(script), str(out), kind, optimizer, *more], capture_output=True, text=True, timeout=RUN_S
    )
    assert got.returncode == 0, got.stdout + got.stderr
    pushed = next(line.split()[-1] for line in got.stdout.splitlines() if "pushed" in line)
    return load_tensors(out)[0], int(pushed)


def test_rows_train_as_whole_gradients_do_and_cost_less_to_push(tmp_path: Path) -> None:
    whole, dense = run(tmp_path, "whole", "sgd", 1)
    rows, few = run(tmp_path, "rows", "sgd", 2)
    for name, value in whole.items():
        np.testing.assert_allclose(rows[name], value, rtol=1e-5, atol=1e-6)
    assert few < dense / 3


def test_lazy_updates_are_the_same_bits_on_one_and_two_servers_and_hybridized(tmp_path: Path) -> None:
    one, _ = run(tmp_path, "rows", "adam", 1)
    two, _ = run(tmp_path, "rows", "adam", 2, "sync", "hybrid")
    assert {n: v.tobytes() for n, v in one.items()} == {n: v.tobytes() for n, v in two.items()}


def test_an_asynchronous_run_moves_the_rows_that_occur_and_no_others(tmp_path: Path) -> None:
    weights, _ = run(tmp_path, "rows", "sgd", 1, "async")
    start, _ = run(tmp_path, "rows", "sgd", 1, "sync")
    table, other = weights["0.weight"], start["0.weight"]
    assert np.array_equal(table[200:], other[200:]) and not np.array_equal(table[100:140], other[100:140])
