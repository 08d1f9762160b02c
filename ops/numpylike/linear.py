"""``numpy.linalg``: its functions over Tensors, Symbols and arrays, with gradients."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import decomposition as dec
from shoal.ops import elementwise as ew
from shoal.ops import linalg, reduce, shape, spectral
from shoal.ops.compare import greater
from shoal.ops.complexes import real_dtype
from shoal.ops.creation import eye
from shoal.ops.decomposition import cofactor, det, inv
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.numpylike.products import cross as _cross
from shoal.ops.numpylike.products import matrix_transpose, vecdot
from shoal.ops.spectral import matrix_exp, pinv, svdvals
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "EigResult",
    "EighResult",
    "LinAlgError",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cofactor",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensordot",
    "tensorinv",
    "tensorsolve",
    "trace",
    "vecdot",
    "vector_norm",
]

LinAlgError = np.linalg.LinAlgError

Axis = int | Sequence[int] | None

matmul, outer, tensordot = linalg.matmul, linalg.outer, linalg.tensordot


class EighResult(NamedTuple):
    """What `eigh` returns."""

    eigenvalues: Any
    eigenvectors: Any


class EigResult(NamedTuple):
    """What `eig` returns."""

    eigenvalues: Any
    eigenvectors: Any


class QRResult(NamedTuple):
    """What `qr` returns."""

    Q: Any
    R: Any


class SVDResult(NamedTuple):
    """What `svd` returns."""

    U: Any
    S: Any
    Vh: Any


class SlogdetResult(NamedTuple):
    """What `slogdet` returns."""

    sign: Any
    logabsdet: Any


# -- factors


def eigh(a: Any, UPLO: str = "L") -> EighResult:
    """Eigenvalues of symmetric matrices in ascending order, and eigenvectors as columns; see `shoal.ops.spectral`."""
    return EighResult(*spectral.eigh(a, UPLO=UPLO))


def eigvalsh(a: Any, UPLO: str = "L") -> Any:
    """Eigenvalues of symmetric matrices in ascending order."""
    return spectral.eigvalsh(a, UPLO=UPLO)


def eig(a: Any) -> EigResult:
    """Eigenvalues of square matrices (always complex), which have a gradient, and eigenvectors, which have none."""
    return EigResult(*spectral.eig(a))


def eigvals(a: Any) -> Any:
    """Eigenvalues of square matrices, always complex, in no order."""
    return spectral.eig(a)[0]


def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True) -> Any:
    """Singular value decomposition (U, S, Vh), a = (U * S) @ Vh; S alone if not ``compute_uv``."""
    return SVDResult(*spectral.svd(a, full_matrices=full_matrices)) if compute_uv else svdvals(a)


def qr(a: Any, mode: str = "reduced") -> Any:
    """(Q, R) with a = Q @ R; R alone for the mode "r"."""
    return spectral.qr(a, mode="reduced")[1] if mode == "r" else QRResult(*spectral.qr(a, mode=mode))


def cholesky(a: Any, upper: bool = False) -> Any:
    """The lower triangular L with L @ L.T = a, for symmetric positive definite matrices; L.T if ``upper``.

    Raises:
        LinAlgError: a matrix is not positive definite.
    """
    found = dec.cholesky(a)
    return matrix_transpose(found) if upper else found


def slogdet(a: Any) -> SlogdetResult:
    """Sign and logarithm of the absolute value of the determinant."""
    return SlogdetResult(*dec.slogdet(a))


# -- equations


def solve(a: Any, b: Any) -> Any:
    """The x with a @ x = b; a ``b`` with one axis is a vector.

    Raises:
        LinAlgError: a matrix is singular.
        ShapeError: the shapes do not fit.
    """
    b = arraylike(b)
    if b.ndim == 1:
        return shape.squeeze(dec.solve(a, shape.expand_dims(b, axis=-1)), axis=-1)
    return dec.solve(a, b)


def solve_triangular(a: Any, b: Any, lower: bool = False, trans: bool = False, unit_diagonal: bool = False) -> Any:
    """The x with a @ x = b for triangular matrices; the other triangle is not read.

    Args:
        lower: whether the lower triangle is meant.
        trans: a.T is meant.
        unit_diagonal: the diagonal counts as ones.
    Raises:
        LinAlgError: an element of the diagonal is 0.
    """
    a = shape.tril(a) if lower else shape.triu(a)
    if unit_diagonal:
        a = (shape.tril(a, k=-1) if lower else shape.triu(a, k=1)) + eye(a.shape[-1], dtype=a.dtype)
    return solve(matrix_transpose(a) if trans else a, b)


def lstsq(a: Any, b: Any, rcond: float | None = None) -> tuple[Any, Any, Any, Any]:
    """The x with the smallest sum of (a @ x - b)**2.

    Returns:
        (x, sums of squares, rank of a, singular values of a). The sums of squares have no elements unless a has more
        rows than columns and full rank, as in NumPy. Only x and the singular values are for graphs.
    """
    b = arraylike(b)
    columns = b if b.ndim > 1 else shape.expand_dims(b, axis=-1)
    x = spectral.least_squares(a, columns, rcond=rcond)
    s = svdvals(a)
    m, n = a.shape[-2:]
    rank = reduce.sum_(greater(s, reduce.max_(s, axis=-1, keepdims=True) * spectral.cutoff(a, rcond)), axis=-1)
    left: Any = Tensor(np.zeros(0, x.dtype))
    if m > n and bool((raw(rank) == n).all()):
        left = reduce.sum_(ew.square(linalg.matmul(a, x) - columns), axis=-2)
    return (x if b.ndim > 1 else shape.squeeze(x, axis=-1)), left, rank, s


def tensorinv(a: Any, ind: int = 2) -> Any:
    """The inverse of `tensordot` with a: as `inv`, with the first ``ind`` axes as rows and the others as columns."""
    rows, columns = tuple(a.shape[:ind]), tuple(a.shape[ind:])
    if ind < 1 or math.prod(rows) != math.prod(columns):
        raise ShapeError(
            f"tensorinv: the first {ind} axes of shape {tuple(a.shape)} must have as many elements as the rest"
        )
    n = math.prod(rows)
    return shape.reshape(inv(shape.reshape(a, shape=(n, n))), shape=(*columns, *rows))


def tensorsolve(a: Any, b: Any) -> Any:
    """The x with tensordot(a, x, x.ndim) = b."""
    rest, n = tuple(a.shape[b.ndim :]), math.prod(b.shape)
    if tuple(a.shape[: b.ndim]) != tuple(b.shape) or math.prod(rest) != n:
        raise ShapeError(f"tensorsolve: a of shape {tuple(a.shape)} must be square for b of shape {tuple(b.shape)}")
    found = dec.solve(shape.reshape(a, shape=(n, n)), shape.reshape(b, shape=(n, 1)))
    return shape.reshape(found, shape=rest)


# -- numbers that say something about a matrix


def norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """Norm of vectors (one axis) or matrices (two axes), as in NumPy.

    Args:
        ord: None for the Euclidean (Frobenius) norm of all elements; for vectors any number, inf or -inf; for matrices
            "fro", "nuc", 1, -1, 2, -2, inf or -inf.
        axis: one, or two; all by default, which with an ``ord`` must be one or two.
    Raises:
        ConfigError: there is no such norm.
        ShapeError: a norm of more than two axes.
    """
    x = _floats(x)
    axes = tuple(range(x.ndim)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    if ord is None:
        return reduce.norm(x, axis=axes, keepdims=keepdims)
    if len(axes) == 1:
        return vector_norm(x, axis=axes[0], keepdims=keepdims, ord=ord)
    if len(axes) != 2:
        raise ShapeError(f"norm: ord={ord!r} needs one axis, or two, not {len(axes)} (shape {tuple(x.shape)})")
    rows, columns = (a % x.ndim for a in axes)
    found = matrix_norm(shape.moveaxis(x, (rows, columns), (-2, -1)), ord=ord)
    return shape.expand_dims(found, axis=tuple(sorted((rows, columns)))) if keepdims else found


def vector_norm(x: Any, axis: Axis = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """(sum of abs(x)**ord)**(1 / ord) over ``axis``; inf gives the largest, -inf the smallest, 0 counts."""
    x = _floats(x)
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else axis
    if not isinstance(ord, (int, float)):
        raise ConfigError(f"vector_norm: ord must be a number, inf or -inf, got {ord!r}")
    if ord == math.inf:
        return reduce.max_(ew.abs_(x), axis=axes, keepdims=keepdims)
    if ord == -math.inf:
        return reduce.min_(ew.abs_(x), axis=axes, keepdims=keepdims)
    if ord == 0:
        return ew.astype(reduce.sum_(x != 0, axis=axes, keepdims=keepdims), dtype=real_dtype(x.dtype).name)
    return reduce.norm(x, ord=float(ord), axis=axes, keepdims=keepdims)


def matrix_norm(x: Any, keepdims: bool = False, ord: Any = "fro") -> Any:
    """Norm of the matrices in the last two axes.

    Args:
        ord: "fro", the root of the sum of squares; "nuc", the sum of singular values; 2 and -2, the largest and the
            smallest; 1 and -1, the largest and smallest sum of a column; inf and -inf, of a row.
    """
    x = _floats(x)
    if ord == "fro":
        return reduce.norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord in ("nuc", 2, -2):
        s = svdvals(x)
        found = reduce.sum_(s, axis=-1) if ord == "nuc" else s[..., 0] if ord == 2 else s[..., -1]
        return shape.expand_dims(found, axis=(-2, -1)) if keepdims else found
    if ord not in (1, -1, math.inf, -math.inf):
        raise ConfigError(f"matrix_norm: ord {ord!r}; there are 'fro', 'nuc', 1, -1, 2, -2, inf, -inf")
    sums = reduce.sum_(ew.abs_(x), axis=-2 if abs(ord) == 1 else -1, keepdims=True)
    pick = reduce.max_ if ord > 0 else reduce.min_
    return pick(sums, axis=(-2, -1), keepdims=keepdims)


def _floats(x: Any) -> Any:
    x = arraylike(x)
    return ew.astype(x, dtype="float64") if x.dtype.kind in "iub" else x


def cond(x: Any, p: Any = None) -> Any:
    """The condition number: norm(x) * norm(inv(x)), of the norm ``p`` (by default 2, of singular values).

    A singular matrix has the condition number inf for the norm 2.
    """
    if p in (None, 2, -2):
        s = svdvals(x)
        first, last = s[..., 0], s[..., -1]
        top, bottom = (last, first) if p == -2 else (first, last)
        return ew.where(bottom == 0, math.inf, top / ew.where(bottom == 0, 1.0, bottom))
    return matrix_norm(x, ord=p) * matrix_norm(inv(x), ord=p)


def matrix_rank(x: Any, tol: Any = None, rtol: float | None = None) -> Any:
    """How many singular values are above ``tol``, int64; by default above ``rtol`` times the largest.

    Args:
        rtol: max(m, n) times the eps of the dtype by default.
    """
    x = _floats(x)
    if x.ndim < 2:
        return ew.astype(reduce.any_(x != 0), dtype="int64")
    s = svdvals(x)
    limit = reduce.max_(s, axis=-1, keepdims=True) * spectral.cutoff(x, rtol) if tol is None else tol
    if getattr(tol, "ndim", 0):
        limit = shape.expand_dims(tol, axis=-1)
    return reduce.sum_(greater(s, limit), axis=-1)


def trace(x: Any, offset: int = 0) -> Any:
    """Sum of the diagonals of the matrices in the last two axes."""
    return linalg.trace(x, offset=offset, axis1=-2, axis2=-1)


def diagonal(x: Any, offset: int = 0) -> Any:
    """The diagonals of the matrices in the last two axes."""
    return linalg.diagonal(x, offset=offset, axis1=-2, axis2=-1)


# -- products


def cross(a: Any, b: Any, axis: int = -1) -> Any:
    """The vector product of 3-vectors along ``axis``."""
    return _cross(a, b, axis=axis)


def matrix_power(a: Any, n: int) -> Any:
    """The product of n times the same square matrix; of its inverse, if n is negative.

    Raises:
        ShapeError: the matrices are not square.
        LinAlgError: n is negative and a matrix is singular.
    """
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(f"matrix_power: needs square matrices in the last two axes, got shape {tuple(a.shape)}")
    if n == 0:
        return ew.zeros_like(a) + eye(a.shape[-1], dtype=a.dtype)
    square, left, result = (a, n, None) if n > 0 else (inv(a), -n, None)
    while left:
        if left & 1:
            result = square if result is None else linalg.matmul(result, square)
        left >>= 1
        if left:
            square = linalg.matmul(square, square)
    return result


def multi_dot(arrays: Sequence[Any]) -> Any:
    """The product of several matrices, in the order that needs the fewest multiplications.

    The first may be a row and the last a column: vectors.

    Raises:
        ShapeError: there are fewer than two, or neighbours do not fit.
    """
    n = len(arrays)
    if n < 2:
        raise ShapeError(f"multi_dot: needs two matrices or more, got {n}")
    chain = list(arrays)
    row, column = chain[0].ndim == 1, chain[-1].ndim == 1
    chain[0] = shape.expand_dims(chain[0], axis=0) if row else chain[0]
    chain[-1] = shape.expand_dims(chain[-1], axis=1) if column else chain[-1]
    sizes = [chain[0].shape[0], *(c.shape[-1] for c in chain)]
    if any(c.ndim != 2 or c.shape[0] != sizes[i] for i, c in enumerate(chain)):
        raise ShapeError(f"multi_dot: shapes {', '.join(str(tuple(a.shape)) for a in arrays)} do not fit one another")
    result = _product(chain, _splits(sizes), 0, n - 1)
    axes = (0,) * row + (1,) * column
    return shape.squeeze(result, axis=axes) if axes else result


def _splits(sizes: Sequence[int]) -> dict[tuple[int, int], int]:
    """Where to cut each part of a chain of matrices: the textbook's dynamic programme."""
    n = len(sizes) - 1
    cost = {(i, i): 0 for i in range(n)}
    best: dict[tuple[int, int], int] = {}
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            costs = {k: cost[i, k] + cost[k + 1, j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j)}
            best[i, j] = min(costs, key=costs.__getitem__)
            cost[i, j] = costs[best[i, j]]
    return best


def _product(chain: Sequence[Any], best: dict[tuple[int, int], int], i: int, j: int) -> Any:
    if i == j:
        return chain[i]
    k = best[i, j]
    return linalg.matmul(_product(chain, best, i, k), _product(chain, best, k + 1, j))
