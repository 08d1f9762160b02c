"""Matrices in compressed sparse rows, as MXNet's: for features of which few are not 0, and their products."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import recurrent as rec
from shoal.ops.registry import Array, Op, Shape, Spec, op
from shoal.ops.tensor import Tensor, raw

__all__ = ["CSRTensor", "csr_matmul", "csr_sampled"]


class CSRTensor:
    """A matrix whose row i has the values ``data[indptr[i]:indptr[i + 1]]`` at the columns ``indices[...]``.

    Args:
        data: the values (n,).
        indices: their columns (n,), integers.
        indptr: where each row begins, and the last one ends: (rows + 1,).
        shape: (rows, columns).
    Raises:
        ShapeError, DTypeError: they do not fit each other.

    >>> CSRTensor([1.0, 2.0], [2, 0], [0, 1, 2], (2, 3)).asnumpy()
    array([[0., 0., 1.],
           [2., 0., 0.]], dtype=float32)
    """

    __slots__ = ("data", "indices", "indptr", "shape")
    stype = "csr"
    __array_ufunc__ = None
    ndim = 2

    def __init__(self, data: Any, indices: Any, indptr: Any, shape: Sequence[int]) -> None:
        self.data = data if isinstance(data, Tensor) else Tensor(_floats(data))
        self.indices, self.indptr = Tensor(_whole("indices", indices)), Tensor(_whole("indptr", indptr))
        self.shape = tuple(int(n) for n in shape)
        self._check()

    def _check(self) -> None:
        columns, starts = self.indices.data, self.indptr.data
        if len(self.shape) != 2 or starts.shape != (self.shape[0] + 1,) or self.data.shape != columns.shape:
            raise ShapeError(
                f"csr matrix of shape {self.shape}: data of shape {self.data.shape}, indices {columns.shape}, indptr "
                f"{starts.shape}; expected (n,), (n,) and (rows + 1,)"
            )
        if starts[0] != 0 or starts[-1] != columns.size or bool((np.diff(starts) < 0).any()):
            raise ShapeError(f"csr matrix: indptr must ascend from 0 to {columns.size}, the number of values")
        if columns.size and not 0 <= columns.min() <= columns.max() < self.shape[1]:
            raise ShapeError(f"csr matrix of shape {self.shape} has columns {columns.min()} to {columns.max()}")

    @classmethod
    def from_dense(cls, array: Any) -> "CSRTensor":
        """The elements of a matrix that are not 0."""
        dense = np.asarray(raw(array))
        if dense.ndim != 2:
            raise ShapeError(f"a csr matrix has two axes, got shape {dense.shape}")
        rows, columns = np.nonzero(dense)
        return cls(dense[rows, columns], columns, _starts(rows, dense.shape[0]), dense.shape)

    @classmethod
    def from_coordinates(cls, data: Any, rows: Any, columns: Any, shape: Sequence[int]) -> "CSRTensor":
        """From values at (rows, columns), in any order; values at the same place add up."""
        values, row, column = _floats(data), _whole("rows", rows), _whole("columns", columns)
        if row.size and not 0 <= row.min() <= row.max() < shape[0]:
            raise ShapeError(f"csr matrix of shape {tuple(shape)} has rows {row.min()} to {row.max()}")
        flat = row * int(shape[1]) + column
        places, where = np.unique(flat, return_inverse=True)
        total = np.zeros(places.size, values.dtype)
        np.add.at(total, where, values)
        return cls(total, places % shape[1], _starts(places // shape[1], shape[0]), shape)

    @property
    def dtype(self) -> "np.dtype[Any]":
        """That of the values."""
        return self.data.dtype

    @property
    def nnz(self) -> int:
        """How many values are stored."""
        return int(self.indices.data.size)

    @property
    def rows(self) -> Any:
        """The row of each value, as an array."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.indptr.data))

    def __repr__(self) -> str:
        return f"<CSRTensor {self.nnz} values of {self.shape}, {self.dtype}>"

    def __len__(self) -> int:
        return self.shape[0]

    def asnumpy(self) -> Any:
        """The whole matrix."""
        out = np.zeros(self.shape, self.dtype)
        np.add.at(out, (self.rows, self.indices.data), self.data.data)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.asnumpy().astype(dtype or self.dtype, copy=False)

    def todense(self) -> Tensor:
        """The whole matrix as a Tensor."""
        return Tensor(self.asnumpy())

    def tostype(self, stype: str) -> "Tensor | CSRTensor":
        """This as "default" (a Tensor) or "csr" (itself).

        Raises:
            ConfigError: another storage type.
        """
        if stype == "csr":
            return self
        if stype != "default":
            raise ConfigError(f"a csr matrix becomes 'default' or 'csr', not {stype!r}")
        return self.todense()

    def copy(self) -> "CSRTensor":
        """The same in memory of its own."""
        data, indices, indptr = (x.data.copy() for x in (self.data, self.indices, self.indptr))
        return CSRTensor(data, indices, indptr, self.shape)

    def astype(self, dtype: Any) -> "CSRTensor":
        """The same in another dtype."""
        return self._with(self.data.astype(dtype))

    def transpose(self) -> "CSRTensor":
        """The transposed matrix."""
        return CSRTensor.from_coordinates(self.data.data, self.indices.data, self.rows, self.shape[::-1])

    T = property(transpose)

    def __getitem__(self, key: Any) -> "CSRTensor":
        """Rows ``[start:stop]``, or the row ``[i]`` as a matrix of one row.

        Raises:
            IndexError: there is no such row.
            ConfigError: anything else; convert with ``tostype("default")``.
        """
        if isinstance(key, (int, np.integer)):
            if not -self.shape[0] <= key < self.shape[0]:
                raise IndexError(f"row {key} of a csr matrix of shape {self.shape}")
            key = slice(key % self.shape[0], key % self.shape[0] + 1)
        if not isinstance(key, slice) or key.step not in (None, 1):
            raise ConfigError(f"a csr matrix is sliced by rows, x[i] or x[start:stop], not {key!r}; use todense()")
        start, stop, _ = key.indices(self.shape[0])
        stop = max(start, stop)
        starts = self.indptr.data[start : stop + 1]
        part = slice(int(starts[0]), int(starts[-1]))
        return CSRTensor(self.data[part], self.indices.data[part], starts - starts[0], (stop - start, self.shape[1]))

    def _with(self, data: Tensor) -> "CSRTensor":
        return CSRTensor(data, self.indices.data, self.indptr.data, self.shape)

    def _at(self, other: Any) -> Any:
        """The elements of a whole array (or a number) where this one has values."""
        if isinstance(other, (int, float)):
            return other
        whole = np.broadcast_to(np.asarray(other), self.shape)
        return Tensor(whole[self.rows, self.indices.data])

    def __mul__(self, other: Any) -> "CSRTensor":
        """With a number, or element by element with a whole array: where this one has values."""
        return self._with(self.data * self._at(other))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "CSRTensor":
        return self._with(self.data / self._at(other))

    def __neg__(self) -> "CSRTensor":
        return self._with(-self.data)

    def __add__(self, other: Any) -> Any:
        """With another: csr. With a whole array: a Tensor."""
        if not isinstance(other, CSRTensor):
            return Tensor(self.asnumpy() + np.asarray(other))
        if other.shape != self.shape:
            raise ShapeError(f"csr matrices of shape {self.shape} and {other.shape} do not fit each other")
        parts = ((x.data.data, x.rows, x.indices.data) for x in (self, other))
        data, rows, columns = (np.concatenate(p) for p in zip(*parts, strict=True))
        return CSRTensor.from_coordinates(data, rows, columns, self.shape)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other


