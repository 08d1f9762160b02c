"""What a trace costs: the same exchanges with ``--trace`` and without, in turn.

    python benchmarks/bench_trace.py --repeats 5

One worker and one server, push and pull of one key at a time, asynchronous; the median time of an exchange over
``--steps`` of them, and the size of the file. Prints JSON: microseconds by run, medians, and the ratio of medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """
import sys, time
import numpy as np
from shoal import kv
store, steps = kv.create("dist_async"), int(sys.argv[2])
value = np.ones(int(sys.argv[1]) // 4, np.float32)
out = np.zeros_like(value)
store.init("w", value)
times = []
for _ in range(steps + steps // 4):
    began = time.perf_counter()
    store.pushpull("w", value, out=out)
    times.append(time.perf_counter() - began)
print("median", sorted(times[steps // 4 :])[steps // 2] * 1e6)
"""


def main() -> None:
    """Measure, and print."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--bytes", type=int, nargs="+", default=[1000, 100_000])
    o = p.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "exchange.py"
        script.write_text(SCRIPT)
        for nbytes in o.bytes:
            runs = [[once(script, nbytes, o.steps, traced) for traced in (False, True)] for _ in range(o.repeats)]
            off, on = (statistics.median(run[i] for run in runs) for i in (0, 1))
            results.append({"bytes": nbytes, "off_us": off, "on_us": on, "ratio": on / off, "runs": runs})
    print(json.dumps({"steps": o.steps, "results": results}, indent=1))


def once(script: Path, nbytes: int, steps: int, traced: bool) -> float:
    """Median microseconds of an exchange."""
    trace = script.with_suffix(".json")
    options = ["--trace", str(trace)] if traced else []
    command = ["run", "-n", "1", "-s", "1", "--mode", "async", "--no-progress", *options, str(script)]
    done = subprocess.run(
        [sys.executable, "-m", "shoal", *command, str(nbytes), str(steps)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return float(done.stdout.split("median")[1].split()[0])


if __name__ == "__main__":
    main()
