"""`vmap`: axes, nesting, gradients inside, random numbers, what it refuses."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import func as theirs

from shoal import autograd, func, nn, npx, random
from shoal import np as mnp
from shoal.errors import AutogradError, ConfigError, ShapeError
from shoal.ops import specs
from shoal.ops.func import rules
from shoal.ops.registry import OPS, Array, op
from shoal.ops.tensor import Tensor

RNG = np.random.default_rng(5)
X, Y = RNG.standard_normal((3, 4, 2)), RNG.standard_normal((3, 2))


def equal(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a.asnumpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (1, None), (-1, None), (None, 1), ((1), 1), (2, 1)])
@pytest.mark.parametrize("out_axes", [0, 1, -1])
def test_axes_are_those_of_torch(in_axes: Any, out_axes: int) -> None:
    x, y = (RNG.standard_normal((2, 2, 2)) for _ in range(2))
    ours = func.vmap(lambda a, b: mnp.tanh(a) @ b, in_axes, out_axes)(Tensor(x), Tensor(y))
    equal(ours, theirs.vmap(lambda a, b: torch.tanh(a) @ b, in_axes, out_axes)(torch.tensor(x), torch.tensor(y)))


@settings(max_examples=30)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.data())
def test_nested_maps_are_an_outer_product(shape: list[int], data: st.DataObject) -> None:
    i, j = data.draw(st.integers(0, len(shape) - 1)), data.draw(st.integers(0, len(shape) - 1))
    x, y = RNG.standard_normal(shape), RNG.standard_normal(shape)
    out = func.vmap(lambda a: func.vmap(lambda b: a.sum() * b.sum(), j)(Tensor(y)), i, 0)(Tensor(x))
    others = [tuple(k for k in range(len(shape)) if k != axis) for axis in (i, j)]
    np.testing.assert_allclose(out.asnumpy(), np.outer(x.sum(others[0]), y.sum(others[1])), rtol=1e-10)


def test_arguments_and_results_may_be_nested_and_constant_results_are_repeated() -> None:
    def one(p: Any, x: Any, *, k: float) -> Any:
        return {"y": x @ p["w"] + p["b"], "k": Tensor(k)}, None

    p = {"w": Tensor(X), "b": Tensor(np.ones(2))}
    (out, none) = func.vmap(one, ({"w": 0, "b": None}, None))(p, Tensor(np.ones(4)), k=2.0)
    assert out["y"].shape == (3, 2) and out["k"].tolist() == [2.0, 2.0, 2.0] and none is None
    np.testing.assert_allclose(out["y"].asnumpy(), X.sum(1) + 1.0)


def test_gradients_of_each_example_are_those_of_torch() -> None:
    w = RNG.standard_normal((2, 5))

    def loss(w: Any, x: Any, xp: Any) -> Any:
        return (xp.tanh(x @ w) ** 2).sum()

    ours = func.vmap(func.grad(lambda w, x: loss(w, x, mnp)), (None, 0))(Tensor(w), Tensor(X))
    equal(ours, theirs.vmap(theirs.grad(lambda w, x: loss(w, x, torch)), (None, 0))(torch.tensor(w), torch.tensor(X)))


def test_hessians_jacobians_and_pushes_of_each_example() -> None:
    def one(x: Any, xp: Any) -> Any:
        return xp.sin(x).prod() * x[0]

    ours = func.vmap(func.hessian(lambda x: one(x, mnp)))(Tensor(Y))
    expected = theirs.vmap(theirs.jacrev(theirs.jacrev(lambda x: one(x, torch))))(torch.tensor(Y))
    equal(ours, expected)
    forward = func.vmap(func.jacfwd(func.jacrev(lambda x: one(x, mnp))))(Tensor(Y))
    equal(forward, expected)
    along = func.vmap(lambda x, v: func.jvp(lambda z: one(z, mnp), (x,), (v,))[1])(Tensor(Y), Tensor(Y))
    np.testing.assert_allclose(
        along.asnumpy(), (func.vmap(func.grad(lambda x: one(x, mnp)))(Tensor(Y)).asnumpy() * Y).sum(1)
    )


def test_the_gradient_of_a_map_is_the_sum_over_its_examples() -> None:
    w = Tensor(RNG.standard_normal(2))
    g = func.grad(lambda w: func.vmap(lambda x: mnp.exp(x @ w).sum())(Tensor(X)).sum())(w)
    direct = func.grad(lambda w: mnp.exp(Tensor(X) @ w).sum())(w)
    np.testing.assert_allclose(g.asnumpy(), direct.asnumpy(), rtol=1e-12)


def test_a_gradient_through_gradients_of_each_example() -> None:
    """The gradient of the sum of the squared norms of per-example gradients, as in gradient penalties."""

    def penalty(w: Any, xp: Any, lib: Any, x: Any) -> Any:
        g = lib.vmap(lib.grad(lambda w, x: xp.tanh(x @ w).sum()), (None, 0))(w, x)
        return (g * g).sum()

    w = RNG.standard_normal((2, 3))
    ours = func.grad(lambda v: penalty(v, mnp, func, Tensor(X)))(Tensor(w))
    equal(ours, theirs.grad(lambda v: penalty(v, torch, theirs, torch.tensor(X)))(torch.tensor(w)))


def test_gradients_of_each_example_of_a_convolutional_network_are_those_of_a_loop() -> None:
    net = nn.HybridSequential(
        nn.Conv2D(4, 3, in_channels=1, padding=1, activation="relu"),
        nn.MaxPool2D(2),
        nn.GroupNorm(2, in_channels=4),
        nn.Flatten(),
        nn.Dense(3, in_units=4 * 2 * 2),
    )
    net.initialize(seed=1)
    net.cast("float64")
    params, _ = func.parameters_of(net)
    x, y = Tensor(RNG.standard_normal((5, 1, 4, 4))), Tensor(np.array([0, 2, 1, 1, 0]))

    def loss(p: Any, x: Any, y: Any) -> Any:
        return npx.softmax_cross_entropy(func.functional_call(net, p, x[None]), y[None]).sum()

    each = func.vmap(func.grad(loss), (None, 0, 0))(params, x, y)
    for i in range(5):
        for name, g in func.grad(loss)(params, x[i], y[i]).items():
            np.testing.assert_allclose(each[name].asnumpy()[i], g.asnumpy(), rtol=1e-9, atol=1e-12)


def test_an_ensemble_is_a_map_over_parameters() -> None:
    nets = [nn.Dense(3, in_units=2) for _ in range(4)]
    for i, net in enumerate(nets):
        net.initialize("normal", seed=i)
    stacked = {n: mnp.stack([func.parameters_of(net)[0][n] for net in nets]) for n in ("weight", "bias")}
    x = Tensor(Y.astype(np.float32))
    out = func.vmap(lambda p: func.functional_call(nets[0], p, x))(stacked)
    for i, net in enumerate(nets):
        np.testing.assert_allclose(out.asnumpy()[i], net(x).asnumpy(), rtol=1e-5, atol=1e-6)


class PairwiseDistances(nn.HybridBlock):
    def forward(self, x: Any) -> Any:
        return func.vmap(lambda a: func.vmap(lambda b: ((a - b) ** 2).sum())(x))(x)


def test_a_map_in_a_hybridized_forward_becomes_part_of_the_graph() -> None:
    net, x = PairwiseDistances(), Tensor(Y)
    expected = net(x).asnumpy()
    net.hybridize()
    x.attach_grad()
    for _ in range(2):
        with autograd.record():
            out = net(x)
        out.backward()
        assert out.asnumpy().tolist() == expected.tolist()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.asnumpy(), 4 * (3 * Y - Y.sum(0)), rtol=1e-10)


def test_assignment_to_a_part_of_each_example_has_a_gradient() -> None:
    def one(x: Any, y: Any) -> Any:
        z = x * 1.0
        z[0] = y * 3.0
        z[1:] += 1.0
        return z

    x, y = Tensor(X), Tensor(Y)
    out = func.vmap(one)(x, y)
    expected = X.copy()
    expected[:, 0], expected[:, 1:] = 3.0 * Y, X[:, 1:] + 1.0
    np.testing.assert_allclose(out.asnumpy(), expected)
    g = func.grad(lambda y: func.vmap(one)(x, y).sum())(y)
    assert (g.asnumpy() == 3.0).all()
    assert x.asnumpy().tolist() == X.tolist()

    def outer(a: Any) -> Any:
        total = a * 1.0

        def inner(b: Any) -> Any:
            total[0] = b
            return b

        return func.vmap(inner)(a)

    with pytest.raises(AutogradError, match="of an inner vmap to a part of"):
        func.vmap(outer)(y)


def test_loops_run_under_a_map_and_a_choice_by_a_value_of_each_example_is_refused() -> None:
    def summed(a: Any) -> Any:
        out, state = npx.foreach(lambda d, s: (d + s, d * s), a, mnp.ones((2,), dtype="float64"))
        return out.sum() + state.sum()

    x = Tensor(X)
    each, slopes = func.vmap(summed)(x), func.vmap(func.grad(summed))(x)
    for i in range(3):
        np.testing.assert_allclose(each.asnumpy()[i], summed(x[i]).asnumpy())
        np.testing.assert_allclose(slopes.asnumpy()[i], func.grad(summed)(x[i]).asnumpy())
    with pytest.raises(AutogradError, match="needs the truth value"):
        func.vmap(lambda a: npx.cond(a.sum() > 0, lambda v: v, lambda v: -v, a))(x)


def test_chunks_give_the_same() -> None:
    one = lambda x, w: mnp.tanh(x @ w).sum()  # noqa: E731
    whole = func.vmap(one, (0, None))(Tensor(X), Tensor(np.ones(2)))
    parts = func.vmap(one, (0, None), chunk_size=2)(Tensor(X), Tensor(np.ones(2)))
    assert whole.tolist() == parts.tolist()


def test_dropout_draws_for_each_example_or_once_or_is_refused() -> None:
    x = Tensor(np.ones((4, 50)))
    drop = lambda v: npx.dropout(v, 0.5, mode="always")  # noqa: E731
    with pytest.raises(AutogradError, match="randomness='different'"):
        func.vmap(drop)(x)
    random.seed(1)
    different = func.vmap(drop, randomness="different")(x).asnumpy()
    same = func.vmap(drop, randomness="same")(x).asnumpy()
    assert len({tuple(row) for row in different}) == 4 and len({tuple(row) for row in same}) == 1
    random.seed(1)
    assert func.vmap(drop, randomness="different")(x).asnumpy().tolist() == different.tolist()


class Doubled(autograd.Function):
    def forward(self, x: Any) -> Any:
        return x * 2.0

    def backward(self, g: Any) -> Any:
        return g * 20.0


def test_a_custom_function_is_applied_to_each_example() -> None:
    out, pull = func.vjp(func.vmap(lambda x: Doubled()(x).sum()), Tensor(Y))
    assert out.tolist() == (2 * Y).sum(1).tolist()
    assert pull(Tensor(np.ones(3)))[0].tolist() == np.full_like(Y, 20.0).tolist()
    jac = func.jacrev(lambda x: Doubled()(x))(Tensor(np.ones(2)))
    assert jac.tolist() == [[20.0, 0.0], [0.0, 20.0]]


def test_an_operator_without_a_rule_goes_through_the_examples_and_says_so_once() -> None:
    @op(infer=specs.same)
    def only_for_this_test(xp: Any, x: Array) -> Any:
        """Its input, sorted."""
        return xp.sort(x)

    try:
        with pytest.warns(RuntimeWarning, match="'only_for_this_test' has no rule for batches"):
            out = func.vmap(lambda x: only_for_this_test(x))(Tensor(np.array([[3.0, 1.0], [2.0, 5.0]])))
        assert out.tolist() == [[1.0, 3.0], [2.0, 5.0]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            empty = func.vmap(lambda x: only_for_this_test(x))(Tensor(np.ones((0, 2))))
        assert empty.shape == (0, 2)
    finally:
        del OPS["only_for_this_test"]
        rules._said.discard("only_for_this_test")


def test_wrong_uses_are_explained() -> None:
    x = Tensor(X)
    with pytest.raises(ShapeError, match=r"3 examples in value 0, 4 examples in value 1"):
        func.vmap(lambda a, b: a)(x, Tensor(np.ones(4)))
    with pytest.raises(ShapeError, match="no axis 3"):
        func.vmap(lambda a: a, 3)(x)
    with pytest.raises(ConfigError, match="None for all"):
        func.vmap(lambda a: a, None)(x)
    with pytest.raises(ConfigError, match="2 entries for 1 arguments"):
        func.vmap(lambda a: a, (0, 0))(x)
    with pytest.raises(ConfigError, match="of type float, which has no batch"):
        func.vmap(lambda a, b: a * b)(x, 2.0)
    with pytest.raises(ConfigError, match="out_axes is None"):
        func.vmap(lambda a: a, out_axes=None)(x)
    with pytest.raises(ConfigError, match="randomness must be"):
        func.vmap(lambda a: a, randomness="perhaps")
    with pytest.raises(AutogradError, match=r"test_vmap.py.*needs the truth value.*each may have another"):
        func.vmap(lambda a: a if a.sum() > 0 else -a)(x)
    kept: list[Any] = []
    func.vmap(lambda a: kept.append(a) or a)(x)  # type: ignore[func-returns-value]
    with pytest.raises(AutogradError, match="a vmap that has ended"):
        _ = kept[0] + 1.0