def _floats(data: Any) -> Any:
    values = raw(data)
    return values if isinstance(values, np.ndarray) else np.asarray(values, None if hasattr(values, "dtype") else "f")


def _whole(name: str, values: Any) -> Any:
    found = np.asarray(raw(values))
    if found.size and found.dtype.kind not in "iu":
        raise DTypeError(f"csr matrix: {name} must be integers, got {found.dtype}")
    return found.astype(np.int64, copy=False)


def _starts(rows: Any, count: int) -> Any:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])


# -- products


def _product(
    op: Op[Any], data: Spec, indices: Spec, indptr: Spec, dense: Spec, shape: Shape, transpose: bool = False
) -> Spec:
    return Spec((_fitting(dense, shape, transpose), *dense.shape[1:]), np.result_type(data.dtype, dense.dtype))


def _fitting(dense: Any, shape: Shape, transpose: bool) -> int:
    """The rows of the product, after a check."""
    rows, columns = shape[::-1] if transpose else shape
    if dense.ndim not in (1, 2) or dense.shape[0] != columns:
        raise ShapeError(
            f"csr_matmul: a csr matrix of shape {tuple(shape)}{' transposed' if transpose else ''} times an array of "
            f"shape {dense.shape}: that must have {columns} rows, and one or two axes"
        )
    return rows


