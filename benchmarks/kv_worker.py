"""One of our workers under measurement: run by ``shoal run``, it obeys the benchmark's orders.

shoal run -n 2 -s 2 benchmarks/kv_worker.py [--mode sync] [--codec fp16]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from shoal.lab.kvcases import LR, error_against, expected, gradient

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import control


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="sync")
    parser.add_argument("--codec", default="")
    options = parser.parse_args()
    kv = shoal.kv.create(f"dist_{options.mode}", reduce="sum")
    orders = control.Orders(kv.rank)
    shapes, sgd = [tuple(s) for s in orders.task["shapes"]], bool(orders.task["sgd"])
    keys = [f"key{i}" for i in range(len(shapes))]
    kv.init(keys, [np.zeros(s, np.float32) for s in shapes], fuse=True)
    if sgd:
        kv.set_optimizer(shoal.optim.create("sgd", learning_rate=LR))
    if options.codec:
        kv.set_gradient_compression(options.codec)
    grads = [gradient(s, kv.rank) for s in shapes]
    outs: list[Any] = [np.empty(s, np.float32) for s in shapes]
    shared = kv.alloc_like(keys, grads)
    for there, g in zip(shared, grads, strict=True):
        there[...] = g

    def check(rounds: int) -> bool:
        kv.barrier()
        kv.pull(keys, outs)
        wanted = [expected(s, kv.num_workers, rounds, sgd=sgd) for s in shapes]
        return all(error_against(o, w) == 0 for o, w in zip(outs, wanted, strict=True))

    ways = {"copies": lambda: kv.pushpull(keys, grads, outs), "in_place": lambda: kv.view(keys, shared)}
    orders.serve(shoal.__version__, ways, check)


main()
