"""All-reduce under ``shoal run``: the same script as with servers, and what happens when a worker dies."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.net, pytest.mark.slow]

TRAIN = """
import numpy as np
import shoal
from shoal import autograd, nn

net = nn.Sequential()
net.add(nn.Dense(16, activation="relu"), nn.Dense(4))
net.initialize(shoal.init.Xavier())
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
rng = np.random.default_rng(shoal.rank())
loss_of = nn.L2Loss()
for _ in range(10):
    x = shoal.np.array(rng.standard_normal((8, 5)).astype("float32"))
    with autograd.record():
        loss = loss_of(net(x), x[:, :4])
    loss.backward()
    trainer.step(8)
print(type(trainer.kvstore).__name__, trainer.kvstore.type)
"""


def shoal_run(tmp_path: Path, source: str, *options: str) -> tuple["subprocess.CompletedProcess[str]", Any]:
    script, report = tmp_path / "script.py", tmp_path / "report.json"
    script.write_text(source)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "shoal", "run", "--no-progress", "--report", str(report), *options, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    return done, json.loads(report.read_text()) if report.exists() else None


def test_two_workers_end_with_the_bits_of_a_synchronous_run(tmp_path: Path) -> None:
    """Two summands give the same bits in either order; the report accounts for every message."""
    done, ring = shoal_run(tmp_path, TRAIN, "-n", "2", "--mode", "allreduce")
    assert done.returncode == 0, done.stderr
    assert "AllReduceKVStore allreduce" in done.stdout
    assert (ring["mode"], ring["workers"], ring["servers"]) == ("allreduce", 2, 0)
    assert ring["ledger"]["balanced"] and ring["ledger"]["sent"] == ring["ledger"]["applied"] > 0
    assert ring["bytes_pushed"] == ring["bytes_pulled"] > 0 and ring["staleness_mean"] == 0.0
    _, served = shoal_run(tmp_path, TRAIN, "-n", "2", "-s", "1", "--mode", "sync")
    assert ring["weights_sha256"] == served["weights_sha256"]
    assert (ring["replicas_equal"], served["replicas_equal"]) == (True, None)


def test_no_servers_means_all_reduce(tmp_path: Path) -> None:
    done, report = shoal_run(tmp_path, TRAIN, "-n", "3", "-s", "0")
    assert done.returncode == 0, done.stderr
    assert report["mode"] == "allreduce" and report["ledger"]["balanced"]


def test_a_store_of_another_mode_is_refused(tmp_path: Path) -> None:
    done, _ = shoal_run(tmp_path, "import shoal\nshoal.kv.create('dist_async')\n", "-n", "2", "-s", "0")
    assert done.returncode == 1 and "the run was started with --mode allreduce" in done.stderr
    done, _ = shoal_run(tmp_path, "import shoal\nshoal.kv.create('allreduce')\n", "-n", "2", "--mode", "async")
    assert done.returncode == 1 and "asks for kvstore 'allreduce', but the run was started with" in done.stderr


def test_both_kinds_of_store_in_one_script_have_keys_of_their_own(tmp_path: Path) -> None:
    source = """
import numpy as np, shoal
ring, held = shoal.kv.create("allreduce", reduce="sum"), shoal.kv.create("dist_sync", reduce="sum")
for kv in (ring, held):
    kv.init("w", np.zeros(4, np.float32))
    print(kv.type, kv.pushpull("w", np.full(4, kv.rank + 1, np.float32)).tolist())
"""
    done, report = shoal_run(tmp_path, source, "-n", "2", "-s", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[3.0, 3.0, 3.0, 3.0]") == 4
    assert report["ledger"]["balanced"]


def test_a_worker_that_is_killed_ends_the_run_and_is_named(tmp_path: Path) -> None:
    source = """
import os, signal, sys
import numpy as np, shoal
kv = shoal.kv.create()
kv.init("w", np.zeros(100_000, np.float32))
for i in range(1000):
    if i == 5 and kv.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    kv.pushpull("w", np.ones(100_000, np.float32))
"""
    done, report = shoal_run(tmp_path, source, "-n", "3", "-s", "0", "--lease-s", "5")
    assert done.returncode == 1 and report is None
    assert "worker 1" in done.stderr and "SIGKILL" in done.stderr


def test_a_worker_that_is_stopped_ends_the_run_by_its_lease(tmp_path: Path) -> None:
    """The launcher sees nothing; the scheduler does, and worker 0 does not wait for its own deadline of minutes."""
    source = """
import os, signal
import numpy as np, shoal
kv = shoal.kv.create("allreduce")
kv.init("w", np.zeros(1000, np.float32))
if kv.rank == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
kv.pushpull("w", np.ones(1000, np.float32))
"""
    done, _ = shoal_run(tmp_path, source, "-n", "2", "-s", "0", "--lease-s", "5")
    assert done.returncode == 1
    assert "the run has failed: worker 1" in done.stderr and "silent for" in done.stderr


def test_a_worker_with_fewer_batches_is_named_instead_of_waited_for(tmp_path: Path) -> None:
    source = """
import numpy as np, shoal
kv = shoal.kv.create()
kv.init("w", np.zeros(10, np.float32))
for _ in range(3 if kv.rank else 5):
    kv.pushpull("w", np.ones(10, np.float32))
"""
    done, _ = shoal_run(tmp_path, source, "-n", "2", "-s", "0")
    assert done.returncode == 1
    assert "worker 1 has finished: it will not take part" in done.stderr and "equally many batches" in done.stderr
