"""NumPy 2's rules for mixed dtypes (NEP 50), on arrays of every dtype, shape and memory order."""

import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal import autograd
from shoal import np as snp
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor

DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]
OPERATORS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow, "<": operator.lt, "==": operator.eq, "&": operator.and_,
    "|": operator.or_, "^": operator.xor, "<<": operator.lshift, ">>": operator.rshift,
}  # fmt: skip
NUMBERS = [True, 2, -1, 300, 2.5, np.float64(2.5), np.float32(2.5), np.int8(3), np.uint8(200), np.bool_(True)]


def values(dtype: str, shape: tuple[int, ...] = (2, 3)) -> Any:
    rng = np.random.default_rng(abs(hash(shape)) % 1000)
    return rng.integers(0, 2, shape).astype(bool) if dtype == "bool" else rng.integers(1, 7, shape).astype(dtype)


def outcome(f: Any, a: Any, b: Any) -> Any:
    """What comes out, or the kind of error."""
    with np.errstate(all="ignore"):
        try:
            return f(a, b)
        except OverflowError:
            return OverflowError
        except (TypeError, ValueError) as error:  # ours for dtypes that an operator does not take is a TypeError, too
            return ValueError if isinstance(error, ValueError) else TypeError


def check(found: Any, expected: Any) -> None:
    if isinstance(expected, type):
        assert found is expected
        return
    assert type(found) is Tensor and (found.shape, found.dtype) == (np.shape(expected), expected.dtype)
    np.testing.assert_array_equal(found.asnumpy(), expected)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("a", DTYPES)
def test_two_arrays(name: str, a: str) -> None:
    f = OPERATORS[name]
    for b in DTYPES:
        x, y = values(a), values(b, (3,))
        expected = outcome(f, x, y)
        for left, right in ((Tensor(x), Tensor(y)), (Tensor(x), y), (x, Tensor(y))):
            check(outcome(f, left, right), expected)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("a", DTYPES)
def test_an_array_and_a_number_on_either_side(name: str, a: str) -> None:
    f = OPERATORS[name]
    for number in NUMBERS:
        x = values(a)
        if (name, a) == ("**", "bool"):  # NumPy's operator takes short cuts here whose dtypes differ from power's
            f = np.power
        check(outcome(f, Tensor(x), number), outcome(f, x, number))
        check(outcome(f, number, Tensor(x)), outcome(f, number, x))


@pytest.mark.parametrize("a", DTYPES)
@pytest.mark.parametrize("b", DTYPES)
def test_functions_of_several_arrays(a: str, b: str) -> None:
    x, y = values(a), values(b)
    for f in (np.maximum, np.hypot, np.where, np.concatenate, np.logaddexp):
        ours = getattr(snp, f.__name__)
        if f is np.where:
            check(ours(Tensor(x > 2), Tensor(x), Tensor(y)), f(x > 2, x, y))
        elif f is np.concatenate:
            check(ours([Tensor(x), Tensor(y)]), f([x, y]))
        elif f is np.maximum or "bool" not in (a, b):
            with np.errstate(all="ignore"):
                check(ours(Tensor(x), Tensor(y)), f(x, y))


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "max", "min", "cumsum", "cumprod", "any", "all", "var", "std"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions(name: str, dtype: str) -> None:
    x = values(dtype)
    with np.errstate(all="ignore"):
        expected = np.asarray(getattr(np, name)(x, axis=0))
        found = getattr(snp, name)(Tensor(x), axis=0)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.asnumpy(), expected, rtol=2e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("name", ["sqrt", "exp", "sin", "floor", "rint", "sign", "abs", "negative", "square", "invert",
                                  "isnan", "logical_not", "reciprocal", "arctan", "cbrt", "log1p"])  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_one_array(name: str, dtype: str) -> None:
    x = values(dtype)
    found, expected = (
        outcome(lambda f, v: f(v), f, v) for f, v in ((getattr(snp, name), Tensor(x)), (getattr(np, name), x))
    )
    check(found, expected)


