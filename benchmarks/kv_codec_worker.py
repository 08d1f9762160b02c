"""The worker of ``bench_links.py``: a store for each codec that is an argument, on the benchmark's orders."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from shoal.lab.kvcases import LR

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import control


def ways_of(codec: str, shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], Any]]:
    """Push, pull, and both at once, through a store of its own."""
    kv = shoal.kv.create("dist_sync", reduce="sum")
    keys = [f"{codec} {i}" for i in range(len(shapes))]
    kv.init(keys, [np.zeros(s, np.float32) for s in shapes])
    kv.set_optimizer(shoal.optim.create("sgd", learning_rate=LR))
    if codec != "none":
        kv.set_gradient_compression(codec)
    draws = np.random.default_rng(0)
    grads: list[Any] = [(0.3 * draws.standard_normal(s)).astype(np.float32) for s in shapes]
    outs: list[Any] = [np.empty(s, np.float32) for s in shapes]
    return {
        f"{codec} push": lambda: kv.push(keys, grads).result(),
        f"{codec} pull": lambda: kv.pull(keys, outs),
        f"{codec} pushpull": lambda: kv.pushpull(keys, grads, outs),
    }


def main() -> None:
    """Serve until told to stop."""
    orders = control.Orders(0)
    shapes = [tuple(s) for s in orders.task["shapes"]]
    cycles: dict[str, Callable[[], Any]] = {}
    for codec in sys.argv[1:]:
        cycles |= ways_of(codec, shapes)
    for cycle in cycles.values():  # warm
        cycle()
    orders.serve(shoal.__version__, cycles, lambda rounds: True)


main()
