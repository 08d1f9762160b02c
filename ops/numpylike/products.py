"""NumPy's products of arrays."""

from typing import Any

from shoal.errors import ShapeError
from shoal.ops import elementwise, reduce, shape
from shoal.ops.complexes import conj
from shoal.ops.linalg import dot, einsum, inner, matmul, outer, tensordot, trace, vdot
from shoal.ops.numpylike.arguments import arraylike

__all__ = [
    "cross",
    "dot",
    "einsum",
    "einsum_path",
    "inner",
    "kron",
    "matmul",
    "matrix_transpose",
    "matvec",
    "outer",
    "tensordot",
    "trace",
    "vander",
    "vdot",
    "vecdot",
    "vecmat",
]


def matrix_transpose(x: Any) -> Any:
    """With the last two axes exchanged."""
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose: needs two axes, got shape {tuple(x.shape)}")
    return shape.swapaxes(x, -1, -2)


def vecdot(x: Any, y: Any, axis: int = -1) -> Any:
    """Sum of products along ``axis``; of complex vectors, the first is conjugated.

    Raises:
        ShapeError: the axes have different lengths.
    """
    x, y = arraylike(x), arraylike(y)
    if not x.ndim or not y.ndim or x.shape[axis] != y.shape[axis]:
        raise ShapeError(f"vecdot: axis {axis} of shapes {tuple(x.shape)} and {tuple(y.shape)} must be of one length")
    x = conj(x) if x.dtype.kind == "c" else x
    return reduce.sum_(x * y, axis=axis)


def matvec(a: Any, x: Any) -> Any:
    """Matrices times vectors: (..., m, n) and (..., n) give (..., m)."""
    return shape.squeeze(matmul(a, shape.expand_dims(x, axis=-1)), axis=-1)


def vecmat(x: Any, a: Any) -> Any:
    """Vectors times matrices: (..., m) and (..., m, n) give (..., n); complex vectors are conjugated."""
    x = conj(x) if x.dtype.kind == "c" else x
    return shape.squeeze(matmul(shape.expand_dims(x, axis=-2), a), axis=-2)


def kron(x: Any, y: Any) -> Any:
    """The Kronecker product: the blocks x[i, j, ...] * y."""
    x, y = arraylike(x), arraylike(y)
    n = max(x.ndim, y.ndim)
    a, b = (1,) * (n - x.ndim) + tuple(x.shape), (1,) * (n - y.ndim) + tuple(y.shape)
    wide = shape.reshape(x, shape=tuple(m for length in a for m in (length, 1)))
    tall = shape.reshape(y, shape=tuple(m for length in b for m in (1, length)))
    return shape.reshape(wide * tall, shape=tuple(p * q for p, q in zip(a, b, strict=True)))


def cross(x: Any, y: Any, axis: int = -1) -> Any:
    """The vector product of 3-vectors along ``axis``; of 2-vectors the third component of it.

    Raises:
        ShapeError: the vectors have not 3, nor 2 components.
    """
    x, y = arraylike(x), arraylike(y)
    n = x.shape[axis] if x.ndim else 0
    if n not in (2, 3) or not y.ndim or y.shape[axis] != n:
        raise ShapeError(
            f"cross: vectors along axis {axis} must have 3 components (or both 2), got shapes {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    a, b = (shape.split(v, sections=n, axis=axis) for v in (x, y))
    last = a[0] * b[1] - a[1] * b[0]
    if n == 2:
        return shape.squeeze(last, axis=axis)
    return shape.concatenate([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], last], axis=axis)


def vander(x: Any, n: int | None = None, increasing: bool = False) -> Any:
    """The matrix of powers of x: column j has x to the power n - 1 - j, or j if ``increasing``."""
    x = arraylike(x)
    powers = [elementwise.power(x, float(p)) for p in range(x.shape[0] if n is None else n)]
    return shape.stack(powers if increasing else powers[::-1], axis=1)


def einsum_path(subscripts: str, *arrays: Any, optimize: Any = "greedy") -> Any:
    """In which order `einsum` would contract, and a text about it; see `numpy.einsum_path`."""
    import numpy as np

    stand_ins = [np.broadcast_to(np.zeros((), a.dtype), tuple(a.shape)) for a in arrays]
    return np.einsum_path(subscripts, *stand_ins, optimize=optimize)
