"""Hooks: on tensors, on parameters; and what errors of a backward pass say."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from shoal import autograd, linalg, nn
from shoal.errors import AutogradError, ShapeError
from shoal.ops import elementwise as F
from shoal.ops.tensor import Tensor


def variable(*values: float) -> Tensor:
    x = Tensor(np.array(values))
    x.attach_grad()
    return x


def gradient(x: Tensor) -> list[float]:
    assert x.grad is not None
    return list(x.grad.asnumpy())


def test_a_hook_sees_the_whole_gradient_of_a_tensor_that_is_used_twice_also_before_it_was_registered() -> None:
    x, seen = variable(1.0, 2.0), []
    t = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    with autograd.record():
        y = x * 2.0
        z = y * 3.0
        y.register_hook(lambda g: seen.append(g.asnumpy().tolist()))
        z = z + y * y
    z.backward()
    theirs: list[Any] = []
    u = t * 2.0
    w = u * 3.0
    u.register_hook(lambda g: theirs.append(g.tolist()))
    (w + u * u).sum().backward()
    assert seen == theirs and t.grad is not None
    assert gradient(x) == t.grad.tolist()


def test_what_a_hook_returns_takes_the_place_of_the_gradient() -> None:
    x = variable(1.0, 2.0)
    with autograd.record():
        y = x * 2.0
        y.register_hook(lambda g: g * 10.0)
        y.register_hook(lambda g: g + 1.0)
        z = y * 1.0
    z.backward()
    assert gradient(x) == [22.0, 22.0]


def test_a_hook_on_a_variable_runs_before_delivery_and_can_be_removed() -> None:
    x = variable(3.0)
    handle = x.register_hook(lambda g: -g)
    for expected in (-6.0, 6.0):
        with autograd.record():
            y = x * x
        y.backward()
        assert gradient(x) == [expected]
        handle.remove()


def test_a_hook_on_one_of_several_outputs_sees_that_one() -> None:
    x, seen = variable(1.0, 2.0, 3.0, 4.0), []
    with autograd.record():
        a, b = x.split(2)
        b.register_hook(lambda g: seen.append(g.asnumpy().tolist()))
        z = a * 2.0 + b * 3.0
    z.backward()
    assert seen == [[3.0, 3.0]] and gradient(x) == [2.0, 2.0, 3.0, 3.0]


def test_a_hook_of_another_shape_is_refused() -> None:
    x = variable(1.0, 2.0)
    with autograd.record():
        y = x * 2.0
    y.register_hook(lambda g: g.sum())
    with pytest.raises(ShapeError, match=r"gradient of shape \(2,\) and returned one of shape \(\)"):
        y.backward()


def test_a_hook_on_a_constant_is_refused() -> None:
    with pytest.raises(AutogradError, match="would never be called"):
        Tensor(np.ones(2)).register_hook(lambda g: None)


def test_a_hook_takes_part_in_higher_derivatives() -> None:
    x = variable(3.0)
    with autograd.record():
        y = x * x
        y.register_hook(lambda g: g * 2.0)
        (first,) = autograd.grad(y * 1.0, [x], create_graph=True)
        second = autograd.grad(first, x)
    assert first.item() == 12.0 and second.item() == 4.0


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_parameter_calls_when_its_gradient_is_in_its_buffer_and_the_last_layers_come_first(hybrid: bool) -> None:
    net = nn.HybridSequential(nn.Dense(3, in_units=2), nn.Dense(1, in_units=3))
    net.initialize(1.0)
    if hybrid:
        net.hybridize()
    order: list[Any] = []
    for p in net.collect_params().values():
        p.register_post_accumulate_grad_hook(lambda q: order.append((q.name, float(q.grad().asnumpy().sum()))))
    for _ in range(2):
        order.clear()
        with autograd.record():
            loss = net(Tensor(np.ones((4, 2), np.float32))).sum()
        loss.backward()
        assert [n[0] for n, _ in order] == ["1", "1", "0", "0"]
        assert dict(order) == {n: float(p.grad().asnumpy().sum()) for n, p in net.collect_params().items()}


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_hook_on_a_parameter_changes_what_is_delivered_and_stays_after_a_change_of_dtype(hybrid: bool) -> None:
    net = nn.Dense(1, in_units=2, use_bias=False)
    net.initialize(1.0)
    handle = net.weight.register_hook(lambda g: g * 3.0)
    handle.detach()
    handle = net.weight.register_hook(lambda g: g * 2.0)
    for dtype in ("float32", "float64"):
        net.cast(dtype)
        if hybrid:
            net.hybridize()
        with autograd.record():
            y = net(Tensor(np.ones((1, 2), dtype)))
        y.backward()
        assert net.weight.grad().asnumpy().tolist() == [[2.0, 2.0]]
    copied = copy.deepcopy(net)
    handle.detach()
    for block, expected in ((net, 1.0), (copied, 1.0)):
        with autograd.record():
            y = block(Tensor(np.ones((1, 2))))
        y.backward()
        assert block.weight.grad().asnumpy().tolist() == [[expected, expected]]


def test_a_pass_for_some_variables_does_not_go_into_what_is_older_than_they_are() -> None:
    x = variable(2.0)
    with autograd.record():
        y = x * x
    y.backward()  # frees what y was computed from
    v = variable(5.0)
    with autograd.record():
        z = v * y
    assert autograd.grad(z, v).tolist() == [4.0]


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def test_an_error_of_shapes_names_the_operator_both_shapes_and_the_line() -> None:
    with pytest.raises(ShapeError, match=r"add: shapes \(2,\) and \(3,\)") as caught:
        F.add(Tensor(np.ones(2)), Tensor(np.ones(3)))  # this line
    assert "test_hooks.py" in notes(caught.value) and "# this line" in notes(caught.value)


def test_an_error_of_values_names_the_operator_its_shapes_and_the_line() -> None:
    with pytest.raises(np.linalg.LinAlgError) as caught:
        linalg.inv(Tensor(np.zeros((2, 2))))  # nothing to invert
    assert "operator 'inv' of (2, 2) float64" in notes(caught.value) and "# nothing to invert" in notes(caught.value)


class Bad(autograd.Function):
    def forward(self, x: Any) -> Any:
        return x * 2.0

    def backward(self, g: Any) -> Any:
        raise ZeroDivisionError("by me")


def test_an_error_in_a_backward_pass_names_the_operator_its_shapes_and_the_line_of_the_forward() -> None:
    x = variable(1.0, 2.0)
    with autograd.record():
        y = Bad()(x)  # here it was called
    with pytest.raises(ZeroDivisionError) as caught:
        y.backward()
    assert "operator 'Bad' of (2,) float64 that gave (2,)" in notes(caught.value)
    assert "# here it was called" in notes(caught.value)


class Wrong(nn.HybridBlock):
    def forward(self, x: Any, y: Any) -> Any:
        return x @ y + 1.0  # two that do not fit


class Takes(nn.HybridBlock):
    def forward(self, x: Any, i: Any) -> Any:
        return x.take(i, axis=0)  # out of range


def test_an_error_while_a_model_is_traced_points_at_the_line() -> None:
    net = Wrong()
    net.hybridize()
    with pytest.raises(ShapeError) as caught:
        net(Tensor(np.ones((2, 3))), Tensor(np.ones((2, 3))))
    assert "(2, 3)" in str(caught.value) and "# two that do not fit" in notes(caught.value)


def test_an_error_while_a_graph_runs_names_the_operator_and_the_line_of_the_forward() -> None:
    net = Takes()
    net.hybridize()
    x = Tensor(np.ones((3, 2), np.float32))
    net(x, Tensor(np.array([1])))
    for _ in range(2):
        with pytest.raises(IndexError) as caught:
            net(x, Tensor(np.array([7])))
        assert "operator 'take' of (3, 2) float32, (1,) int64" in notes(caught.value)
        assert "# out of range" in notes(caught.value)
