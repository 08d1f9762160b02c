"""Derivatives of functions, against torch.func."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import func as theirs

from shoal import autograd, func, nn
from shoal import np as mnp
from shoal.errors import AutogradError, ConfigError, DTypeError, ShapeError
from shoal.ops.tensor import Tensor

RNG = np.random.default_rng(3)
W, X, V = RNG.standard_normal((2, 4)), RNG.standard_normal((3, 2)), RNG.standard_normal((2, 4))


def ours_of(xp: Any) -> dict[str, Callable[..., Any]]:
    """The same functions with either library."""
    return {
        "number": lambda w, x: (xp.tanh(x @ w) * xp.exp(-x).sum()).sum(),
        "array": lambda w, x: xp.tanh(x @ w) + xp.sin(w).sum(),
        "tuple": lambda w, x: (x @ w, (w * w).sum()),
    }


OURS, THEIRS = ours_of(mnp), ours_of(torch)


def close(a: Any, b: Any) -> None:
    if isinstance(b, (tuple, list)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            close(x, y)
    elif isinstance(b, dict):
        assert a.keys() == b.keys()
        for k in b:
            close(a[k], b[k])
    else:
        np.testing.assert_allclose(a.asnumpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
        assert a.node is None


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1,), -1])
def test_a_gradient_is_that_of_torch(argnums: Any) -> None:
    found = func.grad(OURS["number"], argnums)(Tensor(W), Tensor(X))
    close(found, theirs.grad(THEIRS["number"], argnums)(torch.tensor(W), torch.tensor(X)))


def test_the_value_and_what_is_returned_besides_come_along() -> None:
    (value, more), g = func.value_and_grad(lambda w: ((w * w).sum(), {"w": w + 1.0}), has_aux=True)(Tensor(W))
    assert value.item() == pytest.approx((W * W).sum()) and g.asnumpy().tolist() == (2 * W).tolist()
    assert more["w"].asnumpy().tolist() == (W + 1.0).tolist() and more["w"].node is None
    assert func.grad(lambda w: ((w * w).sum(), 7), has_aux=True)(Tensor(W))[1] == 7


def test_arguments_may_be_nested() -> None:
    params = {"layers": [(Tensor(W), Tensor(np.ones(4)))], "scale": Tensor(2.0)}
    g = func.grad(lambda p: (Tensor(X) @ p["layers"][0][0] + p["layers"][0][1]).sum() * p["scale"])(params)
    assert g["layers"][0][1].tolist() == [6.0] * 4 and g["scale"].shape == ()
    assert isinstance(g["layers"], list) and isinstance(g["layers"][0], tuple)


def test_keyword_arguments_are_passed_on_and_numbers_and_arrays_are_taken() -> None:
    assert func.grad(lambda x, *, k: x * k)(3.0, k=2.0).item() == 2.0
    assert func.grad(lambda x: (x * x).sum())(np.ones(2)).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_gradients_nest(order: int) -> None:
    ours, other = (lambda x: mnp.sin(x) * x**3), (lambda x: torch.sin(x) * x**3)
    for _ in range(order):
        ours, other = func.grad(ours), theirs.grad(other)
    close(ours(Tensor(1.3)), other(torch.tensor(1.3, dtype=torch.float64)))


def test_an_inner_gradient_does_not_confuse_its_variable_with_the_outer_one() -> None:
    assert func.grad(lambda x: x * func.grad(lambda y: x * y)(2.0))(3.0).item() == 6.0


def test_what_does_not_depend_on_an_argument_has_a_gradient_of_zeros() -> None:
    assert func.grad(lambda x, y: y.sum())(Tensor(X), Tensor(W)).asnumpy().tolist() == np.zeros_like(X).tolist()
    assert func.grad(lambda x: Tensor(1.0))(Tensor(X)).shape == X.shape


def test_a_function_of_functions_leaves_no_trace() -> None:
    x = Tensor(X)
    x.attach_grad()
    func.grad(lambda v: (v * x).sum())(x)
    assert x.grad is not None and not x.grad.asnumpy().any()
    assert not autograd.is_recording() and not autograd.is_training()


def test_a_gradient_inside_record_can_be_differentiated_by_backward() -> None:
    x = Tensor(np.array(2.0))
    x.attach_grad()
    with autograd.record():
        y = func.grad(lambda v: v**3)(x) * 5.0
    y.backward()
    assert x.grad is not None and x.grad.item() == 60.0


@pytest.mark.parametrize("name", ["array", "tuple"])
def test_a_pull_is_that_of_torch_and_can_be_used_again(name: str) -> None:
    value, pull = func.vjp(OURS[name], Tensor(W), Tensor(X))
    expected, back = theirs.vjp(THEIRS[name], torch.tensor(W), torch.tensor(X))
    close(value, expected)
    for _ in range(2):
        g = [RNG.standard_normal(v.shape) for v in (value if isinstance(value, tuple) else [value])]
        ours_g: Any = tuple(Tensor(x) for x in g)
        theirs_g: Any = tuple(torch.tensor(x) for x in g)
        close(pull(ours_g if name == "tuple" else ours_g[0]), back(theirs_g if name == "tuple" else theirs_g[0]))


@pytest.mark.parametrize("name", ["number", "array", "tuple"])
def test_a_push_is_the_jacobian_times_the_direction(name: str) -> None:
    value, slope = func.jvp(OURS[name], (Tensor(W), Tensor(X)), (Tensor(V), Tensor(X * 2.0)))
    expected, wanted = torch.autograd.functional.jvp(
        THEIRS[name], (torch.tensor(W), torch.tensor(X)), (torch.tensor(V), torch.tensor(X * 2.0))
    )
    close(value, expected)
    close(slope, wanted)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize(("name", "argnums"), [("number", 0), ("array", 1), ("array", (0, 1)), ("tuple", 0)])
def test_a_jacobian_is_that_of_torch(name: str, argnums: Any, mode: str) -> None:
    found = func.jacobian(OURS[name], argnums, mode=mode)(Tensor(W), Tensor(X))
    close(found, theirs.jacrev(THEIRS[name], argnums)(torch.tensor(W), torch.tensor(X)))


def test_a_jacobian_in_chunks_is_the_same() -> None:
    whole = func.jacrev(OURS["array"])(Tensor(W), Tensor(X))
    parts = func.jacrev(OURS["array"], chunk_size=5)(Tensor(W), Tensor(X))
    assert whole.asnumpy().tolist() == parts.asnumpy().tolist()
    _, more = func.jacrev(lambda w: (w * 2.0, 5), has_aux=True)(Tensor(W))
    assert more == 5


def test_a_hessian_is_that_of_torch_and_its_product_with_a_vector_needs_no_hessian() -> None:
    h = func.hessian(OURS["number"])(Tensor(W), Tensor(X))
    close(h, theirs.jacrev(theirs.jacrev(THEIRS["number"]))(torch.tensor(W), torch.tensor(X)))
    product = func.hvp(lambda w: OURS["number"](w, Tensor(X)), Tensor(W), Tensor(V))
    np.testing.assert_allclose(product.asnumpy(), np.tensordot(h.asnumpy(), V, 2), rtol=1e-10)
    both = func.hvp(OURS["number"], (Tensor(W), Tensor(X)), (Tensor(V), Tensor(np.zeros_like(X))))
    np.testing.assert_allclose(both[0].asnumpy(), product.asnumpy(), rtol=1e-10)


def test_a_hybridized_block_can_be_differentiated_twice() -> None:
    net = nn.HybridSequential(nn.Dense(4, in_units=2, activation="tanh"), nn.Dense(1, in_units=4))
    net.initialize()
    expected = func.hessian(lambda x: net(x).sum())(Tensor(X[:1].astype(np.float32)))
    net.hybridize()
    found = func.hessian(lambda x: net(x).sum())(Tensor(X[:1].astype(np.float32)))
    np.testing.assert_allclose(found.asnumpy(), expected.asnumpy(), rtol=1e-4, atol=1e-6)


class Slope(nn.HybridBlock):
    """The slope of a function, in the forward of a block: as in physics-informed networks."""

    def forward(self, x: Any) -> Any:
        return func.grad(lambda v: mnp.sin(v * v).sum())(x)


def test_a_gradient_in_a_hybridized_forward_becomes_part_of_the_graph() -> None:
    net, x = Slope(), Tensor(X)
    expected = net(x).asnumpy()
    net.hybridize()
    x.attach_grad()
    for _ in range(2):
        with autograd.record():
            y = net(x)
        y.backward()
        np.testing.assert_allclose(y.asnumpy(), expected, rtol=1e-12)
        assert x.grad is not None
        second = 2 * np.cos(X * X) - 4 * X * X * np.sin(X * X)
        np.testing.assert_allclose(x.grad.asnumpy(), second, rtol=1e-10)


def test_wrong_uses_are_explained() -> None:
    with pytest.raises(ShapeError, match=r"one number.* got shape \(3, 2\)"):
        func.grad(lambda x: x * 2.0)(Tensor(X))
    with pytest.raises(DTypeError, match="argument 0 holds int64"):
        func.grad(lambda x: x.sum())(Tensor(np.arange(3)))
    with pytest.raises(ConfigError, match="names argument 2, but there are 1"):
        func.grad(lambda x: x.sum(), 2)(Tensor(X))
    with pytest.raises(ConfigError, match="must return a pair"):
        func.grad(lambda x: x.sum(), has_aux=True)(Tensor(X))
    with pytest.raises(ShapeError, match=r"cotangent of shape \(\), but the value has shape \(3, 2\)"):
        func.vjp(lambda x: x * 2.0, Tensor(X))[1](Tensor(1.0))
    with pytest.raises(ConfigError, match="tuples"):
        func.jvp(lambda x: x, Tensor(X), Tensor(X))  # type: ignore[arg-type]
    with pytest.raises(AutogradError, match=r"use func.grad\(function\)"):
        autograd.grad(lambda x: x)
    with pytest.raises(ConfigError, match="'reverse' or 'forward'"):
        func.jacobian(lambda x: x, mode="sideways")
