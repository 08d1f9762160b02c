"""Loss scaling in runs of real processes: an overflow of one worker skips the step of all of them, or of itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

SCRIPT = """
import sys
import numpy as np
import shoal
from shoal import amp, autograd, nn

net = nn.Dense(1, in_units=2, use_bias=False, weight_initializer="ones")
net.initialize()
kvstore = sys.argv[1] if len(sys.argv) > 1 else "auto"
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.25}, kvstore=kvstore)
amp.init_trainer(trainer, init_scale=256.0)
x = shoal.np.array(np.array([[1.0, 2.0]], np.float32))
for step in range(4):
    mine = shoal.rank() == 1 and step == 2
    with amp.autocast("float16"), autograd.record():
        loss = (net(x) * (1000.0 if mine else 1.0)).sum()
        with amp.scale_loss(loss, trainer) as scaled:
            scaled.backward()
    trainer.step(1)
trainer.finish()
weight = net.weight.data().asnumpy().ravel()
shoal.report(first=float(weight[0]), second=float(weight[1]), scale=trainer.scaler.get_scale())
"""


def run(folder: Path, *options: str, kvstore: str = "auto") -> Any:
    script, report = folder / "train.py", folder / "report.json"
    script.write_text(SCRIPT)
    command = [
        "-m",
        "shoal",
        "run",
        "-n",
        "2",
        *options,
        "--no-progress",
        "--report",
        str(report),
        str(script),
        kvstore,
    ]
    got = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=RUN_S, cwd=folder)
    assert got.returncode == 0, got.stdout + got.stderr
    return json.loads(report.read_text())


@pytest.mark.parametrize(
    ("options", "kvstore"),
    [
        (("-s", "1", "--mode", "sync"), "auto"),
        (("-s", "0"), "auto"),
        (("-s", "0"), "device"),
        (("-s", "1"), "dist_device_sync"),
    ],
)
def test_an_overflow_of_one_worker_skips_the_step_of_all(
    options: tuple[str, ...], kvstore: str, tmp_path: Path
) -> None:
    report = run(tmp_path, *options, kvstore=kvstore)
    assert report["metrics"]["first"] == 1.0 - 3 * 0.25 and report["metrics"]["second"] == 1.0 - 3 * 0.5
    assert report["metrics"]["scale"] == 128.0


def test_workers_of_one_host_skip_together_also_when_hosts_do_not_wait(tmp_path: Path) -> None:
    report = run(tmp_path, "-s", "1", kvstore="dist_device_async")
    assert report["metrics"]["first"] == 1.0 - 3 * 0.25


def test_in_an_asynchronous_run_a_worker_skips_alone(tmp_path: Path) -> None:
    report = run(tmp_path, "-s", "1", "--mode", "async")
    assert report["metrics"]["first"] == 1.0 - 7 * 0.25
