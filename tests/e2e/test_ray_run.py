"""Runs on a real Ray cluster of several nodes on this machine; one of them dies, one comes, one is drained.

Ray runs in processes of its own (`ray_cluster_script.py`), started once: by this Python, or by ``$SHOAL_RAY_PYTHON``.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

PYTHON = os.environ.get("SHOAL_RAY_PYTHON") or (sys.executable if importlib.util.find_spec("ray") else "")

pytestmark = [
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON, reason="Ray cannot be imported here: pip install 'shoal[ray]'"),
]

HERE = Path(__file__).parent
STARTS = 3
"""So often a cluster may fail to start: Ray gives its own processes 60 s each, and a busy machine takes longer."""


def played(folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each scenario."""
    with (folder / "said.txt").open("w") as said:
        command = [PYTHON, str(HERE / "ray_cluster_script.py"), str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True)
        try:
            out, _ = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            out, _ = process.communicate(timeout=RUN_S)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    return {line["name"]: line for line in lines}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ray")
    for attempt in range(STARTS):
        (folder / str(attempt)).mkdir()
        made = played(folder / str(attempt))
        if "start" in made:
            return made
    tail = (folder / str(STARTS - 1) / "said.txt").read_text()[-500:]
    pytest.skip(f"Ray did not start a cluster here in {STARTS} attempts: {tail}")


def report(scenes: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    scene = scenes[name]
    told = "\n".join(scene.get("lines", []))
    assert "error" not in scene, f"{scene['error']}\n{told}"
    assert (scene["code"], scene["text"]) == (0, ""), told
    found: dict[str, Any] = scene["report"]
    assert found["ledger"]["balanced"] and found["ledger"]["lost"] == 0
    return found


def test_synchronous_weights_are_those_of_the_local_launcher(scenes: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    there = report(scenes, "same_bits")
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--mode", "sync", "--no-progress"]
    script = [str(HERE / "ray_train_script.py"), "60", "0", str(tmp_path / "enough"), str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--report", str(out), *script], check=True, timeout=RUN_S, env=env)
    here = json.loads(out.read_text())
    assert there["weights_sha256"] == here["weights_sha256"]
    assert there["accuracy"] == here["accuracy"] > 0.85


def test_each_worker_has_a_gpu_of_its_own_and_an_overseer_tells_everything(scenes: dict[str, dict[str, Any]]) -> None:
    report(scenes, "same_bits")
    assert scenes["same_bits"]["gpus"] == ["0", "1"]  # what Ray hands out: nothing is computed on them
    assert scenes["same_bits"]["looks"] == ["finished"]


def test_when_a_node_with_a_server_dies_its_replica_goes_on_with_the_same_bits(
    scenes: dict[str, dict[str, Any]],
) -> None:
    lost = report(scenes, "lost_server")
    assert scenes["lost_server"]["succeeded"], "\n".join(scenes["lost_server"]["lines"])
    assert lost["weights_sha256"] == report(scenes, "same_bits")["weights_sha256"]


def test_workers_die_come_and_leave_with_their_nodes(scenes: dict[str, dict[str, Any]]) -> None:
    found = report(scenes, "come_and_go")
    assert scenes["come_and_go"]["there"]
    assert {w["state"] for w in found["per_worker"]} >= {"done", "left"}
