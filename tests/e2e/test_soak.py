"""A short soak: digits under kills, stops and partitions of random processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.net, pytest.mark.slow]


def test_training_holds_under_kills_stops_and_partitions_of_random_processes(tmp_path: Path) -> None:
    place = tmp_path / "soak.json"
    options = ["--seconds", "24", "--tasks", "digits", "--seeds", "2", "--every-s", "3", "--json", str(place)]
    done = subprocess.run(
        [sys.executable, "-m", "shoal.lab.soak", *options, "--folder", str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=115,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(place.read_text())
    digits = found["tasks"]["digits"]
    assert found["held"] and digits["doubled"] == 0 and digits["ledger"]["balanced"]
    assert digits["lost"] == digits["said_lost"] and len(digits["faults"]) >= 5
    assert {f["what"] for f in digits["faults"]} >= {"kill"} and found["recovery_s"]
