"""A minute of soak: training under kills, stops and partitions of random processes; nothing is lost or doubled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(600)]


def test_training_holds_under_kills_stops_and_partitions_of_random_processes(tmp_path: Path) -> None:
    place = tmp_path / "soak.json"
    options = ["--seconds", "60", "--seeds", "1", "--every-s", "4", "--json", str(place)]
    options += ["--replicas", "1", "--seed", "119"]  # the first faults of this seed kill one process of each role
    done = subprocess.run(
        [sys.executable, "-m", "shoal.lab.soak", *options, "--folder", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=580,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(place.read_text())
    assert found["held"] and found["recovery_s"] and set(found["tasks"]) == {"digits", "language"}
    for task in found["tasks"].values():
        assert task["ledger"]["balanced"] and (task["lost"], task["doubled"]) == (0, 0)
    faults = [f for task in found["tasks"].values() for f in task["faults"]]
    killed = {f["who"].split()[0] for f in faults if f["what"] == "kill" and not f["skipped"]}
    assert killed == {"scheduler", "replica", "server", "worker"}
