"""The worker of ``bench_efficiency.py``: a store for each mode; a step waits as a GPU would compute, then exchanges."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import shoal
from shoal.lab.kvcases import LR

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import control


def step_of(mode: str, shapes: list[tuple[int, ...]], compute_s: float) -> Callable[[], Any]:
    """One step through a store of its own: a timer for the gradient, then push and pull."""
    kv = shoal.kv.create(f"dist_{mode}")
    keys = [f"{mode} {i}" for i in range(len(shapes))]
    kv.init(keys, [np.zeros(s, np.float32) for s in shapes])
    kv.set_optimizer(shoal.optim.create("sgd", learning_rate=LR))
    grads: list[Any] = [np.full(s, 1e-3, np.float32) for s in shapes]
    outs: list[Any] = [np.empty(s, np.float32) for s in shapes]

    def step() -> None:
        time.sleep(compute_s)
        kv.pushpull(keys, grads, outs)

    return step


def main() -> None:
    """Serve until told to stop."""
    orders = control.Orders(0)
    shapes = [tuple(s) for s in orders.task["shapes"]]
    steps = {mode: step_of(mode, shapes, orders.task["compute_s"]) for mode in sys.argv[1:]}
    orders.serve(shoal.__version__, steps, lambda rounds: True)


main()
