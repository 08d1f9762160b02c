"""Hooks on the backward pass of blocks, against PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch

from shoal import autograd, nn
from shoal.errors import GraphError, ShapeError
from shoal.ops.tensor import Tensor

X = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)


def network(hybrid: bool = False) -> nn.HybridSequential:
    net = nn.HybridSequential(nn.Dense(4, in_units=2, activation="tanh"), nn.Dense(1, in_units=4))
    net.initialize("normal", seed=1)
    if hybrid:
        net.hybridize()
    return net


def torch_network(net: nn.HybridSequential) -> Any:
    made = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh()), torch.nn.Sequential(torch.nn.Linear(4, 1))
    )
    with torch.no_grad():
        for i in (0, 1):
            made[i][0].weight[...] = torch.tensor(net[i].weight.data().asnumpy())
            made[i][0].bias[...] = torch.tensor(net[i].bias.data().asnumpy())
    return made


def variable() -> Tensor:
    x = Tensor(X.copy())
    x.attach_grad()
    return x


def test_a_hook_sees_what_torch_shows_and_the_last_layer_comes_first() -> None:
    net, ours, theirs = network(), [], []
    other = torch_network(net)
    for i in (0, 1):
        net[i].register_backward_hook(lambda b, gi, go: ours.append([g.asnumpy().copy() for g in (*gi, *go)]))
        other[i].register_full_backward_hook(lambda b, gi, go: theirs.append([g.numpy().copy() for g in (*gi, *go)]))
    with autograd.record():
        y = net(variable()).sum()
    y.backward()
    other(torch.tensor(X, requires_grad=True)).sum().backward()
    assert [len(call) for call in ours] == [2, 2]
    for a, b in zip(ours, theirs, strict=True):
        for p, q in zip(a, b, strict=True):
            np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_hook_may_return_other_gradients_also_on_the_outermost_hybridized_block(hybrid: bool) -> None:
    net, x = network(hybrid), variable()
    plain = []
    for factor in (1.0, 10.0):
        handle = net.register_backward_hook(lambda b, gi, go, f=factor: tuple(g * f for g in gi))
        with autograd.record():
            y = net(x).sum()
        y.backward()
        handle.detach()
        assert x.grad is not None
        plain.append((x.grad.asnumpy().copy(), net[0].weight.grad().asnumpy().copy()))
    np.testing.assert_allclose(plain[1][0], 10 * plain[0][0], rtol=1e-5)
    np.testing.assert_allclose(plain[1][1], plain[0][1], rtol=1e-6)


def test_a_pre_hook_changes_what_flows_into_the_block() -> None:
    net, x = network(), variable()
    with autograd.record():
        y = net(x).sum()
    y.backward()
    assert x.grad is not None
    before = x.grad.asnumpy().copy(), net[1].bias.grad().asnumpy().copy()
    net[1].register_backward_pre_hook(lambda b, go: tuple(g * 3.0 for g in go))
    with autograd.record():
        y = net(x).sum()
    y.backward()
    np.testing.assert_allclose(x.grad.asnumpy(), 3 * before[0], rtol=1e-5)
    np.testing.assert_allclose(net[1].bias.grad().asnumpy(), 3 * before[1], rtol=1e-5)


def test_a_block_on_data_without_a_gradient_is_told_too() -> None:
    net, seen = network(), []
    net[0].register_backward_hook(lambda b, gi, go: seen.append((gi, go[0].shape)))
    with autograd.record():
        y = net(Tensor(X)).sum()
    y.backward()
    assert seen == [((None,), (3, 4))]


class Pair(nn.Block):
    def forward(self, x: Any, scale: float, more: Any) -> Any:
        return x * scale, {"sum": x + more}


def test_nested_results_of_which_some_are_not_used() -> None:
    net, seen = Pair(), []
    net.register_backward_hook(lambda b, gi, go: seen.append((gi, go)))
    x = variable()
    with autograd.record():
        a, _ = net(x, 2.0, Tensor(X))
        loss = a.sum()
    loss.backward()
    ((gi, go),) = seen
    assert [g is None for g in gi] == [False, True, True] and [g is None for g in go] == [False, True]
    assert (gi[0].asnumpy() == 2.0).all() and (go[0].asnumpy() == 1.0).all()


def test_hooks_take_part_in_higher_derivatives() -> None:
    net = Pair()
    net.register_backward_hook(lambda b, gi, go: (gi[0] * gi[0], *gi[1:]))
    x = Tensor(np.array([3.0]))
    x.attach_grad()
    with autograd.record():
        y, _ = net(x, 1.0, x * 0.0)
        first = autograd.grad(y * y, x, create_graph=True)  # (2x)^2
        second = autograd.grad(first, x)
    assert first.tolist() == [36.0] and second.tolist() == [576.0]  # the hook squares the second one, 8x, too


def test_a_hook_inside_of_a_graph_is_refused_with_the_reason() -> None:
    net = network(hybrid=True)
    net[1].register_backward_hook(lambda b, gi, go: None)
    with pytest.raises(GraphError, match="a graph calls no Python in its backward pass"):
        net(Tensor(X))
    net.hybridize(strict=False)
    with pytest.warns(RuntimeWarning, match="runs imperatively"):
        net(Tensor(X))


def test_wrong_shapes_from_a_hook_are_refused() -> None:
    net = network()
    net.register_backward_hook(lambda b, gi, go: (gi[0].sum(),))
    with autograd.record():
        y = net(variable()).sum()
    with pytest.raises(ShapeError, match=r"was given gradients of shape \[\(3, 2\)\] and returned \[\(\)\]"):
        y.backward()


def test_a_removed_hook_and_a_pass_without_recording_cost_nothing() -> None:
    net = network()
    net.register_backward_hook(lambda b, gi, go: None).detach()
    assert not net._backward_hooks and net(Tensor(X)).node is None
