"""``shoal run --checkpoint URL``, then ``--resume``: a second run begins where the first one was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.checkpoint import Checkpoints, load_checkpoint
from tests.composefile import ROOT
from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]


def run(place: str, report: Path, epochs: int, *options: str) -> str:
    """What a run of the digits says; its report goes to a file."""
    prices = report.parent / "prices.toml"
    prices.write_text('[cost]\ncurrency = "EUR"\nsource = "ours"\ndate = 2026-01-31\n[cost.per_hour]\nworker = 1\n')
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "1", "--no-progress", "--checkpoint", place]
    more = ["--report", str(report), "--prices", str(prices), *options, str(ROOT / "examples" / "digits.py")]
    done = subprocess.run([*command, *more, "--epochs", str(epochs)], capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_goes_on_from_the_newest_good_checkpoint(tmp_path: Path) -> None:
    place, report = f"file://{tmp_path}/kept", tmp_path / "report.json"
    run(place, report, 2)
    kept = Checkpoints(place)
    assert kept.epochs() == [1, 2] and load_checkpoint(kept.newest()).meta["epoch"] == 2
    first = json.loads(report.read_text())
    whole = Path(kept.path(2).removeprefix("file://"))
    whole.write_bytes(whole.read_bytes()[:1000])  # as if the machine had died while it wrote

    run(place, report, 4, "--resume")
    second = json.loads(report.read_text())
    assert kept.epochs() == [2, 3, 4] and load_checkpoint(kept.path(2)).meta["epoch"] == 2
    steps = [sum(w["samples"] for w in r["per_worker"]) for r in (first, second)]
    assert steps[1] == 3 * steps[0] / 2, "three epochs more, from the first one on"
    assert second["cost"]["currency"] == "EUR" and second["cost"]["roles"]["worker"]["cost"] > 0


SCRIPT = """
import shoal
from shoal import nn
from shoal.lr_scheduler import CosineScheduler

net = nn.HybridSequential()
net.add(nn.Dense(24, activation="relu"), nn.Dropout(0.2), nn.BatchNorm(), nn.Dense(10))
net.initialize(shoal.init.Xavier())
rate = {"lr_scheduler": CosineScheduler(max_update=60, base_lr=0.01)}
trainer = shoal.Trainer(net.collect_params(), "adam", rate)
data = shoal.data.DataLoader(shoal.data.digits("train"), batch_size=60, shuffle=True)
shoal.fit(net, data, loss=nn.SoftmaxCrossEntropyLoss(), trainer=trainer, epochs=3)
"""


def weights(tmp_path: Path, servers: int, *options: str) -> str:
    """The digest of a run's final weights."""
    script, report = tmp_path / "train.py", tmp_path / "out.json"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", str(servers), "--no-progress", "--seed", "7"]
    more = ["--report", str(report), "--checkpoint", str(tmp_path / "kept"), *options, str(script)]
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(json.loads(report.read_text())["weights_sha256"])


@pytest.mark.parametrize(("mode", "servers", "then"), [("sync", 2, 3), ("allreduce", 0, 0)])
def test_a_run_that_goes_on_ends_with_the_bits_of_one_that_never_stopped(
    tmp_path: Path, mode: str, servers: int, then: int
) -> None:
    whole = weights(tmp_path, servers, "--mode", mode)
    kept = Checkpoints(str(tmp_path / "kept"))
    Path(kept.path(3)).unlink()  # as if it had been stopped in its last epoch
    assert weights(tmp_path, then, "--mode", mode, "--resume") == whole
    assert load_checkpoint(kept.path(2)).meta["steps"] == 2 * load_checkpoint(kept.path(3)).meta["steps"] / 3 > 0


def test_resuming_needs_a_place() -> None:
    command = [sys.executable, "-m", "shoal", "run", "--resume", str(ROOT / "examples" / "digits.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 2 and "--checkpoint PLACE" in done.stderr


def test_a_place_that_cannot_be_written_to_from_here_is_refused_before_anything_starts() -> None:
    command = [sys.executable, "-m", "shoal", "run", "--checkpoint", "s4://b/x", str(ROOT / "examples" / "digits.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 2 and "'s4://b/x': unknown protocol 's4'" in done.stderr
