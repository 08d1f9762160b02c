"""The GPU kernels of normalization and of sums over rows, run on the CPU."""

from typing import Any

import numpy as np
import pytest

from shoal.ops.gpu import emulate
from shoal.ops.gpu.kernels import norm
from tests.ops.gpu.running import FLOATS, HALVES, check, close, drawn, in_every_order, needs_compiler, placed, wide

pytestmark = needs_compiler
XP = emulate.NAMESPACE


@pytest.mark.parametrize("dtype", FLOATS)
def test_standardize_and_its_gradient_are_those_of_float64(dtype: Any) -> None:
    for shape, axis in [((5, 7), -1), ((3, 64), (-1,)), ((2, 3, 1032), -1), ((2, 4, 6), (-2, -1))]:
        x = drawn(shape, dtype) + dtype(3)
        y, inv = check("standardize", x, axis=axis, eps=1e-3, factor=2.0)
        check("standardize_grad", drawn(shape, inv.dtype, seed=1), y, inv, axis=axis, factor=4.0)


def test_two_passes_keep_the_variance_of_numbers_far_from_zero() -> None:
    check("standardize", drawn((4, 500), np.float32, scale=1.0) + np.float32(1000), factor=200.0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "to"), [((70, 33), (33,)), ((6, 20, 9), (1, 9)), ((3, 5), (1, 5)), ((999, 3), (3,))])
def test_sums_over_rows_are_those_of_float64(dtype: Any, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
    check("sum_to", drawn(shape, dtype), shape=to)


def test_sums_over_other_axes_have_no_kernel() -> None:
    from shoal.ops.gpu.kernels.table import In, bound

    x = In((4, 5, 6), np.dtype(np.float32))
    for shape in [(4, 1, 6), (5, 1), (1, 1, 1), (4, 5, 6)]:
        assert bound(XP, "sum_to", [x], {"shape": shape}) is None


def layer(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * gamma + beta


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
@pytest.mark.parametrize(("rows", "n"), [(3, 20), (40, 64), (2, 1030), (2, 2048)])
def test_residual_and_layer_norm_and_their_gradients_are_those_of_float64(dtype: Any, rows: int, n: int) -> None:
    x, r, g, other = (drawn((rows, n), dtype, seed=i) for i in range(4))
    gamma, beta = drawn((n,), np.float32, seed=5), drawn((n,), np.float32, seed=6)

    def run() -> list[np.ndarray]:
        y, total, mean, inverse = norm.residual_norm(XP, placed(x), gamma, beta, placed(r), eps=1e-3)
        grads = norm.residual_norm_grad(XP, placed(g), total, gamma, mean, inverse, placed(other))
        alone = norm.residual_norm_grad(XP, placed(g), total, gamma, mean, inverse)[0]
        return [y, total, *grads, alone]

    y, total, dx, dgamma, dbeta, alone = in_every_order(run)
    s, G = wide(total), wide(g)
    close(total, wide(x) + wide(r))
    close(y, layer(s, wide(gamma), wide(beta), 1e-3), 2.0)
    centred = s - s.mean(-1, keepdims=True)
    inv = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)
    xh, h = centred * inv, G * wide(gamma)
    expected = inv * (h - h.mean(-1, keepdims=True) - xh * (h * xh).mean(-1, keepdims=True))
    close(alone, expected, 4.0)
    close(dx, expected + wide(other), 4.0)
    close(dgamma, (G * xh).sum(0), 4.0)
    close(dbeta, G.sum(0), 4.0)


def test_layer_norm_without_a_residual_is_that_of_x() -> None:
    x, one, zero = drawn((5, 48), np.float32), np.ones(48, np.float32), np.zeros(48, np.float32)
    y, total, _, _ = norm.residual_norm(XP, x, one, zero)
    assert total is x
    close(y, layer(wide(x), wide(one), wide(zero), 1e-5))


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
@pytest.mark.parametrize(("rows", "n"), [(3, 20), (40, 64), (2, 2048)])
def test_rms_norm_and_its_gradients_are_those_of_float64(dtype: Any, rows: int, n: int) -> None:
    x, g, gamma = drawn((rows, n), dtype), drawn((rows, n), dtype, seed=1), drawn((n,), np.float32, seed=2)

    def run() -> list[np.ndarray]:
        y, inverse = norm.rms_norm(XP, placed(x), gamma, eps=1e-4)
        return [y, *norm.rms_norm_grad(XP, placed(g), placed(x), gamma, inverse)]

    y, dx, dgamma = in_every_order(run)
    X, h = wide(x), wide(g) * wide(gamma)
    inv = 1 / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-4)
    close(y, X * inv * wide(gamma), 2.0)
    close(dx, inv * (h - X * (h * X).mean(-1, keepdims=True) * inv**2), 4.0)
    close(dgamma, (wide(g) * X * inv).sum(0), 4.0)
