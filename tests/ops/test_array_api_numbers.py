"""Functions of the array API standard give the numbers of NumPy."""

import math
from typing import Any

import numpy as np
import pytest

from shoal.ops import array_api as xp
from shoal.ops.tensor import Tensor
from tests.ops.array_api_names import BITS, FLOAT_PAIRS, FLOATS, LOGIC, NUMBERS, PAIRS, REAL, WHOLE, arrays, found, same


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", FLOATS + NUMBERS + ["signbit"])
def test_functions_of_a_float_array(name: str, dtype: str) -> None:
    a = arrays(dtype)[0]
    a = a / 7 if name in ("acos", "asin", "atanh") else a
    same(found(name)(Tensor(a)), getattr(np, name)(a))


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("name", [*NUMBERS, "bitwise_invert"])
def test_functions_of_an_integer_array_give_its_dtype(name: str, dtype: str) -> None:
    a = arrays(dtype)[0]
    expected = a if name in ("ceil", "floor", "round", "trunc") else getattr(np, name)(a)  # NumPy 2.0 makes floats here
    same(found(name)(Tensor(a)), expected)
    if not name.startswith("is"):
        assert found(name)(Tensor(a)).dtype == dtype


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("name", FLOAT_PAIRS + PAIRS)
def test_functions_of_two_float_arrays_or_one_and_a_number(name: str, dtype: str) -> None:
    a, b = arrays(dtype)
    same(found(name)(Tensor(a), Tensor(b)), getattr(np, name)(a, b))
    same(found(name)(Tensor(a), 2.0), getattr(np, name)(a, a.dtype.type(2)))
    same(found(name)(2, Tensor(b)), getattr(np, name)(a.dtype.type(2), b))


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("name", PAIRS + BITS)
def test_functions_of_two_integer_arrays_or_one_and_a_number(name: str, dtype: str) -> None:
    a, b = arrays(dtype)
    same(found(name)(Tensor(a), Tensor(b)), getattr(np, name)(a, b))
    same(found(name)(Tensor(a), 2), getattr(np, name)(a, a.dtype.type(2)))


@pytest.mark.parametrize("name", [*LOGIC, "equal", "not_equal", "bitwise_and", "bitwise_or", "bitwise_xor"])
def test_functions_of_booleans(name: str) -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    same(found(name)(Tensor(a), Tensor(b)), getattr(np, name)(a, b))
    same(found(name)(Tensor(a), True), getattr(np, name)(a, True))
    same(xp.logical_not(Tensor(a)), ~a)
    same(xp.bitwise_invert(Tensor(a)), ~a)


@pytest.mark.parametrize("a", ["bool", *WHOLE, *REAL, "complex64", "complex128"])
@pytest.mark.parametrize("b", ["bool", *WHOLE, *REAL, "complex64", "complex128"])
def test_promotion_is_numpys_wherever_the_standard_defines_it(a: str, b: str) -> None:
    x, y = xp.ones(2, dtype=getattr(xp, a)), xp.ones(2, dtype=getattr(xp, b))
    expected = np.result_type(a, b)
    assert xp.result_type(x, y) == xp.result_type(x, getattr(xp, b)) == expected
    if (a, b) != ("bool", "bool"):
        assert (x + y).dtype == (x * y).dtype == xp.where(x == x, x, y).dtype == expected
        assert xp.concat([x, y]).dtype == xp.stack([x, y]).dtype == expected


@pytest.mark.parametrize("dtype", [*WHOLE, *REAL, "bool"])
def test_sums_and_products_of_narrow_integers_are_of_64_bits(dtype: str) -> None:
    a = (arrays("float64")[0] > 3) if dtype == "bool" else arrays(dtype)[0]
    for axis in (None, 0, (0, 1)):
        if dtype != "bool":
            same(xp.prod(Tensor(a), axis=axis), np.prod(a, axis=axis), 1e-5)
            same(xp.sum(Tensor(a), axis=axis, keepdims=True), np.sum(a, axis=axis, keepdims=True), 1e-5)
    if dtype != "bool":
        same(xp.cumulative_sum(Tensor(a), axis=1), np.cumsum(a, axis=1), 1e-5)
        same(xp.sum(Tensor(a), dtype=xp.float64), np.sum(a, dtype="float64"))
    same(xp.count_nonzero(Tensor(a), axis=0), np.count_nonzero(a, axis=0))
    same(xp.any(Tensor(a), axis=0), np.any(a, axis=0))
    same(xp.all(Tensor(a)), np.all(a))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_statistics(dtype: str, axis: Any, keepdims: bool) -> None:
    a = arrays(dtype)[0]
    for name in ("mean", "max", "min", "sum", "prod"):
        same(found(name)(Tensor(a), axis=axis, keepdims=keepdims), getattr(np, name)(a, axis=axis, keepdims=keepdims))
    for correction in (0.0, 1, 0.5):
        for name in ("std", "var"):
            expected = getattr(np, name)(a, axis=axis, ddof=correction, keepdims=keepdims)
            same(found(name)(Tensor(a), axis=axis, correction=correction, keepdims=keepdims), expected, 1e-5)


