"""What a replica costs: push and pull with ``--replicas`` 0 and 1, in turns, on this machine.

    python benchmarks/bench_replicas.py [--rounds 5]

Sets: one key of 1 KB, the 161 keys of ResNet-50 (102 MB), and one key of 100 MB. Both processes of the shard are on
this machine, so that the second copy of everything goes through the same memory and the same cores; between machines
it goes through a network of its own. Prints JSON: median times of a cycle in ms, and the ratio of throughput.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["one_run"]

SCRIPT = """
import json, time
import numpy as np, shoal
from shoal.lab.kvcases import resnet50

kv = shoal.kv.create("dist", reduce="sum")
sets = {"1 KB": ([(256,)], 400), "ResNet-50": (resnet50(), 12), "100 MB": ([(25_000_000,)], 12)}
for name, (shapes, cycles) in sets.items():
    keys = [f"{name} {i}" for i in range(len(shapes))]
    grads = [np.ones(shape, np.float32) for shape in shapes]
    kv.init(keys, [np.zeros(shape, np.float32) for shape in shapes])
    took = []
    for _ in range(3 + cycles):
        began = time.perf_counter()
        kv.pushpull(keys, grads, out=grads)
        took.append(time.perf_counter() - began)
    print("TOOK", json.dumps([name, sorted(took[3:])[cycles // 2] * 1e3]), flush=True)
"""


def one_run(script: str, replicas: int) -> dict[str, float]:
    """Median cycle in ms, by set, of a run of one worker and one server with so many replicas."""
    command = [
        sys.executable,
        "-m",
        "shoal",
        "run",
        "-n",
        "1",
        "-s",
        "1",
        "--replicas",
        str(replicas),
        "--mode",
        "sync",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SHOAL_LOG": "error"}
    done = subprocess.run([*command, "--no-progress", script], env=env, check=True, timeout=300, capture_output=True)
    lines = [line.partition("TOOK ")[2] for line in done.stdout.decode().splitlines() if "TOOK " in line]
    return dict(json.loads(line) for line in lines)


def main() -> None:
    """Runs without and with a replica in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    o = parser.parse_args()
    found: dict[int, dict[str, list[float]]] = {0: {}, 1: {}}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "cycle.py"
        script.write_text(SCRIPT)
        for _ in range(o.rounds):
            for replicas, times in found.items():
                for name, ms in one_run(str(script), replicas).items():
                    times.setdefault(name, []).append(ms)
    for name in found[0]:
        ms = {f"replicas {n}": round(statistics.median(times[name]), 3) for n, times in found.items()}
        ratio = round(statistics.median(found[0][name]) / statistics.median(found[1][name]), 2)
        print(json.dumps({"set": name, "ms": ms, "ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()
