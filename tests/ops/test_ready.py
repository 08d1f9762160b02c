"""Leaves that say when their gradient is there: in what order, and that no gradient changes."""

from functools import partial
from typing import Any

import pytest

from shoal import autograd, np
from shoal.ops.tape import Leaf
from shoal.ops.tensor import Tensor, array


def variable(*values: float, req: str = "write") -> Tensor:
    x = array(list(values), dtype="float64")
    x.attach_grad(req)
    return x


def gradient(x: Tensor) -> Any:
    assert x.grad is not None
    return x.grad.asnumpy().tolist()


def heard(*named: tuple[str, Tensor]) -> list[str]:
    """Names of the tensors in the order in which their gradients become final, filled by backward passes to come."""
    log: list[str] = []
    for name, x in named:
        leaf = x.node
        assert type(leaf) is Leaf
        leaf.ready = partial(log.append, name)
    return log


def test_a_gradient_is_announced_when_nothing_more_can_be_added_to_it() -> None:
    first, shared, last = variable(2.0), variable(2.0), variable(2.0)
    log = heard(("first", first), ("shared", shared), ("last", last))
    with autograd.record():
        loss = (((first * 1.0) * shared) * shared) * last
    loss.backward()
    assert log == ["last", "shared", "first"]
    assert [gradient(x) for x in (first, shared, last)] == [[8.0], [16.0], [8.0]]


@pytest.mark.parametrize("announced", [False, True])
def test_announcing_changes_no_gradient(announced: bool) -> None:
    x, y = variable(1.5, -2.0, req="add"), variable(0.5, 3.0)
    log = heard(("x", x), ("y", y)) if announced else []
    with autograd.record():
        loss = (x * y + np.sign(x) * y + x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert gradient(x) == [3.0, 8.0] and gradient(y) == [2.5, -3.0]
    assert sorted(log) == (["x", "x", "y", "y"] if announced else [])


def test_a_variable_behind_a_flat_function_is_announced_with_zero() -> None:
    x = variable(2.0)
    log = heard(("x", x))
    with autograd.record():
        loss = np.sign(x)
    loss.backward()
    assert log == ["x"] and gradient(x) == [0.0]


def test_a_head_that_is_a_variable_itself_is_announced() -> None:
    x = variable(2.0)
    log = heard(("x", x))
    with autograd.record():
        y = x * 3.0
    autograd.backward([x, y])
    assert log == ["x"] and gradient(x) == [4.0]


def test_gradients_that_are_returned_are_not_announced() -> None:
    x = variable(2.0)
    log = heard(("x", x))
    with autograd.record():
        y = x * x
        (first,) = autograd.grad(y, [x], create_graph=True)
    assert log == []
    first.backward()
    assert log == ["x"] and gradient(x) == [2.0]
