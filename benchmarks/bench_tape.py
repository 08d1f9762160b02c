"""What the tape costs: forward and backward of a chain of small element-wise operators, against PyTorch eager.

    python benchmarks/bench_tape.py [--length 100] [--size 16] [--rounds 7]

Prints JSON. The two take turns, so that a machine that changes its speed does so for both; ``ratio`` is the median over
the rounds of shoal's time over PyTorch's in the same round.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from shoal import autograd
from shoal.ops import elementwise as F
from shoal.ops.tensor import Tensor


def chain(x: Any, c: Any, tanh: Callable[[Any], Any], length: int) -> Any:
    """Operators of every kind of cost in turn: with a constant, with two variables, with a scalar, unary."""
    y = x
    for i in range(length):
        kind = i % 5
        if kind == 0:
            y = y * c
        elif kind == 1:
            y = y + x
        elif kind == 2:
            y = y * 0.5
        elif kind == 3:
            y = tanh(y)
        else:
            y = y - c
    return y


def shoal_step(values: Any, length: int) -> Callable[[], Any]:
    """One forward and backward pass with shoal; returns the gradient."""
    x, c = Tensor(values.copy()), Tensor(np.full_like(values, 0.9))
    x.attach_grad()

    def step() -> Any:
        with autograd.record():
            y = chain(x, c, F.tanh, length)
        y.backward()
        return x.grad

    return step


def torch_step(values: Any, length: int) -> Callable[[], Any]:
    """The same with PyTorch."""
    x, c = torch.tensor(values, requires_grad=True), torch.full_like(torch.tensor(values), 0.9)
    ones = torch.ones_like(c)

    def step() -> Any:
        x.grad = None
        chain(x, c, torch.tanh, length).backward(ones)
        return x.grad

    return step


def seconds(step: Callable[[], Any], repeats: int) -> float:
    """Time of one step, the best of three means."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        best = min(best, (time.perf_counter() - start) / repeats)
    return best


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=100, help="operators in the chain")
    parser.add_argument("--size", type=int, default=16, help="elements of the arrays")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each library")
    parser.add_argument("--repeats", type=int, default=50, help="steps per measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    values = np.linspace(-1.0, 1.0, options.size, dtype=np.float32)
    ours, theirs = shoal_step(values, options.length), torch_step(values, options.length)
    np.testing.assert_allclose(ours().asnumpy(), theirs().numpy(), rtol=1e-4)
    rounds = [(seconds(ours, options.repeats), seconds(theirs, options.repeats)) for _ in range(options.rounds)]
    per_op = 1e6 / options.length
    result = {
        "benchmark": "tape",
        "length": options.length,
        "size": options.size,
        "rounds": options.rounds,
        "shoal_us_per_op": round(statistics.median(a for a, _ in rounds) * per_op, 3),
        "torch_us_per_op": round(statistics.median(b for _, b in rounds) * per_op, 3),
        "ratio": round(statistics.median(a / b for a, b in rounds), 3),
        "limit": 1.0,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
