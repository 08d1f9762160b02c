"""Real clusters of real processes train a real model: what must not change the weights does not."""

import functools
import json
import re
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
import sys
import shoal
from shoal import autograd, nn

out, steps = sys.argv[1], int(sys.argv[2])
net = nn.HybridSequential()
net.add(nn.Dense(32, activation="relu"), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9})
data = shoal.data.DataLoader(shoal.data.digits("train"), 64 // shoal.num_workers(), shuffle=True)
done = 0
while done < steps:
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
        done += 1
        if done == steps:
            break
if shoal.rank() == 0:
    net.save_parameters(out)
    w = {n: p.data().asnumpy() for n, p in net.collect_params().items()}
    print("weights", shoal.kv.weights_sha256(w))
"""


STEPS = 20


class Runner:
    """Runs the script in a cluster, or alone; each of them once, unless it is to be repeated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.script = folder / "train.py"
        self.script.write_text(SCRIPT)

    @functools.cache  # noqa: B019 - there is one, and it lives as long as the module's tests
    def cluster(
        self, workers: int, servers: int, mode: str = "sync", *, repeat: int = 0
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The final report, and the weights of worker 0."""
        name = f"{workers}-{servers}-{mode}-{repeat}"
        out, report = self.folder / f"w{name}.safetensors", self.folder / f"r{name}.json"
        command = [sys.executable, "-m", "shoal", "run", "-n", str(workers), "-s", str(servers), "--mode", mode]
        command += ["--report", str(report), "--no-progress", str(self.script), str(out), str(STEPS)]
        got = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
        assert got.returncode == 0, got.stdout + got.stderr
        return json.loads(report.read_text()), load_tensors(out)[0]

    @functools.cache  # noqa: B019
    def alone(self) -> tuple[str, dict[str, Any]]:
        """The hash it prints, and the weights."""
        out = self.folder / "alone.safetensors"
        command = [sys.executable, str(self.script), str(out), str(STEPS)]
        got = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=True)
        return got.stdout.split()[-1], load_tensors(out)[0]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runs"))


def test_synchronous_weights_are_the_same_bits_over_repeats_and_numbers_of_servers(runner: Runner) -> None:
    runs = [runner.cluster(2, 1), runner.cluster(2, 2), runner.cluster(2, 2, repeat=1), runner.cluster(2, 3)]
    digests = [report["weights_sha256"] for report, _ in runs]
    assert len(set(digests)) == 1


def test_one_worker_gives_the_bits_of_a_script_run_alone(runner: Runner) -> None:
    assert runner.cluster(1, 2)[0]["weights_sha256"] == runner.alone()[0]


ROUNDING = 2e-5
"""Bound on the difference of any weight after 20 steps of momentum SGD: float32 sums of 64 samples in another order."""


def test_the_number_of_workers_changes_no_more_than_rounding(runner: Runner) -> None:
    _, alone = runner.alone()
    for workers in (1, 2, 4):
        _, weights = runner.cluster(workers, 2)
        for name, value in alone.items():
            np.testing.assert_allclose(weights[name], value, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("mode", ["sync", "async", "ssp:2"])
def test_the_report_accounts_for_everything(runner: Runner, mode: str) -> None:
    report, _ = runner.cluster(2, 2, mode)
    book = report["ledger"]
    pushes = 2 * STEPS  # workers, steps; the parameters, all of them small, share a slice
    assert {name: book[name] for name in ("sent", "acknowledged", "applied")} == dict.fromkeys(
        ("sent", "acknowledged", "applied"), pushes
    )
    assert book["balanced"] and not any(book[name] for name in ("rejected", "dropped", "skipped", "duplicate"))
    assert (report["mode"], report["workers"], report["servers"]) == (mode, 2, 2)
    weights_bytes = 4 * (64 * 32 + 32 + 32 * 10 + 10)
    assert report["bytes_pushed"] == 2 * STEPS * weights_bytes
    assert report["samples_per_s"] > 0 and report["seconds"] > 0 and len(report["weights_sha256"]) == 64
    if mode == "sync":
        assert report["staleness_mean"] == 0


def started(role: str, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "shoal", role, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def by_hand(runner: Runner, order: list[tuple[str, int]]) -> str:
    """Start the roles one by one in this order; the hash of the weights that worker 0 prints."""
    scheduler = started("scheduler", "--workers", "2", "--servers", "1", "--host", "127.0.0.1", "--port", "0")
    processes = {("scheduler", 0): scheduler}
    try:
        assert scheduler.stdout is not None
        address = re.search(r"listening on (\S+:\d+)", scheduler.stdout.readline())
        assert address is not None
        at = ("--scheduler", address[1])
        for role, rank in order:
            script = (str(runner.script), str(runner.folder / "w"), str(STEPS)) if role == "worker" else ()
            processes[role, rank] = started(role, *at, "--rank", str(rank), *script)
        said = {place: p.communicate(timeout=RUN_S)[0] for place, p in processes.items()}
        assert all(p.returncode == 0 for p in processes.values()), said
        return said["worker", 0].split()[-1]
    finally:
        for p in processes.values():
            p.kill()
            p.wait()


def test_the_order_in_which_processes_start_changes_nothing(runner: Runner) -> None:
    places = [("server", 0), ("worker", 0), ("worker", 1)]
    digests = [by_hand(runner, order) for order in (places, places[::-1], [places[2], places[0], places[1]])]
    assert len(set(digests)) == 1