def test_a_number_that_does_not_fit_is_numpys_error() -> None:
    with pytest.raises(OverflowError):
        snp.ones(2, dtype="uint8") + 300
    with pytest.raises(OverflowError):
        snp.ones(2, dtype="uint8") + -1
    with np.errstate(all="ignore"):
        assert (snp.ones(2, dtype="float16") * 1e5).tolist() == [float("inf")] * 2


@pytest.mark.parametrize("a", DTYPES)
def test_a_graph_has_the_same_dtypes(a: str) -> None:
    def program(x: Any, y: Any) -> Any:
        return x + y, x * 2, x / 2, x - 1.5 * y, snp.sum(x, axis=0), snp.where(x > 1, x, 0), snp.maximum(x, y)

    for b in ("int8", "uint16", "float16", "float32", "float64"):
        x, y = Tensor(values(a)), Tensor(values(b))
        for eager, compiled in zip(program(x, y), Compiled(program, "program")(x, y), strict=True):
            check(compiled, eager.asnumpy())


# -- shapes and memory


def strided(x: Any, how: int) -> Any:
    """The same values in another memory order."""
    if how == 1:
        return np.asfortranarray(x)
    if how == 2:
        wide = np.zeros((*x.shape, 2), x.dtype)
        wide[..., 0] = x
        return wide[..., 0]
    return x[::-1][::-1] if how == 3 and x.ndim else x


@settings(max_examples=150)
@given(st.data())
def test_any_two_shapes_that_broadcast_in_any_memory_order(data: Any) -> None:
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, min_dims=0, max_dims=4, min_side=0, max_side=3))
    how, dtype = data.draw(st.integers(0, 3)), data.draw(st.sampled_from(["float32", "float64", "int16"]))
    a, b = (strided(values(dtype, s), how) for s in shapes.input_shapes)
    x, y = Tensor(a), Tensor(b)
    if dtype != "int16":
        x.attach_grad()
        y.attach_grad()
    with autograd.record():
        out = x * y + x
        total = out.sum()
    check(out, np.asarray(a * b + a))
    if dtype != "int16":
        total.backward()
        assert x.grad is not None and y.grad is not None
        ones = np.ones(shapes.result_shape, dtype)
        for grad, full, shape in ((x.grad, (b + 1) * ones, a.shape), (y.grad, a * ones, b.shape)):
            lead = full.ndim - len(shape)
            axes = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 != full.shape[i + lead]))
            np.testing.assert_allclose(grad.asnumpy(), full.sum(axis=axes).reshape(shape), rtol=1e-5)


@settings(max_examples=100)
@given(st.data())
def test_reductions_over_any_axes_of_any_shape(data: Any) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
    axis = data.draw(st.one_of(st.none(), hnp.valid_tuple_axes(len(shape))))
    keepdims, how = data.draw(st.booleans()), data.draw(st.integers(0, 3))
    x = strided(values("float64", shape), how)
    for name in ("sum", "prod", "any", "all", "count_nonzero"):
        expected = np.asarray(getattr(np, name)(x, axis=axis, keepdims=keepdims))
        check(getattr(snp, name)(Tensor(x), axis=axis, keepdims=keepdims), expected)
    if 0 not in shape:
        for name in ("max", "min"):
            check(
                getattr(snp, name)(Tensor(x), axis=axis, keepdims=keepdims), getattr(np, name)(x, axis, None, keepdims)
            )
        found = snp.mean(Tensor(x), axis=axis, keepdims=keepdims)
        np.testing.assert_allclose(found.asnumpy(), np.mean(x, axis=axis, keepdims=keepdims), rtol=1e-12)


def test_large_arrays() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((3000, 700)).astype(np.float32)
    x = Tensor(a)
    check(x + 1, a + np.float32(1))
    check(x.T[::3], a.T[::3])
    np.testing.assert_allclose(x.sum(axis=0).asnumpy(), a.astype(np.float64).sum(0), rtol=1e-4, atol=1e-4)
    assert snp.argmax(x).item() == a.argmax() and snp.count_nonzero(x > 0).item() == (a > 0).sum()
    check(x[x > 3.0], a[a > 3.0])
