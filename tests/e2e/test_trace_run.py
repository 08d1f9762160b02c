"""Traces of real runs: sound, whole, and with an arrow for every push."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shoal.lab.tracecheck import faults
from shoal.lab.traceparts import load
from tests.patience import RUN_S

TRAIN = """
import numpy as np
import shoal
from shoal import autograd, nn

net = nn.HybridSequential()
net.add(nn.Dense(8, in_units=4), nn.Dense(2, in_units=8))
net.initialize(shoal.init.Xavier())
trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
x, loss_of = shoal.np.ones((4, 4)), nn.L2Loss()
for _ in range(12):
    with autograd.record():
        loss = loss_of(net(x), shoal.np.zeros((4, 2)))
    loss.backward()
    trainer.step(4)
"""


def launch(folder: Path, *options: str, code: int = 0, script: str = TRAIN) -> str:
    (folder / "train.py").write_text(script)
    command = [sys.executable, "-m", "shoal", "run", "--no-progress", *options, "train.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr


def traced(path: Path) -> dict[str, Any]:
    trace: dict[str, Any] = json.loads(path.read_text())
    assert faults(trace) == []
    return trace


def counts(trace: dict[str, Any], ph: str) -> Counter[str]:
    """By the first words of names: of spans by their process's role, too."""
    roles = {e["pid"]: e["args"]["name"].split()[0] for e in trace["traceEvents"] if e["name"] == "process_name"}
    found = [e for e in trace["traceEvents"] if e["ph"] == ph]
    return Counter(f"{roles[e['pid']]} {e['name'].split()[0]}" if ph == "X" else e["cat"] for e in found)


@pytest.mark.net
def test_of_a_run_with_servers_every_push_has_an_arrow_to_its_update(tmp_path: Path) -> None:
    said = launch(tmp_path, "-n", "2", "-s", "1", "--trace", "t.json")
    assert "trace in t.json" in said and not (tmp_path / "t.json.parts").exists()
    trace = traced(tmp_path / "t.json")
    spans = counts(trace, "X")
    assert spans["worker forward"] == spans["worker backward"] == spans["worker step"] == 24
    assert spans["worker wait"] and spans["scheduler barrier"] and spans["server push"] == 24
    assert spans["server apply"] == 12
    arrows = counts(trace, "f")
    assert arrows["push"] == 24 and arrows["read"] >= 24
    pairs = counts(trace, "b")
    assert pairs["push"] == 24 and pairs["round"] == 12 and pairs["barrier"] >= 1
    assert any(e["name"] == "begun" for e in trace["traceEvents"])
    assert trace["otherData"]["without_part"] == []


@pytest.mark.net
def test_of_some_steps_only_they_are_traced(tmp_path: Path) -> None:
    launch(tmp_path, "-n", "2", "-s", "1", "--trace", "t.json", "--trace-steps", "4:6")
    trace = traced(tmp_path / "t.json")
    spans = counts(trace, "X")
    assert {e["name"] for e in trace["traceEvents"] if e["name"].startswith("step ")} == {"step 4", "step 5"}
    assert spans["worker forward"] == 4 and spans["server apply"] <= 2 and 2 <= counts(trace, "f")["push"] <= 4


@pytest.mark.net
def test_of_an_all_reduce_the_arrows_go_between_workers(tmp_path: Path) -> None:
    launch(tmp_path, "-n", "2", "--mode", "allreduce", "--trace", "t.json")
    trace = traced(tmp_path / "t.json")
    spans = counts(trace, "X")
    assert spans["worker forward"] == 24 and counts(trace, "f")["part"] == spans["worker part"] >= 24


@pytest.mark.net
def test_of_a_run_that_fails_there_is_a_trace_too(tmp_path: Path) -> None:
    script = TRAIN.replace("trainer.step(4)", "trainer.step(4)\n    assert shoal.rank() or _ < 5, 'as planned'")
    said = launch(tmp_path, "-n", "2", "-s", "1", "--trace", "t.json", code=1, script=script)
    assert "as planned" in said
    trace = traced(tmp_path / "t.json")
    assert trace["otherData"]["without_part"] == []
    reasons = [e["args"]["reason"] for e in trace["traceEvents"] if e["name"] == "failed"]
    assert any("as planned" in reason for reason in reasons), (reasons, said)


@pytest.mark.net
def test_offsets_of_processes_of_one_machine_are_nothing_within_their_error(tmp_path: Path) -> None:
    """What a run over several hosts does, on one: parts in a directory, merged by the command."""
    env = {**os.environ, "SHOAL_LOG": "warning"}
    ours, theirs = os.pipe()
    words = ["scheduler", "-n", "1", "-s", "1", "--port", "0", "--ready-fd", str(theirs), "--trace", "parts"]
    command = [sys.executable, "-m", "shoal"]
    scheduler = subprocess.Popen([*command, *words], cwd=tmp_path, env=env, pass_fds=(theirs,))
    os.close(theirs)
    with os.fdopen(ours) as told:
        address = f"127.0.0.1:{told.readline().strip()}"
    (tmp_path / "train.py").write_text(TRAIN + "\nimport time\ntime.sleep(1.5)\n")
    common = ["--scheduler", address, "--trace", "parts"]
    rest = [
        subprocess.Popen([*command, *more], cwd=tmp_path, env=env)
        for more in (["server", *common], ["worker", *common, "train.py"])
    ]
    assert [p.wait(RUN_S) for p in (*rest, scheduler)] == [0, 0, 0]
    parts = {p.role: p.part["offset"] for p in load(str(tmp_path / "parts"))}
    for role in ("server", "worker"):
        value_s, error_s, trips = parts[role]
        assert trips >= 1 and abs(value_s) <= error_s < float("inf")
    merging = [*command, "trace", "merge", "parts", "-o", "t.json"]
    done = subprocess.run(merging, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert counts(traced(tmp_path / "t.json"), "f")["push"] == 12
