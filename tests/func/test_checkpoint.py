"""Recomputation: the same numbers, less memory."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal import autograd, func, nn, random
from shoal import np as mnp
from shoal.errors import AutogradError
from shoal.ops.tensor import Tensor

X = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)


def body() -> nn.HybridSequential:
    return nn.HybridSequential(
        nn.Dense(5, in_units=4, activation="tanh"),
        nn.Dropout(0.5),
        nn.BatchNorm(in_channels=5),
        nn.Dense(4, in_units=5),
    )


def model(wrap: Callable[[Any], Any]) -> nn.HybridSequential:
    net = nn.HybridSequential(wrap(body()), wrap(body()))
    net.initialize("normal", seed=3)
    return net


def trained(net: Any, x: Tensor, steps: int = 2) -> list[Any]:
    """Outputs, gradients and statistics after some passes at the same place of the run."""
    found = []
    for step in range(steps):
        random.set_address(seed=5, worker=0, step=step)
        with autograd.record():
            y = net(x)
            loss = (y * y).sum()
        drawn = random.address().drawn
        loss.backward()
        assert random.address().drawn == drawn
        found.append(y.asnumpy().copy())
    params = net.collect_params().values()
    found += [p.data().asnumpy() for p in params]
    found += [p.grad().asnumpy() for p in params if p.grad_req != "null"]
    assert x.grad is not None
    return [*found, x.grad.asnumpy()]


def variable() -> Tensor:
    x = Tensor(X.copy())
    x.attach_grad()
    return x


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_network_of_checkpoints_trains_to_the_same_bits_with_dropout_and_running_statistics(hybrid: bool) -> None:
    plain, wrapped = model(lambda b: b), model(nn.Checkpoint)
    values = {n.replace("body.", ""): p for n, p in wrapped.collect_params().items()}
    for name, p in plain.collect_params().items():
        values[name].set_data(p.data())
    if hybrid:
        wrapped.hybridize()
    for a, b in zip(trained(plain, variable()), trained(wrapped, variable()), strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_hybridized_block_inside_a_checkpoint_is_recomputed_as_a_graph() -> None:
    plain, inner = body(), body()
    plain.initialize("normal", seed=3)
    inner.initialize("normal", seed=3)
    inner.hybridize()
    net = nn.Sequential(nn.Checkpoint(inner))
    for a, b in zip(trained(plain, variable()), trained(net, variable()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_nothing_inside_is_kept_between_forward_and_backward() -> None:
    kept: list[Any] = []

    def inside(x: Any) -> Any:
        y = mnp.exp(x)
        kept.append(weakref.ref(y.data))
        return (y * y).sum()

    x = variable()
    with autograd.record():
        y = autograd.checkpoint(inside, x)
    gc.collect()
    assert kept[0]() is None
    y.backward()
    assert len(kept) == 2 and x.grad is not None
    np.testing.assert_allclose(x.grad.asnumpy(), 2 * np.exp(2 * X), rtol=1e-5)


def test_tensors_that_are_used_without_being_given_get_their_gradient_once() -> None:
    w = Tensor(np.array(3.0))
    w.attach_grad()
    with autograd.record():
        a = w * 2.0  # older than the checkpoint, and itself computed from w, which is used too
        y = autograd.checkpoint(lambda v: v * a * w, w)  # w * 2w * w
    y.backward()
    assert w.grad is not None and w.grad.item() == 6 * 9.0


def test_several_results_some_of_which_nobody_uses() -> None:
    x = variable()
    with autograd.record():
        out = autograd.checkpoint(lambda v: {"a": v * 2.0, "b": (v * 3.0, 7), "c": Tensor(np.ones(2))}, x)
        loss = out["b"][0].sum()
    loss.backward()
    assert out["b"][1] == 7 and out["c"].node is None
    assert x.grad is not None and (x.grad.asnumpy() == 3.0).all()


def test_checkpoints_nest_and_can_be_differentiated_twice() -> None:
    def outer(x: Any) -> Any:
        return autograd.checkpoint(lambda v: mnp.sin(v) * v, x) ** 2

    for f in (outer, lambda x: autograd.checkpoint(outer, x)):
        x = Tensor(np.array(1.2))
        x.attach_grad()
        with autograd.record():
            first = autograd.grad(f(x), x, create_graph=True)
            second = autograd.grad(first, x)
        expected = func.grad(func.grad(lambda v: (mnp.sin(v) * v) ** 2))(np.array(1.2))
        assert second.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_checkpoint_inside_functions_of_functions() -> None:
    f = lambda x: autograd.checkpoint(lambda v: mnp.tanh(v).sum(), x)  # noqa: E731
    np.testing.assert_allclose(func.grad(f)(Tensor(X)).asnumpy(), 1 - np.tanh(X) ** 2, rtol=1e-5)
    each = func.vmap(func.grad(f))(Tensor(X)).asnumpy()
    np.testing.assert_allclose(each, 1 - np.tanh(X) ** 2, rtol=1e-5)


def test_gradients_arrive_at_parameters_as_soon_as_they_are_final() -> None:
    net, order = model(nn.Checkpoint), []
    for p in net.collect_params().values():
        if p.grad_req != "null":
            p.register_post_accumulate_grad_hook(lambda q: order.append(q.name))
    with autograd.record():
        loss = net(Tensor(X)).sum()
    loss.backward()
    assert [n[0] for n in order] == ["1"] * 6 + ["0"] * 6


def test_a_function_that_returns_something_else_the_second_time_is_refused() -> None:
    shapes = iter([(24,), (6, 4)])
    x = variable()
    with autograd.record():
        y = autograd.checkpoint(lambda v: v.reshape(next(shapes)) * 2.0, x)
    with pytest.raises(AutogradError, match="must return the same"):
        y.backward()


def test_without_recording_it_just_calls() -> None:
    assert autograd.checkpoint(lambda x, *, k: x * k, variable(), k=2.0).node is None


def planned(net: nn.HybridSequential) -> int:
    """Bytes of the arena of a training step."""
    net.hybridize()
    x = Tensor(np.ones((64, 32), np.float32))
    x.attach_grad()
    for _ in range(3):
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
    assert net._compiled is not None
    (found,) = net._compiled.traces.values()
    (program,) = found.programs.values()
    return program.program.plan.size_bytes


def test_a_graph_of_checkpoints_needs_less_memory() -> None:
    def layers() -> nn.HybridSequential:
        return nn.HybridSequential(*[nn.Dense(32, in_units=32, activation="gelu") for _ in range(4)])

    def model_of(wrap: Callable[[Any], Any]) -> nn.HybridSequential:
        net = nn.HybridSequential(*[wrap(layers()) for _ in range(4)])
        net.initialize("normal", seed=1)
        return net

    plain, wrapped = planned(model_of(lambda b: b)), planned(model_of(nn.Checkpoint))
    assert wrapped < 0.6 * plain


class Outer(nn.HybridBlock):
    def forward(self, x: Any) -> Any:
        inside = lambda v: autograd.checkpoint(lambda u: mnp.exp(u) * u, v) ** 2  # noqa: E731
        return autograd.checkpoint(inside, x) + func.grad(lambda v: autograd.checkpoint(inside, v).sum())(x)


def test_checkpoints_in_a_graph_nest_and_have_gradients_inside_and_outside() -> None:
    found = []
    for hybrid in (False, True):
        net, x = Outer(), Tensor(np.array([0.3, -0.7]))
        x.attach_grad()
        if hybrid:
            net.hybridize()
        for _ in range(2):
            with autograd.record():
                y = net(x)
            y.backward()
        assert x.grad is not None
        found.append((y.asnumpy(), x.grad.asnumpy()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
