"""Gradients of each example, Jacobians and Hessians: shoal.func against torch.func, in one process.

Each figure is the median over rounds in which the libraries take turns; one thread each. ``loop`` is shoal, one example
after the other.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from shoal import func, nn
from shoal import np as mnp
from shoal.ops.tensor import Tensor


def per_example(batch: int) -> dict[str, Callable[[], Any]]:
    """The gradient of the loss of an MLP (64-128-10) for each example."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((batch, 64)).astype(np.float32), rng.standard_normal((batch, 10)).astype(np.float32)
    net = nn.HybridSequential(nn.Dense(128, in_units=64, activation="tanh"), nn.Dense(10, in_units=128))
    net.initialize()
    params, _ = func.parameters_of(net)

    def ours(p: Any, x: Any, y: Any) -> Any:
        return ((func.functional_call(net, p, x[None]) - y[None]) ** 2).sum()

    other = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 10))
    theirs_params = {k: v.detach() for k, v in other.named_parameters()}

    def theirs(p: Any, x: Any, y: Any) -> Any:
        return ((torch.func.functional_call(other, p, x[None]) - y[None]) ** 2).sum()

    a, b = Tensor(x), Tensor(y)
    each, one = func.vmap(func.grad(ours), (None, 0, 0)), func.grad(ours)
    peer, c, d = torch.func.vmap(torch.func.grad(theirs), (None, 0, 0)), torch.tensor(x), torch.tensor(y)
    return {
        "shoal": lambda: each(params, a, b),
        "loop": lambda: [one(params, a[i], b[i]) for i in range(batch)],
        "torch": lambda: peer(theirs_params, c, d),
    }


def second(size: int) -> dict[str, Callable[[], Any]]:
    """The Hessian of a function of ``size`` numbers."""
    w = np.random.default_rng(1).standard_normal((size, size)).astype(np.float32)
    x = np.linspace(-1, 1, size, dtype=np.float32)
    a, b, c, d = Tensor(w), Tensor(x), torch.tensor(w), torch.tensor(x)
    ours = func.hessian(lambda v: mnp.tanh(a @ v).sum())
    theirs = torch.func.jacrev(torch.func.jacrev(lambda v: torch.tanh(c @ v).sum()))
    return {"shoal": lambda: ours(b), "torch": lambda: theirs(d)}


def seconds(fn: Callable[[], Any], repeats: int) -> float:
    """Mean time of a call."""
    start = time.perf_counter()
    for _ in range(repeats):
        fn()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each library")
    parser.add_argument("--repeats", type=int, default=3, help="calls per turn")
    parser.add_argument("--batch", type=int, default=64, help="examples")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    results: dict[str, Any] = {"benchmark": "func", "rounds": options.rounds, "batch": options.batch}
    for name, peers in {"per_example": per_example(options.batch), "hessian": second(64)}.items():
        for fn in peers.values():
            fn()
        times: dict[str, list[float]] = {k: [] for k in peers}
        for _ in range(options.rounds):
            for k, fn in peers.items():
                times[k].append(seconds(fn, options.repeats))
        results[name] = {f"{k}_ms": round(statistics.median(v) * 1e3, 3) for k, v in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times["shoal"], times["torch"], strict=True))
        results[name]["ratio"] = round(ratio, 3)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
