"""A short soak: digits under kills, stops and partitions of random processes. Nothing is lost or counted twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.net, pytest.mark.slow, pytest.mark.timeout(300)]


def test_training_holds_under_kills_stops_and_partitions_of_random_processes(tmp_path: Path) -> None:
    place = tmp_path / "soak.json"
    options = ["--seconds", "24", "--tasks", "digits", "--seeds", "1", "--every-s", "3", "--json", str(place)]
    options += ["--replicas", "1", "--seed", "119"]  # the first faults of this seed kill one process of each role
    done = subprocess.run(
        [sys.executable, "-m", "shoal.lab.soak", *options, "--folder", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(place.read_text())
    digits = found["tasks"]["digits"]
    assert found["held"] and digits["doubled"] == 0 and digits["ledger"]["balanced"]
    assert digits["lost"] == 0 and found["recovery_s"]
    killed = {f["who"].split()[0] for f in digits["faults"] if f["what"] == "kill" and not f["skipped"]}
    assert killed == {"scheduler", "replica", "server", "worker"}
