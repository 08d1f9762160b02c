"""How long a small key waits that is needed first, while a large one is under way.

    python benchmarks/bench_urgent.py [--rounds 7]

A worker starts to push and pull a tensor of 100 MB, lets some of it leave, and then pushes and pulls a key of 1 KB with
a higher priority. Prints a JSON object a path: milliseconds of the small key ``alone`` and ``under_bulk``, and of the
large one by itself (``bulk``).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_kvstore import OURS, measure
from kv_control import System
from kv_report import figures

from shoal.lab.kvcases import CASES

__all__: list[str] = []

HEAD_START_S = 0.005
"""Between the bulk's start and the small key's: the first slices are under way."""


def worker() -> None:
    """On the benchmark's orders."""
    import control
    import numpy as np

    import shoal

    orders = control.Orders(0)
    kv = shoal.kv.create("dist_sync", reduce="sum")
    shape = tuple(orders.task["shapes"][0])
    kv.init(["bulk", "small"], [np.zeros(shape, np.float32), np.zeros(256, np.float32)])
    grad, out = np.ones(shape, np.float32), np.empty(shape, np.float32)
    small, there = np.ones(256, np.float32), np.empty(256, np.float32)

    def bulk() -> None:
        kv.pushpull("bulk", grad, out, priority=-100)

    def alone() -> None:
        kv.pushpull("small", small, there, priority=100)

    def under_bulk() -> float:
        under_way = kv.pushpull_async("bulk", grad, out, priority=-100)
        time.sleep(HEAD_START_S)
        start = time.perf_counter()
        alone()
        ms = (time.perf_counter() - start) * 1e3
        overtook = not under_way.done()
        under_way.result()
        return ms if overtook else float("inf")  # the bulk was over before: nothing was overtaken

    ways: dict[str, Callable[[], Any]] = {"bulk": bulk, "alone": alone, "under_bulk": under_bulk}
    orders.serve(shoal.__version__, ways, lambda rounds: bool((there == 1).all() and (out == 1).all()))


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--urgent", action="store_true", help="go before other processes of this machine (needs root)")
    o = p.parse_args()
    shapes = CASES["t100mb"]
    with tempfile.TemporaryDirectory(prefix="kvurgent") as logs:
        command = [sys.executable, "-m", "shoal", "run", "-n", "1", "-s", "1", "--no-progress", __file__, "worker"]
        systems = [System(name, command, 1, Path(logs) / f"{name}.log", env) for name, env in OURS.items()]
        task = {"shapes": shapes, "sgd": False, "servers": 1, "workers": 1}
        found = measure(systems, task, 10, o.rounds, o.urgent)
    for name, ways in found.items():
        about = {"benchmark": "urgent", "system": name}
        if isinstance(ways, str):
            print(json.dumps({**about, "error": ways}))
        else:
            print(json.dumps({**about, **{way: figures(shapes, t)["ms"] for way, t in ways.items()}}), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(Path(__file__).parent / "peers"))
    if sys.argv[1:] == ["worker"]:
        worker()
    else:
        main()
