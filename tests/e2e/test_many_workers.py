"""Many more workers than processors: 32 processes, one thread each, synchronous and asynchronous.

64 take half a minute of two processors for their start alone: `benchmarks/bench_crowd.py` runs those.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import RUN_S

pytestmark = pytest.mark.net

SCRIPT = Path(__file__).with_name("crowd_script.py")
WORKERS, ROUNDS = 32, 10


def test_thirty_two_workers_run_sync_and_async_without_error(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "shoal", "run", "-n", str(WORKERS), "-s", "2", "--no-progress"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # compiled once, not 35 times
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(tmp_path / "compiled")}
    warm = [sys.executable, "-c", "import shoal, shoal.worker.session; shoal.kv.create, shoal.optim.SGD"]
    subprocess.run(warm, check=True, env=env, timeout=RUN_S)
    options = ["--report", str(report), "--events", str(tmp_path / "events"), str(SCRIPT), str(ROUNDS)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=RUN_S, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["ledger"]["balanced"] and len(found["per_worker"]) == WORKERS
    assert {w["state"] for w in found["per_worker"]} == {"done"}
    lines = [line for path in (tmp_path / "events").glob("*.jsonl") for line in path.read_text().splitlines()]
    events = [json.loads(line) for line in lines]
    ended = [e["reason"] for e in events if e["event"] == "memory link ended" and "token" in e["reason"]]
    assert not ended, "a busy server answers each greeting with the same token"