def test_running_results() -> None:
    a = arrays("float64")[0]
    with_zero = np.concatenate([np.zeros((3, 1)), np.cumsum(a, 1)], axis=1)
    same(xp.cumulative_sum(Tensor(a), axis=1, include_initial=True), with_zero)
    with_one = np.concatenate([np.ones((1, 4)), np.cumprod(a, 0)])
    same(xp.cumulative_prod(Tensor(a), axis=0, include_initial=True), with_one)
    same(xp.cumulative_sum(Tensor(a[0]), dtype=xp.float32), np.cumsum(a[0], dtype="float32"))


X = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)


PLACES = np.array([[[1], [2], [0]]])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: xp.concat([x, x], axis=1), np.concatenate([X, X], axis=1)),
        (lambda x: xp.concat([x, x], axis=None), np.concatenate([X, X], axis=None)),
        (lambda x: xp.stack([x, x], axis=-1), np.stack([X, X], axis=-1)),
        (lambda x: xp.unstack(x, axis=1)[2], X[:, 2]),
        (lambda x: xp.expand_dims(x, axis=1), X[:, None]),
        (lambda x: xp.expand_dims(x), X[None]),
        (lambda x: xp.squeeze(x[:1], 0), X[0]),
        (lambda x: xp.flip(x), np.flip(X)),
        (lambda x: xp.flip(x, axis=1), np.flip(X, 1)),
        (lambda x: xp.moveaxis(x, 0, -1), np.moveaxis(X, 0, -1)),
        (lambda x: xp.permute_dims(x, (2, 0, 1)), X.transpose(2, 0, 1)),
        (lambda x: xp.repeat(x, 2, axis=1), np.repeat(X, 2, 1)),
        (lambda x: xp.repeat(x, xp.asarray([1, 0, 2]), axis=1), np.repeat(X, [1, 0, 2], 1)),
        (lambda x: xp.repeat(x, 2), np.repeat(X, 2)),
        (lambda x: xp.reshape(x, (4, -1)), X.reshape(4, -1)),
        (lambda x: xp.roll(x, (1, 2), axis=(0, 2)), np.roll(X, (1, 2), (0, 2))),
        (lambda x: xp.roll(x, 5), np.roll(X, 5)),
        (lambda x: xp.tile(x, (2, 1, 1)), np.tile(X, (2, 1, 1))),
        (lambda x: xp.tile(x, (2,)), np.tile(X, (2,))),
        (lambda x: xp.broadcast_to(x, (2, 2, 3, 4)), np.broadcast_to(X, (2, 2, 3, 4))),
        (lambda x: xp.broadcast_arrays(x, x[0, 0])[1], np.broadcast_to(X[0, 0], X.shape)),
        (lambda x: xp.tril(x, k=-1), np.tril(X, -1)),
        (lambda x: xp.triu(x, k=1), np.triu(X, 1)),
        (lambda x: xp.take(x, xp.asarray([2, 0]), axis=1), X[:, [2, 0]]),
        (lambda x: xp.take(x[0, 0], xp.asarray([2, 0])), X[0, 0, [2, 0]]),
        (lambda x: xp.take_along_axis(x, xp.asarray(PLACES)), np.take_along_axis(X, PLACES, -1)),
        (lambda x: xp.argmax(x, axis=1, keepdims=True), np.argmax(X, 1, keepdims=True)),
        (lambda x: xp.argmin(x), np.argmin(X)),
        (lambda x: xp.nonzero(x)[2], np.nonzero(X)[2]),
        (lambda x: xp.where(x > 3, x, 0.0), np.where(X > 3, X, np.float32(0))),
        (lambda x: xp.searchsorted(x[0, 0], xp.asarray([1.5, 2.0]), side="right"), np.array([2, 3])),
        (lambda x: xp.sort(x, axis=0, descending=True), X[::-1]),
        (lambda x: xp.argsort(x[0, :, :1] * 0, axis=0, descending=True), np.arange(3)[:, None]),
        (lambda x: xp.isin(x, xp.asarray([2.0, 5.0])), np.isin(X, [2, 5])),
        (lambda x: xp.isin(x, xp.asarray([2.0, 5.0]), invert=True), np.isin(X, [2, 5], invert=True)),
        (lambda x: xp.diff(x, axis=1, n=2), np.diff(X, 2, 1)),
        (lambda x: xp.diff(x, prepend=x[..., :1]), np.diff(X, prepend=X[..., :1])),
        (lambda x: xp.diff(x, append=x[..., -1:]), np.diff(X, append=X[..., -1:])),
        (lambda x: xp.clip(x, 3, 7.5), np.clip(X, 3, 7.5)),
        (lambda x: xp.clip(x, max=x[0]), np.minimum(X, X[0])),
        (lambda x: xp.clip(x), X),
        (lambda x: xp.astype(x, xp.int8), X.astype("int8")),
        (lambda x: xp.matmul(x, xp.matrix_transpose(x)), X @ X.swapaxes(1, 2)),
        (lambda x: xp.tensordot(x, x, axes=((1, 2), (1, 2))), np.tensordot(X, X, ((1, 2), (1, 2)))),
        (lambda x: xp.vecdot(x, x, axis=1), (X * X).sum(1)),
        (lambda x: xp.meshgrid(x[0, 0], x[0, 1], indexing="ij")[0], np.meshgrid(X[0, 0], X[0, 1], indexing="ij")[0]),
        (lambda x: xp.zeros_like(x, dtype=xp.int16), np.zeros_like(X, "int16")),
        (lambda x: xp.ones_like(x), np.ones_like(X)),
        (lambda x: xp.full_like(x, 2), np.full_like(X, 2)),
        (lambda x: xp.empty_like(x) * 0, X * 0),
        (lambda x: xp.linalg.trace(x, offset=1, dtype=xp.float64), np.trace(X.astype("f8"), 1, 1, 2)),
        (lambda x: xp.linalg.diagonal(x, offset=-1), np.diagonal(X, -1, 1, 2)),
        (lambda x: xp.linalg.vector_norm(x, axis=(0, 2), ord=1), np.abs(X).sum((0, 2))),
        (lambda x: xp.linalg.matrix_norm(x), np.linalg.norm(X, axis=(1, 2))),
        (lambda x: xp.linalg.outer(x[0, 0], x[0, 1]), np.outer(X[0, 0], X[0, 1])),
        (lambda x: xp.linalg.cross(x[:, :, :1], x[:, :, 1:2], axis=1), np.cross(X[:, :, :1], X[:, :, 1:2], axis=1)),
        (lambda x: xp.fft.irfft(xp.fft.rfft(x)), X),
        (lambda x: xp.real(xp.fft.ifftn(xp.fft.fftn(x))), X),
        (lambda x: xp.fft.ifftshift(xp.fft.fftshift(x, axes=1), axes=1), X),
    ],
)  # fmt: skip
def test_functions_that_move_find_and_multiply(ours: Any, theirs: Any) -> None:
    same(ours(Tensor(X.copy())), theirs, 1e-5)


