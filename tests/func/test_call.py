"""Blocks as functions of their parameters."""

from typing import Any

import numpy as np
import pytest
import torch

from shoal import autograd, func, nn
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor

X = np.random.default_rng(2).standard_normal((5, 3)).astype(np.float32)


def network() -> nn.HybridSequential:
    net = nn.HybridSequential(nn.Dense(4, in_units=3, activation="tanh"), nn.Dense(2, in_units=4))
    net.initialize("normal", seed=1)
    return net


@pytest.mark.parametrize("hybrid", [False, True])
def test_gradients_are_those_of_torch_and_the_block_stays_as_it_is(hybrid: bool) -> None:
    net = network()
    if hybrid:
        net.hybridize()
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    before = {n: p.data().asnumpy().copy() for n, p in net.collect_params().items()}
    params = {n: Tensor(v * 2.0) for n, v in before.items()}
    g = func.grad(lambda p: (func.functional_call(net, p, Tensor(X)) ** 2).sum())(params)
    named = {n.replace("1.", "2."): torch.tensor(p.asnumpy()) for n, p in params.items()}
    expected = torch.func.grad(lambda p: (torch.func.functional_call(theirs, p, torch.tensor(X)) ** 2).sum())(named)
    for n, value in g.items():
        np.testing.assert_allclose(value.asnumpy(), expected[n.replace("1.", "2.")].numpy(), rtol=1e-4, atol=1e-5)
    for n, p in net.collect_params().items():
        assert p.data().asnumpy().tolist() == before[n].tolist() and not p.grad().asnumpy().any()


@pytest.mark.parametrize("hybrid", [False, True])
def test_values_of_another_dtype_and_only_some_of_them(hybrid: bool) -> None:
    net = network()
    if hybrid:
        net.hybridize()
    net(Tensor(X))
    out = func.functional_call(net, {"1.bias": Tensor(np.array([10.0, 20.0]))}, (Tensor(X),))
    np.testing.assert_allclose(out.asnumpy(), net(Tensor(X)).asnumpy() + np.array([10.0, 20.0]), rtol=1e-5)
    assert out.dtype == np.float64 and net(Tensor(X)).dtype == np.float32


@pytest.mark.parametrize("hybrid", [False, True])
def test_what_the_block_writes_goes_to_updates(hybrid: bool) -> None:
    net = nn.BatchNorm(in_channels=3)
    net.initialize()
    if hybrid:
        net.hybridize()
    learned, kept = func.parameters_of(net)
    before = {n: v.asnumpy().copy() for n, v in kept.items()}
    assert set(learned) == {"gamma", "beta"} and set(kept) == {"running_mean", "running_var"}
    updates: dict[str, Any] = {}
    with autograd.train_mode():
        func.functional_call(net, {**learned, **kept}, Tensor(X), updates=updates)
    np.testing.assert_allclose(updates["running_mean"].asnumpy(), X.mean(0) * 0.1, rtol=1e-4, atol=1e-6)
    assert all(net.collect_params()[n].data().asnumpy().tolist() == before[n].tolist() for n in before)
    with autograd.train_mode():
        net(Tensor(X))
    np.testing.assert_allclose(
        net.running_mean.data().asnumpy(), updates["running_mean"].asnumpy(), rtol=1e-5, atol=1e-7
    )


class Adapted(nn.HybridBlock):
    """Calls a block with parameters that it computes: a step of gradient descent inside of a model."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Dense(1, in_units=3)
        self.rate = nn.Parameter("rate", shape=(1,), init="ones")

    def forward(self, x: Any) -> Any:
        params = {"weight": self.net.weight.data(), "bias": self.net.bias.data()}
        loss = lambda p: (func.functional_call(self.net, p, x) ** 2).sum()  # noqa: E731
        g = func.grad(loss)(params)
        moved = {n: v - self.rate.data() * g[n] for n, v in params.items()}
        return func.functional_call(self.net, moved, x)


def test_a_step_inside_of_a_hybridized_forward_becomes_part_of_the_graph() -> None:
    found = []
    for hybrid in (False, True):
        net = Adapted()
        net.initialize("normal", seed=2)
        net.rate.set_data(np.array([0.01], np.float32))
        if hybrid:
            net.hybridize()
        for _ in range(2):
            with autograd.record():
                y = net(Tensor(X))
            y.backward()
        found.append([y.asnumpy(), *(p.grad().asnumpy() for p in net.collect_params().values())])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_wrong_names_and_shapes_are_explained() -> None:
    with pytest.raises(ConfigError, match=r"no parameter '0.wieght'. Did you mean '0.weight'\?"):
        func.functional_call(network(), {"0.wieght": Tensor(X)}, Tensor(X))
    with pytest.raises(ShapeError, match=r"'0.bias' has shape \(4,\), got \(5,\)"):
        func.functional_call(network(), {"0.bias": Tensor(np.ones(5))}, Tensor(X))
