"""The linear algebra extension of the standard, and its products."""

from typing import Any

from shoal.ops.numpylike import linear, products
from shoal.ops.numpylike.arguments import converted

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


def matmul(x1: Any, x2: Any, /) -> Any:
    """The product of matrices."""
    return products.matmul(x1, x2)


def matrix_transpose(x: Any, /) -> Any:
    """The last two axes exchanged."""
    return products.matrix_transpose(x)


def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
    """Sum of products over several axes."""
    return products.tensordot(x1, x2, axes)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Sum of products along ``axis``; of complex vectors, the first is conjugated."""
    return products.vecdot(x1, x2, axis)


def cholesky(x: Any, /, *, upper: bool = False) -> Any:
    """The triangular factor of positive definite matrices."""
    return linear.cholesky(x, upper)


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """The cross product of vectors of length 3 along ``axis``."""
    return linear.cross(x1, x2, axis)


def det(x: Any, /) -> Any:
    """Determinants."""
    return linear.det(x)


def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """Diagonals of the last two axes."""
    return linear.diagonal(x, offset)


def eigh(x: Any, /) -> Any:
    """``eigenvalues`` and ``eigenvectors`` of symmetric matrices."""
    return linear.eigh(x)


def eigvalsh(x: Any, /) -> Any:
    """Eigenvalues of symmetric matrices."""
    return linear.eigvalsh(x)


def inv(x: Any, /) -> Any:
    """Inverse matrices."""
    return linear.inv(x)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    """Norms of matrices."""
    return linear.matrix_norm(x, keepdims, ord)


def matrix_power(x: Any, n: int, /) -> Any:
    """Matrices to the integer power n."""
    return linear.matrix_power(x, n)


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Any:
    """How many singular values are larger than ``rtol`` times the largest."""
    return linear.matrix_rank(x, rtol=rtol)


def outer(x1: Any, x2: Any, /) -> Any:
    """All products of two vectors."""
    return products.outer(x1, x2)


def pinv(x: Any, /, *, rtol: Any = None) -> Any:
    """Pseudo-inverse matrices."""
    return linear.pinv(x) if rtol is None else linear.pinv(x, rcond=rtol)


def qr(x: Any, /, *, mode: str = "reduced") -> Any:
    """``Q`` and ``R``."""
    return linear.qr(x, mode)


def slogdet(x: Any, /) -> Any:
    """``sign`` and ``logabsdet`` of determinants."""
    return linear.slogdet(x)


def solve(x1: Any, x2: Any, /) -> Any:
    """The x with x1 @ x = x2."""
    return linear.solve(x1, x2)


def svd(x: Any, /, *, full_matrices: bool = True) -> Any:
    """``U``, ``S`` and ``Vh``."""
    return linear.svd(x, full_matrices)


def svdvals(x: Any, /) -> Any:
    """Singular values."""
    return linear.svdvals(x)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    """Sums of diagonals of the last two axes."""
    return linear.trace(converted(x, dtype), offset)


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """Norms of vectors over ``axis``."""
    return linear.vector_norm(x, axis, keepdims, ord)
