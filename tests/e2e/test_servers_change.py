"""A server joins a real run and another is drained in the middle of training: nothing is lost, nobody waits long."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S, until_run

pytestmark = pytest.mark.net

SCRIPT = """
import sys, time
from pathlib import Path

import shoal
from shoal import autograd, nn

steps, place, layers = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
net = nn.HybridSequential()
net.add(nn.Dense(512, activation="relu"), *(nn.Dense(256, activation="relu") for _ in range(layers)), nn.Dense(10))
net.initialize(shoal.init.Xavier())
loss_of = nn.SoftmaxCrossEntropyLoss()
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01, "momentum": 0.9})
data = shoal.data.DataLoader(shoal.data.digits("train"), 64 // shoal.num_workers(), shuffle=True)
done = 0
while done < steps:
    for x, y in data:
        with autograd.record():
            loss = loss_of(net(x), y)
        loss.backward()
        trainer.step(len(x))
        done += 1
        if shoal.rank() == 0 and done == 20:
            (place / "go").touch()
        while shoal.rank() == 0 and done > steps - 20 and not (place / "end").exists():
            time.sleep(0.01)
        if done == steps:
            break
print("trained", done)
"""


class Run:
    """A `shoal run` of two workers and two servers, and what is done to it."""

    def __init__(self, folder: Path, mode: str, steps: int, *options: str, layers: int = 1) -> None:
        self.folder, self.place = folder, folder / "run"
        folder.mkdir(exist_ok=True)
        self.place.mkdir(exist_ok=True)
        script = folder / "train.py"
        script.write_text(SCRIPT)
        self.env = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = ["run", "-n", "2", "-s", "2", "--mode", mode, "--no-progress", f"--run-dir={self.place}", *options]
        self.process = self.start(*run, str(script), str(steps), str(folder), str(layers))
        self.others: list[subprocess.Popen[str]] = []

    def start(self, *args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "shoal", *args]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env, cwd=self.folder
        )

    def say(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "shoal", *args, f"--run-dir={self.place}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, env=self.env, check=False)

    def nodes(self) -> dict[str, dict[str, Any]]:
        told = json.loads(self.say("status", "--json").stdout)
        return {f"{n['role']} {n['rank']}": n for n in told["nodes"]}

    def begun(self) -> None:
        until_run(lambda: (self.folder / "go").exists() or self.process.poll() is not None, "the run to train")

    def add(self) -> None:
        from shoal.scheduler.address import recorded_address

        self.others.append(self.start("server", "--scheduler", str(recorded_address(str(self.place)))))
        until_run(lambda: self._slices("server 2") > 0, "slices to move to the new server")

    def _slices(self, name: str) -> int:
        status = self.nodes().get(name, {}).get("status") or {}
        return int(status.get("slices", 0))

    def end(self) -> tuple[dict[str, Any], str, str]:
        (self.folder / "end").touch()
        out, err = self.process.communicate(timeout=RUN_S)
        assert self.process.returncode == 0, err
        for other in self.others:
            other.communicate(timeout=RUN_S)
        return json.loads((self.place / "report.json").read_text()), out, err

    def close(self) -> None:
        for process in (self.process, *self.others):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.communicate(timeout=RUN_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    made: list[Run] = []
    yield made
    for run in made:
        run.close()


def begin(runs: list[Run], folder: Path, mode: str, steps: int, *options: str, layers: int = 1) -> Run:
    runs.append(Run(folder, mode, steps, *options, layers=layers))
    return runs[-1]


def test_a_server_joins_and_one_is_drained_and_the_weights_are_the_same_bits(tmp_path: Path, runs: list[Run]) -> None:
    quiet = begin(runs, tmp_path / "quiet", "sync", 300)
    want, _, _ = quiet.end()
    run = begin(runs, tmp_path / "changed", "sync", 300)
    run.begun()
    run.add()
    drained = run.say("drain", "server", "0")
    assert drained.returncode == 0, drained.stderr
    assert "server 0 is drained after" in drained.stdout
    assert run.nodes()["server 0"]["state"] == "drained"
    report, out, err = run.end()
    print(out, err)
    assert report["weights_sha256"] == want["weights_sha256"]
    assert report["ledger"]["balanced"] and report["ledger"]["lost"] == 0


def test_sigterm_drains_a_server_and_an_asynchronous_run_loses_nothing(tmp_path: Path, runs: list[Run]) -> None:
    run = begin(runs, tmp_path / "changed", "async", 300)
    run.begun()
    os.kill(int(run.nodes()["server 1"]["pid"]), signal.SIGTERM)
    until_run(lambda: run.nodes()["server 1"]["state"] == "drained", "server 1 to be drained")
    refused = run.say("drain", "server", "0")
    assert refused.returncode != 0 and "is the only server left" in refused.stderr
    report, _, err = run.end()
    assert report["ledger"]["balanced"] and report["ledger"]["lost"] == 0, err


@pytest.mark.parametrize(("mode", "victim"), [("sync", 0), ("async", 1)], ids=["source", "target"])
def test_a_server_that_is_killed_while_slices_move_comes_back_and_they_go_on(
    mode: str, victim: int, tmp_path: Path, runs: list[Run]
) -> None:
    from shoal.scheduler.address import recorded_address
    from shoal.scheduler.operator import drain_server

    run = begin(runs, tmp_path / "killed", mode, 200, "--snapshot-every", "20u", layers=12)
    run.begun()
    pid, left_at = int(run.nodes()[f"server {victim}"]["pid"]), []

    def kill_halfway(left: int) -> None:
        if not left_at:
            os.kill(pid, signal.SIGKILL)
        left_at.append(left)

    drain_server(str(recorded_address(str(run.place))), 0, timeout_s=RUN_S, on_progress=kill_halfway)
    assert run.nodes()["server 0"]["state"] == "drained"
    report, _, err = run.end()
    assert left_at[0] > 0 and "from its newest snapshot" in err
    assert report["ledger"]["balanced"], report["ledger"]
