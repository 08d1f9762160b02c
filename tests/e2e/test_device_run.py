"""Stores that reduce on each host first, in runs of real processes: the weights of ``dist_sync``, to the bit where the
order of sums is the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

SCRIPT = """
import os
import sys
import numpy as np
import shoal
from shoal import autograd, nn

os.environ["SHOAL_HOST"] = f"host {shoal.rank() * int(sys.argv[2]) // shoal.num_workers()}"
shoal.random.seed(3)
net = nn.HybridSequential(nn.Dense(20, "relu", in_units=12), nn.LayerNorm(in_channels=20), nn.Dense(5, in_units=20))
net.initialize()
net.hybridize()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9}, kvstore=sys.argv[1])
rng = np.random.default_rng(shoal.rank())
for _ in range(5):
    x = shoal.np.array(rng.standard_normal((4, 12)).astype(np.float32))
    with autograd.record():
        loss = (net(x) ** 2).mean()
    with trainer.overlap(4):
        loss.backward()
    trainer.step(4)
trainer.finish()
weights = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
print("weights", shoal.kv.weights_sha256(weights))
if shoal.rank() == 0:
    np.savez(sys.argv[3], **weights)
"""


def run(folder: Path, kvstore: str, hosts: int, workers: int, *options: str) -> tuple[Any, str, Any]:
    """The report, the hash of every worker's weights (one: they are the same), and the weights."""
    import numpy as np

    script, report, kept = folder / "train.py", folder / "report.json", folder / "weights.npz"
    script.write_text(SCRIPT)
    options = options or ("-s", "1", "--mode", "sync")
    command = ["run", "-n", str(workers), *options, "--no-progress", "--report", str(report), str(script)]
    got = subprocess.run(
        [sys.executable, "-m", "shoal", *command, kvstore, str(hosts), str(kept)],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        cwd=folder,
    )
    assert got.returncode == 0, got.stdout + got.stderr
    hashes = {line.split("weights ")[1].strip() for line in got.stdout.splitlines() if "weights " in line}
    assert len(hashes) == 1
    with np.load(kept) as found:
        return json.loads(report.read_text()), hashes.pop(), {k: found[k] for k in found.files}


def test_one_host_has_the_bits_of_dist_sync_and_uneven_hosts_its_mean(tmp_path: Path) -> None:
    import numpy as np

    _, plain, weights = run(tmp_path, "dist_sync", 1, 3)
    report, device, _ = run(tmp_path, "dist_device_sync", 1, 3)
    _, alone, _ = run(tmp_path, "device", 1, 3, "-s", "0")
    assert plain == device == alone == report["weights_sha256"]
    _, _, found = run(tmp_path, "dist_device_sync", 2, 3)
    for name, value in weights.items():
        assert np.allclose(found[name], value, rtol=0, atol=1e-6), name


def test_hosts_of_two_workers_differ_by_rounding_only(tmp_path: Path) -> None:
    import numpy as np

    _, _, plain = run(tmp_path, "dist_sync", 1, 4)
    report, _, found = run(tmp_path, "dist_device_sync", 2, 4)
    for name, value in plain.items():
        assert np.allclose(found[name], value, rtol=0, atol=1e-6), name
    assert report["weights_sha256"]