def test_linear_algebra_gives_the_named_parts() -> None:
    rng = np.random.default_rng(2)
    a = rng.standard_normal((2, 3, 3))
    p = a @ a.swapaxes(1, 2) + 3 * np.eye(3)
    x, y = Tensor(a), Tensor(p)
    w, v = xp.linalg.eigh(y)
    same((v * w[:, None, :]) @ v.mT, p)
    u, s, vh = xp.linalg.svd(x, full_matrices=False)
    same((u * s[:, None, :]) @ vh, a)
    q, r = xp.linalg.qr(x)
    same(q @ r, a)
    lower = xp.linalg.cholesky(y)
    same(lower @ lower.mT, p)
    same(xp.linalg.cholesky(y, upper=True).mT, lower.asnumpy())
    found_ = xp.linalg.slogdet(x)
    same(found_.sign * xp.exp(found_.logabsdet), np.linalg.det(a))
    same(xp.linalg.inv(x) @ x, np.broadcast_to(np.eye(3), (2, 3, 3)))
    same(xp.linalg.solve(x, xp.matmul(x, y)), p)
    same(xp.linalg.pinv(x, rtol=1e-9), np.linalg.pinv(a))
    same(xp.linalg.matrix_power(x, 3), a @ a @ a)
    assert xp.linalg.matrix_rank(x).tolist() == [3, 3]
    same(xp.linalg.svdvals(x), np.linalg.svd(a, compute_uv=False))
    same(xp.linalg.eigvalsh(y), np.linalg.eigvalsh(p))


def test_sets_have_named_parts_and_every_nan_for_itself() -> None:
    x = xp.asarray([3.0, 1.0, math.nan, 3.0, math.nan])
    everything = xp.unique_all(x)
    assert everything.values.shape == (4,) and everything.counts.tolist() == [1, 2, 1, 1]
    assert xp.take(x, everything.indices).tolist()[:2] == [1.0, 3.0]
    assert everything.inverse_indices.shape == x.shape
    assert xp.unique_counts(x).counts.tolist() == [1, 2, 1, 1]
    assert xp.unique_inverse(x[:2]).inverse_indices.tolist() == [1, 0]
    assert xp.unique_values(x[:2]).tolist() == [1.0, 3.0]
