"""A training step in shoal. Variants: "eager", "hybrid", "numpy" (hybridized, without compiled kernels)."""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

if sys.argv[1:2] == ["shoal-numpy"]:
    os.environ["SHOAL_NATIVE"] = "0"

from shoal import autograd, init, nn, optim
from shoal.worker import zoo

RATE = 0.01


def make(model: str, variant: str) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """A step of SGD, and what there is to say of it."""
    net, inputs, labels = zoo.build(model)
    loss_of = nn.SoftmaxCrossEntropyLoss()
    net.initialize(init.Xavier())
    net(inputs[:1] if model != "lstm" else inputs)
    if variant != "eager":
        net.hybridize()
        loss_of.hybridize()
    rule = optim.create("sgd", learning_rate=RATE)
    params = [p for p in net.collect_params().values() if p.grad_req != "null"]
    states = [rule.init(p.data().data) for p in params]
    count, last = 0, None

    def step() -> None:
        nonlocal count, last
        with autograd.record():
            last = loss_of(net(inputs), labels).mean()
        last.backward()
        count += 1
        for p, state in zip(params, states, strict=True):
            rule.step(p.data().data, p.grad().data, state, count)

    def describe() -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"loss": float(last), "params": sum(p.data().size for p in params), "process_peak_mb": peak}

    return step, describe
