"""How long a run is without its scheduler after kill -9: from the kill until every member is attached again.

    python benchmarks/bench_scheduler_restart.py --repeats 5

``shoal run`` with workers that meet at a barrier again and again; the scheduler is killed when all of them have begun.
The times are those at which the launcher's and the members' lines arrive. Prints JSON: seconds, by run and as medians.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SCRIPT = """
import time
from shoal import kv
store = kv.create("dist_sync")
print("ready", flush=True)
for _ in range(250):
    store.barrier()
    time.sleep(0.01)
"""


def main() -> None:
    """Measure, and print."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--servers", type=int, default=2)
    o = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "meet.py"
        script.write_text(SCRIPT)
        rows = [once(script, o.workers, o.servers) for _ in range(o.repeats)]
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(json.dumps({"workers": o.workers, "servers": o.servers, "median": medians, "runs": rows}, indent=1))


def once(script: Path, workers: int, servers: int) -> dict[str, float]:
    """One run: seconds until the scheduler's new process listens, and until the last member is attached."""
    command = ["run", "-n", str(workers), "-s", str(servers), "--no-progress", str(script)]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "shoal", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert launcher.stdout is not None and launcher.stderr is not None
    seen: dict[str, list[float]] = {"has its log": [], "is back after": []}

    def listen() -> None:
        for line in launcher.stderr or ():
            for text, times in seen.items():
                if text in line:
                    times.append(time.monotonic())

    thread = threading.Thread(target=listen)
    thread.start()
    killed, ready = 0.0, 0
    for line in launcher.stdout:
        ready += "ready" in line
        if ready == workers and not killed:
            killed = time.monotonic()
            os.kill(scheduler_of(launcher.pid), signal.SIGKILL)
    thread.join()
    if launcher.wait() or len(seen["is back after"]) != workers + servers:
        raise SystemExit("the run has failed, or a member was not attached again")
    return {"listening_s": seen["has its log"][0] - killed, "attached_s": max(seen["is back after"]) - killed}


def scheduler_of(launcher: int) -> int:
    """The child of the launcher that is the scheduler."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if "scheduler" in Path(f"/proc/{child}/cmdline").read_text().split("\0")[:4]:
            return int(child)
    raise SystemExit("the launcher has no scheduler")


if __name__ == "__main__":
    main()
