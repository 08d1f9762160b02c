"""Gradients through hybridized blocks: several runs alive at once, second derivatives, what is not wanted."""

from typing import Any

import numpy as np
import pytest

from shoal import init, nn
from shoal.errors import AutogradError, ConfigError
from shoal.ops import autograd, random
from shoal.ops.tensor import Tensor, array
from tests.graph.hybrids import MODELS, floats, initialized, lenet, mlp


def test_two_forwards_before_a_backward_keep_their_own_values() -> None:
    make, data = MODELS["lenet"]
    grads = []
    for hybrid in (False, True):
        net, rng = initialized(make, hybrid), np.random.default_rng(2)
        for round_ in range(3):  # the first runs rehearse
            random.set_address(seed=1, step=round_)
            one, two = data(rng), data(rng)
            for x in (one, two):
                x.attach_grad()
            with autograd.record():
                a, b = (net(one) ** 2).sum(), (net(two) ** 2).sum()
            b.backward()
            a.backward()
            grads += [one.grad.asnumpy().copy(), two.grad.asnumpy().copy()]  # type: ignore[union-attr]
    half = len(grads) // 2
    assert all(a.tobytes() == b.tobytes() for a, b in zip(grads[:half], grads[half:], strict=True))


def test_many_runs_alive_at_once_have_their_own_memory() -> None:
    net = initialized(mlp, True)
    xs = [Tensor(np.full((2, 4), float(i), dtype="float32")) for i in range(8)]
    for x in xs:
        x.attach_grad()
    with autograd.record():
        losses = [(net(x) ** 2).sum() for x in xs]
    for loss in losses:
        loss.backward()
    for x in xs:
        again = Tensor(x.asnumpy())
        again.attach_grad()
        with autograd.record():
            (initialized(mlp, False)(again) ** 2).sum().backward()
        np.testing.assert_array_equal(x.grad.asnumpy(), again.grad.asnumpy())  # type: ignore[union-attr]


def test_a_retained_graph_can_be_gone_through_again() -> None:
    net = initialized(lenet, True)
    x = floats(2, 1, 12, 12)(np.random.default_rng(0))
    x.attach_grad()
    for _ in range(3):
        with autograd.record():
            y = (net(x) ** 2).sum()
        y.backward(retain_graph=True)
        one = x.grad.asnumpy().copy()  # type: ignore[union-attr]
        y.backward(retain_graph=True)
        y.backward()
        np.testing.assert_array_equal(one, x.grad.asnumpy())  # type: ignore[union-attr]


def test_a_freed_graph_is_named() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    with autograd.record():
        y = net(x)
    y.backward()
    with pytest.raises(AutogradError, match="the graph of HybridSequential"):
        y.backward()


def test_outputs_stay_what_they_were() -> None:
    net = initialized(mlp, True)
    rng = np.random.default_rng(0)
    kept = [net(floats(2, 4)(rng)) for _ in range(4)]
    before = [k.asnumpy().copy() for k in kept]
    for _ in range(3):
        net(floats(2, 4)(rng))
    assert all(np.array_equal(k.asnumpy(), b) for k, b in zip(kept, before, strict=True))
    assert len({b.tobytes() for b in before}) == 4


def test_memory_is_used_again_by_the_next_step() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    for _ in range(5):
        with autograd.record():
            y = net(x).sum()
        y.backward()
        del y
    assert net._compiled is not None
    (found,) = net._compiled.traces.values()
    (compiled,) = found.programs.values()
    assert len(compiled.program._code.pool) == 1
    assert 0 < compiled.program.plan.size_bytes < compiled.program.plan.unshared_bytes


def test_gradients_can_be_added_or_left_out() -> None:
    net = initialized(mlp, True)
    first_, last = net[0].weight, net[2].weight
    first_.grad_req, last.grad_req = "add", "null"
    x = floats(2, 4)(np.random.default_rng(0))
    for _ in range(2):
        with autograd.record():
            net(x).sum().backward()
    once = first_.grad().asnumpy() / 2
    with pytest.raises(ConfigError, match="has no gradient"):
        last.grad()
    first_.grad_req = "write"
    with autograd.record():
        net(x).sum().backward()
    np.testing.assert_allclose(first_.grad().asnumpy(), once, rtol=1e-6)


def test_only_wanted_gradients_are_computed() -> None:
    net = initialized(mlp, True)
    x = floats(2, 4)(np.random.default_rng(0))
    net(x)
    net.setattr("grad_req", "null")
    net[2].bias.grad_req = "write"
    with autograd.record():
        net(x).sum().backward()
    assert net._compiled is not None
    programs = [p for t in net._compiled.traces.values() for p in t.programs.values()]
    backward = [p.program for p in programs if p.differentiable]
    assert [len(p._code.backward_steps) for p in backward] == [1]


def test_grad_of_some_variables_works_through_a_graph() -> None:
    results = []
    for hybrid in (False, True):
        net = initialized(mlp, hybrid)
        x = floats(2, 4)(np.random.default_rng(0))
        x.attach_grad()
        with autograd.record():
            y = (net(x * 1.5) ** 2).sum()
        results.append(autograd.grad(y, [x, net[1].weight.data()]))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())


def test_second_derivatives_through_a_graph() -> None:
    results = []
    for hybrid in (False, True):
        net = initialized(mlp, hybrid)
        x = floats(2, 4)(np.random.default_rng(0))
        x.attach_grad()
        for _ in range(2):
            with autograd.record():
                y = (net(x) ** 2).sum()
                (dx,) = autograd.grad(y, [x], create_graph=True)
                z = (dx * dx).sum()
            z.backward()
        results.append([x.grad.asnumpy(), net[0].weight.grad().asnumpy()])  # type: ignore[union-attr]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_second_derivatives_with_dropout_use_the_mask_of_the_forward_pass() -> None:
    results = []
    for hybrid in (False, True):
        net = nn.HybridSequential(nn.Dense(16, "tanh"), nn.Dropout(0.5), nn.Dense(1))
        net.initialize(init.Xavier(), seed=1)
        if hybrid:
            net.hybridize()
        random.set_address(seed=5, step=0)
        x = floats(3, 4)(np.random.default_rng(0))
        x.attach_grad()
        with autograd.record():
            (dx,) = autograd.grad(net(x).sum(), [x], create_graph=True)
            (dx**2).sum().backward()
        results.append(x.grad.asnumpy())  # type: ignore[union-attr]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-7)


def test_a_gradient_flows_to_all_outputs_and_from_any() -> None:
    class Two(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return x * 2.0, x * x, x > 0.0

    net = Two()
    net.hybridize()
    x = array([1.0, -3.0])
    x.attach_grad()
    for _ in range(3):
        with autograd.record():
            a, b, c = net(x)
        assert c.node is None
        b.backward()
        assert x.grad is not None and x.grad.tolist() == [2.0, -6.0]
        with autograd.record():
            a, b, c = net(x)
            (a + b).backward()
        assert x.grad.tolist() == [4.0, -4.0]


def test_a_flat_path_gives_the_gradient_zero() -> None:
    class Flat(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            from shoal import np as snp

            return snp.floor(x)

    results = []
    for hybrid in (False, True):
        net = Flat()
        if hybrid:
            net.hybridize()
        x = array([1.5])
        x.attach_grad()
        assert x.grad is not None
        x.grad.data[...] = 7.0
        with autograd.record():
            net(x).backward()
        results.append(x.grad.tolist())
    assert results[0] == results[1] == [0.0]
