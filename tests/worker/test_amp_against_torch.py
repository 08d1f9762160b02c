"""Training under autocast, beside `torch.autocast` on the CPU: the same losses, within what bfloat16 can say."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal import amp, autograd, nn
from shoal.ops.tensor import Tensor

torch = pytest.importorskip("torch")
STEPS = 20
rng = np.random.default_rng(21)
IMAGES = rng.standard_normal((32, 1, 8, 8)).astype(np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) > 0).astype(np.int64) + 2 * (IMAGES[:, 0, 0, 0] > 0)


def ours(hybrid: bool) -> nn.HybridSequential:
    shoal.random.seed(0)  # whatever ran before
    layers = [nn.Conv2D(6, 3, padding=1, activation="relu", in_channels=1), nn.MaxPool2D(2), nn.Flatten()]
    net = nn.HybridSequential(*layers, nn.Dense(32, "relu", in_units=96), nn.LayerNorm(in_channels=32), nn.Dense(4))
    net.initialize(shoal.init.Xavier())
    net(Tensor(IMAGES))
    if hybrid:
        net.hybridize()
    return net


def theirs(net: nn.HybridSequential) -> Any:
    t = torch.nn
    layers = [t.Conv2d(1, 6, 3, padding=1), t.ReLU(), t.MaxPool2d(2), t.Flatten(), t.Linear(96, 32), t.ReLU()]
    made = t.Sequential(*layers, t.LayerNorm(32), t.Linear(32, 4))
    values = [p.data().asnumpy() for p in net.collect_params().values()]
    with torch.no_grad():
        for p, value in zip(made.parameters(), values, strict=True):
            p.copy_(torch.from_numpy(value.copy()))
    return made


def our_losses(net: nn.HybridSequential, **cast: Any) -> list[float]:
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=None)
    loss_of, found = nn.SoftmaxCrossEntropyLoss(), []
    for _ in range(STEPS):
        with amp.autocast(**cast), autograd.record():
            loss = loss_of(net(Tensor(IMAGES)), Tensor(LABELS)).mean()
        loss.backward()
        trainer.step(1)
        found.append(float(loss.asnumpy()))
    return found


def their_losses(net: Any, enabled: bool) -> list[float]:
    optimizer, found = torch.optim.SGD(net.parameters(), 0.1), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(IMAGES)), torch.from_numpy(LABELS))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("hybrid", [False, True])
def test_losses_over_20_steps_are_torchs(hybrid: bool) -> None:
    net = ours(hybrid)
    other = theirs(net)
    mine, reference = our_losses(net), their_losses(other, True)
    assert reference[-1] < 0.7 * reference[0]
    assert np.allclose(mine[:5], reference[:5], rtol=0.01, atol=0.005)
    assert np.allclose(mine, reference, rtol=0.1, atol=0.03)


def test_without_conversions_the_same_nets_agree_to_more_digits() -> None:
    net = ours(True)
    other = theirs(net)
    assert np.allclose(our_losses(net, enabled=False), their_losses(other, False), rtol=1e-3, atol=1e-4)


def test_half_precision_changes_the_losses_by_no_more_than_it_must() -> None:
    net = ours(False)
    start = {k: p.data().asnumpy().copy() for k, p in net.collect_params().items()}
    plain = our_losses(net, enabled=False)
    for dtype, tolerance in (("bfloat16", 0.08), ("float16", 0.05)):
        for k, p in net.collect_params().items():
            p.set_data(start[k])
        half = our_losses(net, dtype=dtype)
        assert half != plain and np.allclose(half, plain, atol=tolerance)
