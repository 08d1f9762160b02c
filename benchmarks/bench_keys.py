"""What the cluster's key costs between two hosts: push and pull over TCP, plain and encrypted, in turns.

    python benchmarks/bench_keys.py [--rounds 5]

The hosts are network namespaces joined by a cable of this machine's own (see bench_links.py; needs root and iproute2),
so no memory is shared. Prints JSON: median times of a cycle (push and pull of all keys) in ms, and the ratio of
throughput.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench_links import PORT, SERVER_IP, Cable, why_not

from shoal.kvstore.wire.keys import new_keys

__all__ = ["one_run"]

SCRIPT = """
import json, time
import numpy as np, shoal
kv = shoal.kv.create("dist", reduce="sum")
for name, size, cycles in (("8 x 1 MB", 250_000, 20), ("8 x 16 MB", 4_000_000, 8)):
    keys, grads = [f"{name} {i}" for i in range(8)], [np.ones(size, np.float32)] * 8
    kv.init(keys, [np.zeros(size, np.float32)] * 8)
    took = []
    for _ in range(2 + cycles):
        began = time.perf_counter()
        kv.pushpull(keys, grads)
        took.append(time.perf_counter() - began)
    print("TOOK", json.dumps([name, sorted(took[2:])[cycles // 2] * 1e3]), flush=True)
"""


def one_run(script: str, access: dict[str, str]) -> dict[str, float]:
    """Median cycle in ms, by set, of a run whose processes have these variables."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SHOAL_LOG": "error", **access}
    where = f"{SERVER_IP}:{PORT}"
    with Cable() as cable:
        roles = ("scheduler", "-n", "1", "-s", "1", "--port", str(PORT)), ("server", "--scheduler", where)
        nodes = [
            subprocess.Popen(cable.inside("server", *role, "--host", SERVER_IP), env=env, **quiet) for role in roles
        ]
        try:
            command = cable.inside("worker", "worker", "--scheduler", where, script)
            said = subprocess.run(command, env=env, check=True, timeout=300, stdout=subprocess.PIPE, text=True).stdout
        finally:
            for node in nodes:
                node.terminate()
                node.wait(20)
    return dict(json.loads(line.removeprefix("TOOK ")) for line in said.splitlines() if line.startswith("TOOK "))


def main() -> None:
    """Plain and encrypted runs in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    o = parser.parse_args()
    if reason := why_not():
        raise SystemExit(reason)
    found: dict[str, dict[str, list[float]]] = {"plain": {}, "key": {}}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "cycle.py"
        script.write_text(SCRIPT)
        access = {"plain": {"SHOAL_INSECURE": "1"}, "key": {"SHOAL_KEYS": str(new_keys(f"{folder}/keys"))}}
        for _ in range(o.rounds):
            for kind, variables in access.items():
                for name, ms in one_run(str(script), variables).items():
                    found[kind].setdefault(name, []).append(ms)
    for name, plain in found["plain"].items():
        ms = {kind: round(statistics.median(found[kind][name]), 1) for kind in found}
        ratio = round(statistics.median(plain) / statistics.median(found["key"][name]), 2)
        print(json.dumps({"set": name, "ms": ms, "ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()
