"""Inverses, determinants and factors of square matrices; batches are leading axes."""

from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.registry import Array, Op, Spec, op


def _square(op: Op[Any], x: Spec) -> Spec:
    specs.require_float(op, "x", x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{op.name}: needs square matrices in the last two axes, got shape {x.shape}")
    return x


def _t(xp: Any, x: Any) -> Any:
    return xp.swapaxes(x, -1, -2)


@op(_square)
def inv(xp: Any, x: Array) -> Any:
    """The inverse matrix.

    Raises:
        LinAlgError: the matrix is singular.
    """
    return xp.linalg.inv(x)


@inv.vjp
def _inv_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    flipped = _t(xp, out)
    return (-xp.matmul(flipped, xp.matmul(g, flipped)),)


def _scalar(op: Op[Any], x: Spec) -> Spec:
    return Spec(_square(op, x).shape[:-2], x.dtype)


@op(_scalar)
def det(xp: Any, x: Array) -> Any:
    """The determinant. Its gradient needs an invertible matrix."""
    return xp.linalg.det(x)


@det.vjp
def _det_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (xp.reshape(g * out, (*g.shape, 1, 1)) * _t(xp, xp.inv(x)),)


def _two_scalars(op: Op[Any], x: Spec) -> tuple[Spec, Spec]:
    return _scalar(op, x), _scalar(op, x)


@op(_two_scalars)
def slogdet(xp: Any, x: Array) -> Any:
    """Sign of the determinant, and the logarithm of its absolute value."""
    sign, logarithm = xp.linalg.slogdet(x)
    return sign, logarithm


@slogdet.vjp
def _slogdet_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (None if g[1] is None else xp.reshape(g[1], (*g[1].shape, 1, 1)) * _t(xp, xp.inv(x)),)


def _solved(op: Op[Any], a: Spec, b: Spec) -> Spec:
    _square(op, a)
    if b.ndim != a.ndim or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError(f"solve: a has shape {a.shape}, so b must have shape {(*a.shape[:-1], 'n')}, got {b.shape}")
    return Spec(b.shape, np.result_type(a.dtype, b.dtype))


@op(_solved)
def solve(xp: Any, a: Array, b: Array) -> Any:
    """The x with a @ x = b.

    Args:
        a: (..., m, m).
        b: (..., m, n).
    Raises:
        LinAlgError: a matrix is singular.
    """
    return xp.linalg.solve(a, b)


@solve.vjp
def _solve_vjp(xp: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    gb = xp.solve(_t(xp, a), g)
    return lambda: -xp.matmul(gb, _t(xp, out)), gb


@op(_square)
def cholesky(xp: Any, x: Array) -> Any:
    """The lower triangular matrix L with L @ L.T = x, for a symmetric positive definite x.

    The gradient is symmetric: it treats x as symmetric.

    Raises:
        LinAlgError: x is not positive definite.
    """
    return xp.linalg.cholesky(x)


@cholesky.vjp
def _cholesky_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    # I. Murray, Differentiation of the Cholesky decomposition, arXiv:1602.07527
    inside = xp.tril(xp.matmul(_t(xp, out), g))
    inside = inside - 0.5 * xp.tril(xp.triu(inside))
    back = xp.inv(out)
    full = xp.matmul(_t(xp, back), xp.matmul(inside, back))
    return (0.5 * (full + _t(xp, full)),)
