"""`grad_req`, `retain_graph`, `detach`: the same in imperative and hybridized models, and with recomputation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal import autograd, func, nn
from shoal.errors import AutogradError, ConfigError
from shoal.ops.tensor import Tensor

X = Tensor(np.ones((2, 3), np.float32))

MODELS: dict[str, Callable[[], Any]] = {
    "imperative": lambda: nn.HybridSequential(nn.Dense(2, in_units=3, use_bias=False), nn.Dense(1, in_units=2)),
    "checkpoint": lambda: nn.HybridSequential(
        nn.Checkpoint(nn.Dense(2, in_units=3, use_bias=False)), nn.Dense(1, in_units=2)
    ),
}


@pytest.fixture(params=["imperative", "hybrid", "checkpoint", "hybrid checkpoint"])
def net(request: pytest.FixtureRequest) -> Any:
    made = MODELS["checkpoint" if "checkpoint" in request.param else "imperative"]()
    made.initialize(1.0)
    if "hybrid" in request.param:
        made.hybridize()
    return made


def first(net: Any) -> Any:
    """The weight of the first layer."""
    return next(iter(net.collect_params().values()))


def loss_of(net: Any) -> Any:
    with autograd.record():
        return net(X).sum()


def grads(net: Any) -> list[float]:
    return [float(p.grad().asnumpy().sum()) for p in net.collect_params().values() if p.grad_req != "null"]


ONCE = [12.0, 12.0, 2.0]


def test_write_overwrites_and_add_adds_up_over_passes(net: Any) -> None:
    for _ in range(2):
        loss_of(net).backward()
        assert grads(net) == ONCE
    net.setattr("grad_req", "add")
    for n in (1, 2, 3):
        loss_of(net).backward()
        assert grads(net) == [n * g for g in ONCE]
    net.zero_grad()
    assert grads(net) == [0.0, 0.0, 0.0]


def test_one_parameter_may_add_while_the_others_write_or_take_none(net: Any) -> None:
    params = list(net.collect_params().values())
    params[0].grad_req, params[1].grad_req = "add", "null"
    for n in (1, 2):
        loss_of(net).backward()
        assert grads(net) == [n * ONCE[0], ONCE[2]]
    with pytest.raises(ConfigError, match="its grad_req is 'null'"):
        params[1].grad()
    params[1].grad_req = "write"
    loss_of(net).backward()
    assert grads(net) == [3 * ONCE[0], *ONCE[1:]]


def test_null_everywhere_leaves_nothing_to_go_back_over(net: Any) -> None:
    net.setattr("grad_req", "null")
    with pytest.raises(AutogradError, match="was not recorded"):
        loss_of(net).backward()


def test_a_graph_is_kept_if_asked_and_freed_otherwise(net: Any) -> None:
    net.setattr("grad_req", "add")
    loss = loss_of(net)
    loss.backward(retain_graph=True)
    loss.backward()
    assert grads(net) == [2 * g for g in ONCE]
    with pytest.raises(AutogradError, match="was freed by an earlier backward pass"):
        loss.backward()


def test_two_forward_passes_and_two_backward_passes_do_not_disturb_each_other(net: Any) -> None:
    net.setattr("grad_req", "add")
    losses = [loss_of(net), loss_of(net)]
    for loss in reversed(losses):
        loss.backward()
    assert grads(net) == [2 * g for g in ONCE]


def test_what_is_detached_gets_no_gradient(net: Any) -> None:
    with autograd.record():
        y = net(X)
        loss = (y.detach() * 2.0 + y).sum()
    loss.backward()
    assert grads(net) == ONCE


def test_the_gradient_of_a_gradient_goes_to_parameters(net: Any) -> None:
    x = Tensor(X.asnumpy().copy())
    x.attach_grad()
    with autograd.record():
        g = autograd.grad((net(x) ** 2).sum(), x, create_graph=True)
        penalty = (g * g).sum()
    penalty.backward()
    expected = MODELS["imperative"]()
    expected.initialize(1.0)
    with autograd.record():
        h = autograd.grad((expected(x) ** 2).sum(), x, create_graph=True)
        again = (h * h).sum()
    again.backward()
    np.testing.assert_allclose(grads(net), grads(expected), rtol=1e-5)


def test_functions_of_functions_take_the_gradients_of_nobody(net: Any) -> None:
    loss_of(net).backward()
    func.grad(lambda x: net(x).sum())(X)
    func.hessian(lambda x: net(x).sum())(X)
    assert grads(net) == ONCE and first(net).grad_req == "write"
