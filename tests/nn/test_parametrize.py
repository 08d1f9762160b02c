"""Weights that are computed from what is learned: those of PyTorch's parametrizations."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as tn
from torch.nn.utils import parametrizations as tp

from shoal import Trainer, autograd, nn
from shoal.errors import ConfigError
from shoal.ops.tensor import Tensor


def given(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.asnumpy(), expected.detach().numpy(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("hybrid", [False, True])
def test_weight_norm(hybrid: bool, axis: int | None) -> None:
    ours, theirs = nn.WeightNorm(nn.Dense(5, flatten=False), axis=axis), tn.Linear(4, 5)
    ours.initialize()
    x = given(3, 4)
    plain = ours.layer(Tensor(x)).asnumpy()
    np.testing.assert_allclose(ours(Tensor(x)).asnumpy(), plain, rtol=1e-5)  # it begins as the layer itself
    theirs.weight.data = torch.tensor(ours.layer.weight.data().asnumpy().copy())
    theirs.bias.data = torch.tensor(ours.layer.bias.data().asnumpy().copy())
    normed = tp.weight_norm(theirs, dim=axis)
    with torch.no_grad():
        normed.parametrizations.weight.original0.mul_(1.5)
    ours.g.set_data(ours.g.data() * 1.5)
    if hybrid:
        ours.hybridize()
    for _ in range(2):
        with autograd.record():
            y = ours(Tensor(x))
            (y * y).sum().backward()
    t = normed(torch.tensor(x))
    (t * t).sum().backward()
    close(y, t)
    close(ours.layer.weight.grad(), normed.parametrizations.weight.original1.grad)
    expected = normed.parametrizations.weight.original0.grad
    np.testing.assert_allclose(ours.g.grad().asnumpy().reshape(-1), expected.numpy().reshape(-1), rtol=1e-3)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_spectral_norm(transposed: bool, hybrid: bool) -> None:
    x = given(2, 3, 6, 6)
    ours = nn.SpectralNorm((nn.Conv2DTranspose if transposed else nn.Conv2D)(4, 3), axis=int(transposed))
    theirs = (tn.ConvTranspose2d if transposed else tn.Conv2d)(3, 4, 3)
    ours.initialize()
    ours(Tensor(x))
    theirs.weight.data = torch.tensor(ours.layer.weight.data().asnumpy().copy())
    theirs.bias.data = torch.tensor(ours.layer.bias.data().asnumpy().copy())
    normed = tp.spectral_norm(theirs)
    state = normed.parametrizations.weight[0]
    state._u.copy_(torch.tensor(ours.u.data().asnumpy()))
    state._v.copy_(torch.tensor(ours.v.data().asnumpy()))
    if hybrid:
        ours.hybridize()
    for _ in range(3):
        with autograd.record():
            y = ours(Tensor(x))
            (y * y).sum().backward()
        normed.zero_grad()
        t = normed(torch.tensor(x))
        (t * t).sum().backward()
        close(y, t)
        close(ours.layer.weight.grad(), normed.parametrizations.weight.original.grad)
    close(ours.u.data(), state._u)
    close(ours(Tensor(x)), normed.eval()(torch.tensor(x)))


def test_a_spectral_norm_is_1() -> None:
    ours = nn.SpectralNorm(nn.Dense(7, use_bias=False, in_units=5))
    ours.initialize()
    ours(Tensor(np.eye(5, dtype="float32")))
    with autograd.train_mode():
        for _ in range(30):
            y = ours(Tensor(np.eye(5, dtype="float32"))).asnumpy()
    assert abs(np.linalg.norm(y, 2) - 1.0) < 1e-3


def test_a_trainer_updates_what_is_learned(tmp_path: Any) -> None:
    net = nn.HybridSequential(nn.WeightNorm(nn.Dense(4, in_units=3)), nn.SpectralNorm(nn.Dense(2, in_units=4)))
    net.initialize()
    x = Tensor(given(5, 3))
    net(x)
    before = {n: p.data().asnumpy().copy() for n, p in net.collect_params().items()}
    trainer = Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1})
    with autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()
    trainer.step(5)
    changed = {n for n, p in net.collect_params().items() if not np.array_equal(before[n], p.data().asnumpy())}
    assert {"0.g", "0.layer.weight", "1.layer.weight"} <= changed
    net.save_parameters(tmp_path / "net")
    again = nn.HybridSequential(nn.WeightNorm(nn.Dense(4, in_units=3)), nn.SpectralNorm(nn.Dense(2, in_units=4)))
    again.load_parameters(tmp_path / "net")
    assert np.array_equal(again(x).asnumpy(), net(x).asnumpy())


def test_a_parameter_that_is_not_there_is_said() -> None:
    with pytest.raises(ConfigError, match="'wight'; it has weight, bias"):
        nn.WeightNorm(nn.Dense(3), "wight")
    with pytest.raises(ConfigError, match="n_power_iterations=0"):
        nn.SpectralNorm(nn.Dense(3), n_power_iterations=0)
