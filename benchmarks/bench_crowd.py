"""Many workers on one machine: do they all get through, in which time, and with how much memory and how many files?

    python benchmarks/bench_crowd.py [--workers 64] [--servers 2] [--rounds 20]

A real ``shoal run`` of a tiny model, one thread each, first synchronous, then asynchronous; the weights are compared
with what they must be. Prints a JSON object: exit code, seconds, the peak of all processes' memory (what they share
counts once), and the most files that the scheduler, a server and a worker had open. Each process that starts takes half
a second of a processor, which is most of ``seconds``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from kv_control import descendants

SCRIPT = Path(__file__).parents[1] / "tests" / "e2e" / "crowd_script.py"
LOOK_S = 1.0


def memory_mb(pid: int) -> float:
    """Proportional resident memory of a process; 0 if it is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1e3
    return 0.0


def role_and_files(pid: int) -> tuple[str, int]:
    """What a process is, and how many files it has open."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        role = words[3].decode() if b"shoal" in words[:3] and len(words) > 3 else ""
        return role, len(os.listdir(f"/proc/{pid}/fd"))
    return "", 0


def main() -> None:
    """Run, watch and print."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--workers", type=int, default=64)
    p.add_argument("--servers", type=int, default=2)
    p.add_argument("--rounds", type=int, default=20)
    o = p.parse_args()
    row: dict[str, Any] = {"benchmark": "crowd", "workers": o.workers, "servers": o.servers, "cores": os.cpu_count()}
    files: dict[str, int] = {}
    peak = 0.0
    with tempfile.TemporaryDirectory(prefix="kvcrowd") as folder:
        report, said = Path(folder) / "report.json", Path(folder) / "said.txt"
        command = [sys.executable, "-m", "shoal", "run", "-n", str(o.workers), "-s", str(o.servers), "--no-progress"]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        with said.open("wb") as out:
            run = subprocess.Popen(
                [*command, "--report", str(report), str(SCRIPT), str(o.rounds)], stdout=out, stderr=out, env=env
            )
        while run.poll() is None:
            time.sleep(LOOK_S)
            pids = descendants(run.pid)
            peak = max(peak, sum(map(memory_mb, pids)))
            for role, count in map(role_and_files, pids):
                files[role] = max(files.get(role, 0), count)
        row |= {"exit_code": run.returncode, "seconds": round(time.monotonic() - began, 1)}
        row |= {"memory_mb": round(peak), "open_files": {r: files.get(r, 0) for r in ("scheduler", "server", "worker")}}
        if report.exists():
            row["balanced"] = json.loads(report.read_text())["ledger"]["balanced"]
        if run.returncode:
            row["said"] = said.read_text("utf-8", "replace")[-2000:]
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