@op(_product)
def csr_matmul(
    xp: Any, data: Array, indices: Array, indptr: Array, dense: Array, shape: Shape, transpose: bool = False
) -> Any:
    """A csr matrix, or its transpose, times an array with one or two axes.

    Args:
        data, indices, indptr: of the matrix; see `CSRTensor`.
        dense: (columns,) or (columns, n); with ``transpose`` (rows,) or (rows, n).
        shape: (rows, columns) of the matrix.
    """
    count = _fitting(dense, shape, transpose)
    given, wide = np.result_type(data.dtype, dense.dtype), rec.wide_dtype(data, dense)
    places = _row_of(xp, indptr, shape[0])
    source, target = (places, indices) if transpose else (indices, places)
    values = data.astype(wide, copy=False)
    parts = dense[source].astype(wide, copy=False) * (values if dense.ndim == 1 else values[:, None])
    return xp.add_rows(parts, target, count).astype(given, copy=False)


def _row_of(xp: Any, indptr: Any, count: int) -> Any:
    return xp.searchsorted(indptr, xp.arange(int(indptr[-1])), side="right") - 1 if count else indptr[:0]


@csr_matmul.vjp
def _csr_matmul_vjp(
    xp: Any, g: Any, out: Any, data: Any, indices: Any, indptr: Any, dense: Any, shape: Shape, transpose: bool = False
) -> Any:
    def wrt_data() -> Any:
        left, right = (dense, g) if transpose else (g, dense)
        return xp.csr_sampled(left, right, indices, indptr)

    def wrt_dense() -> Any:
        return xp.csr_matmul(data, indices, indptr, g, shape=shape, transpose=not transpose)

    return wrt_data, None, None, wrt_dense


def _sampled(op: Op[Any], left: Spec, right: Spec, indices: Spec, indptr: Spec) -> Spec:
    return Spec(indices.shape, np.result_type(left.dtype, right.dtype))


@op(_sampled)
def csr_sampled(xp: Any, left: Array, right: Array, indices: Array, indptr: Array) -> Any:
    """Those elements of ``left @ right.T`` that a csr matrix has: the gradient of `csr_matmul` for its values.

    Args:
        left, right: (rows, n) and (columns, n); or (rows,) and (columns,).
        indices, indptr: where the matrix has values; see `CSRTensor`.
    """
    given, wide = np.result_type(left.dtype, right.dtype), rec.wide_dtype(left, right)
    products = left[_row_of(xp, indptr, left.shape[0])].astype(wide, copy=False) * right[indices]
    return (products if left.ndim == 1 else products.sum(axis=1)).astype(given, copy=False)


@csr_sampled.vjp
def _csr_sampled_vjp(xp: Any, g: Any, out: Any, left: Any, right: Any, indices: Any, indptr: Any) -> Any:
    shape = (left.shape[0], right.shape[0])
    return (
        lambda: xp.csr_matmul(g, indices, indptr, right, shape=shape),
        lambda: xp.csr_matmul(g, indices, indptr, left, shape=shape, transpose=True),
        None,
        None,
    )
