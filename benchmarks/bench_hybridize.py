"""Time of a training step (forward, backward, update): imperative, hybridized, and PyTorch eager where it is installed.

python benchmarks/bench_hybridize.py [--rounds 7] [--steps 20]

The contestants take turns in each round, so that a change of the machine's speed meets all of them. Prints one JSON
object per model: medians over the rounds in milliseconds, and ratios of hybridized to the others.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from shoal import autograd, init, nn, optim
from shoal.ops.tensor import Tensor

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]  # an optional peer

BATCH = 128
RATE = 0.01


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    for model in ("mlp", "lenet"):
        steps = dict(contestants(model))
        times = measure(steps, args.rounds, args.steps)
        medians = {name: statistics.median(t) for name, t in times.items()}
        ratios = {f"hybridized/{n}": medians["hybridized"] / t for n, t in medians.items() if n != "hybridized"}
        report = {"benchmark": "hybridize", "model": model, "batch": BATCH, "rounds": args.rounds}
        rounded = {k: round(v, 3) for k, v in medians.items()}
        print(json.dumps({**report, "step_ms": rounded, "ratio": {k: round(v, 3) for k, v in ratios.items()}}))


def measure(steps: dict[str, Callable[[], None]], rounds: int, count: int) -> dict[str, list[float]]:
    """Milliseconds a step, per contestant and round."""
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            for _ in range(count):
                step()
            times[name].append((time.perf_counter() - begin) / count * 1e3)
    return times


def contestants(model: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """(name, a function that carries out one step)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, 784) if model == "mlp" else (BATCH, 1, 28, 28)).astype("float32")
    y = rng.integers(0, 10, BATCH)
    yield "imperative", shoal_step(model, x, y, hybridize=False)
    yield "hybridized", shoal_step(model, x, y, hybridize=True)
    if torch is not None:
        yield "torch", torch_step(model, x, y)


def shoal_net(model: str) -> nn.HybridSequential:
    """The model in shoal."""
    if model == "mlp":
        return nn.HybridSequential(nn.Dense(512, "relu"), nn.Dense(256, "relu"), nn.Dense(10))
    return nn.HybridSequential(
        nn.Conv2D(6, 5, padding=2, activation="relu"),
        nn.MaxPool2D(2),
        nn.Conv2D(16, 5, activation="relu"),
        nn.MaxPool2D(2),
        nn.Flatten(),
        nn.Dense(120, "relu"),
        nn.Dense(84, "relu"),
        nn.Dense(10),
    )


def shoal_step(model: str, x: Any, y: Any, *, hybridize: bool) -> Callable[[], None]:
    """One step of SGD in shoal."""
    net, loss_of = shoal_net(model), nn.SoftmaxCrossEntropyLoss()
    net.initialize(init.Xavier())
    if hybridize:
        net.hybridize()
        loss_of.hybridize()
    images, labels = Tensor(x), Tensor(y)
    net(images)
    rule = optim.create("sgd", learning_rate=RATE)
    params = [p for p in net.collect_params().values() if p.grad_req != "null"]
    states = [rule.init(p.data().data) for p in params]
    count = 0

    def step() -> None:
        nonlocal count
        with autograd.record():
            loss = loss_of(net(images), labels).mean()
        loss.backward()
        count += 1
        for p, state in zip(params, states, strict=True):
            rule.step(p.data().data, p.grad().data, state, count)

    return step


def torch_step(model: str, x: Any, y: Any) -> Callable[[], None]:
    """One step of SGD in PyTorch."""
    from torch import nn as tn

    if model == "mlp":
        net = tn.Sequential(tn.Linear(784, 512), tn.ReLU(), tn.Linear(512, 256), tn.ReLU(), tn.Linear(256, 10))
    else:
        convolutions = [tn.Conv2d(1, 6, 5, padding=2), tn.ReLU(), tn.MaxPool2d(2)]
        convolutions += [tn.Conv2d(6, 16, 5), tn.ReLU(), tn.MaxPool2d(2), tn.Flatten()]
        dense = [tn.Linear(400, 120), tn.ReLU(), tn.Linear(120, 84), tn.ReLU(), tn.Linear(84, 10)]
        net = tn.Sequential(*convolutions, *dense)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    rule = torch.optim.SGD(net.parameters(), lr=RATE)

    def step() -> None:
        rule.zero_grad()
        tn.functional.cross_entropy(net(images), labels).backward()
        rule.step()

    return step


if __name__ == "__main__":
    main()
