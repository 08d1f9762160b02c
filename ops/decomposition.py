"""Inverses, determinants and factors of square matrices; batches are leading axes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.errors import DTypeError, ShapeError
from shoal.ops import specs
from shoal.ops.precision import is_half
from shoal.ops.registry import Array, Op, Spec, op


def require_factorable(op: Op[Any], name: str, x: Spec) -> None:
    """Raise unless ``x`` holds matrices of floats that LAPACK takes."""
    specs.require_float(op, name, x)
    if is_half(x.dtype):
        raise DTypeError(f"{op.name}: {x.dtype} is too coarse for {name}; use astype('float32')")
    if x.ndim < 2:
        raise ShapeError(f"{op.name}: {name} must have matrices in its last two axes, got shape {x.shape}")


def guarded(name: str, function: Callable[..., Any], x: Any, *others: Any, advice: str) -> Any:
    """``function(x, *others)`` of NumPy's linear algebra, with an error that says which matrix is at fault, and why.

    Raises:
        LinAlgError: there is no result.
    """
    try:
        return function(x, *others)
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(f"{name}: {_culprit(x)}: {error}; {advice}") from None


def _culprit(x: Any) -> str:
    """Which of a batch of matrices is not finite, or singular, in words."""
    batch = x.reshape(-1, *x.shape[-2:])
    finite = np.isfinite(batch).all(axis=(-2, -1))
    if not finite.all():
        bad, what = int(np.flatnonzero(~finite)[0]), "has elements that are not finite"
    elif x.shape[-1] == x.shape[-2] and len(singular := np.flatnonzero(np.linalg.slogdet(batch)[0] == 0)):
        bad, what = int(singular[0]), "is singular"
    else:
        return f"an array of shape {x.shape}"
    if x.ndim == 2:
        return f"the matrix of shape {x.shape} {what}"
    place = tuple(int(i) for i in np.unravel_index(bad, x.shape[:-2]))
    return f"matrix {place} of an array of shape {x.shape} {what}"


def square(op: Op[Any], x: Spec) -> Spec:
    """A rule: like x, which must be square matrices of floats."""
    require_factorable(op, "x", x)
    if x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"{op.name}: needs square matrices in the last two axes, got shape {x.shape}")
    return x


def _t(xp: Any, x: Any) -> Any:
    return xp.swapaxes(x, -1, -2)


@op(square)
def inv(xp: Any, x: Array) -> Any:
    """The inverse matrix.

    Raises:
        LinAlgError: the matrix is singular.
    """
    return guarded("inv", xp.linalg.inv, x, advice="use pinv, or add a multiple of the identity")


@inv.vjp
def _inv_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    flipped = _t(xp, out)
    return (-xp.matmul(flipped, xp.matmul(g, flipped)),)


def _scalar(op: Op[Any], x: Spec) -> Spec:
    return Spec(square(op, x).shape[:-2], x.dtype)


@op(_scalar)
def det(xp: Any, x: Array) -> Any:
    """The determinant. Its gradient is right for singular matrices too; the second derivative needs invertible ones."""
    return xp.asarray(xp.linalg.det(x))


@det.vjp
def _det_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (xp.reshape(g, (*g.shape, 1, 1)) * xp.cofactor(x),)


@op(square)
def cofactor(xp: Any, x: Array) -> Any:
    """The matrix of cofactors, det(x) * inv(x).T where there is an inverse: the gradient of `det`."""
    if not x.size:
        return xp.zeros_like(x)
    u, s, vh = xp.linalg.svd(x)
    others = xp.where(xp.eye(s.shape[-1], dtype=bool), xp.ones((), s.dtype), s[..., None, :]).prod(axis=-1)
    turn = xp.linalg.det(u) * xp.linalg.det(vh)
    return xp.matmul(xp.conj(u) * others[..., None, :], xp.conj(vh)) * turn[..., None, None]


@cofactor.vjp
def _cofactor_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    back = _t(xp, xp.inv(x))
    along = xp.sum(g * out, (-2, -1), keepdims=True)
    return (along * back - xp.matmul(back, xp.matmul(_t(xp, g), out)),)


def _two_scalars(op: Op[Any], x: Spec) -> tuple[Spec, Spec]:
    return _scalar(op, x), _scalar(op, x)


@op(_two_scalars)
def slogdet(xp: Any, x: Array) -> Any:
    """Sign of the determinant, and the logarithm of its absolute value."""
    sign, logarithm = xp.linalg.slogdet(x)
    return xp.asarray(sign), xp.asarray(logarithm)


@slogdet.vjp
def _slogdet_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (None if g[1] is None else xp.reshape(g[1], (*g[1].shape, 1, 1)) * _t(xp, xp.inv(x)),)


def _solved(op: Op[Any], a: Spec, b: Spec) -> Spec:
    square(op, a)
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        batch = None
    if b.ndim < 2 or batch is None or b.shape[-2] != a.shape[-1]:
        raise ShapeError(
            f"{op.name}: a has shape {a.shape}, so b must have shape {(*a.shape[:-1], 'n')}, got {b.shape}"
        )
    return Spec((*batch, *b.shape[-2:]), np.result_type(a.dtype, b.dtype))


@op(_solved)
def solve(xp: Any, a: Array, b: Array) -> Any:
    """The x with a @ x = b.

    Args:
        a: (..., m, m).
        b: (..., m, n); batches broadcast.
    Raises:
        LinAlgError: a matrix is singular.
    """
    return guarded("solve", xp.linalg.solve, a, b, advice="use lstsq, or add a multiple of the identity")


@solve.vjp
def _solve_vjp(xp: Any, g: Any, out: Any, a: Any, b: Any) -> Any:
    gb = xp.solve(_t(xp, a), g)
    return lambda: -xp.matmul(gb, _t(xp, out)), gb


@op(square)
def cholesky(xp: Any, x: Array) -> Any:
    """The lower triangular matrix L with L @ L.T = x, for a symmetric positive definite x.

    The gradient is symmetric: it treats x as symmetric.

    Raises:
        LinAlgError: x is not positive definite.
    """
    return guarded("cholesky", xp.linalg.cholesky, x, advice="the matrix must be symmetric with positive eigenvalues")


@cholesky.vjp
def _cholesky_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    # I. Murray, Differentiation of the Cholesky decomposition, arXiv:1602.07527
    inside = xp.tril(xp.matmul(_t(xp, out), g))
    inside = inside - 0.5 * xp.tril(xp.triu(inside))
    back = xp.inv(out)
    full = xp.matmul(_t(xp, back), xp.matmul(inside, back))
    return (0.5 * (full + _t(xp, full)),)
