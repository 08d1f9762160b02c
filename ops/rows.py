"""Some rows of an array, all others being 0: gradients of embeddings, and what a store keeps by rows (row_sparse)."""

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from shoal.errors import DTypeError, ShapeError

__all__ = ["RowSparse", "check_ids", "wider"]


class RowSparse:
    """Rows ``ids`` of an array of ``shape``; every other row is 0.

    An id may occur more than once, as words do in a batch; such rows add up. Nothing is copied.

    Args:
        ids: integers from 0 to ``shape[0] - 1``, in any order.
        rows: one row for each id: shape ``(len(ids), *shape[1:])``.
        shape: of the whole array.
    Raises:
        ShapeError: rows and ids do not fit each other or the shape, or an id is out of range.
        DTypeError: ids are not integers.

    >>> g = RowSparse([2, 0, 2], np.ones((3, 2), "float32"), (4, 2))
    >>> g.merged().ids, g.dense()[2]
    (array([0, 2]), array([2., 2.], dtype=float32))
    """

    __slots__ = ("ids", "rows", "shape")
    __array_ufunc__: ClassVar[None] = None  # array + this asks this

    def __init__(self, ids: Any, rows: Any, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        rows = rows if isinstance(rows, np.ndarray) else getattr(rows, "data", rows)
        self.rows: Any = np.asarray(rows)
        self.ids = check_ids(ids, self.shape)
        if self.rows.shape != (self.ids.size, *self.shape[1:]):
            raise ShapeError(
                f"row-sparse array of shape {self.shape}: {self.ids.size} ids need rows of shape "
                f"{(self.ids.size, *self.shape[1:])}, got {self.rows.shape}"
            )

    def __repr__(self) -> str:
        return f"<{self.ids.size} rows of an array of shape {self.shape}, {self.rows.dtype}>"

    @property
    def dtype(self) -> "np.dtype[Any]":
        """That of the rows."""
        return self.rows.dtype  # type: ignore[no-any-return]  # rows may be of any dtype

    @property
    def ndim(self) -> int:
        """Number of axes of the whole array."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of ids and rows."""
        return int(self.ids.nbytes + self.rows.nbytes)

    def flat(self) -> "RowSparse":
        """The same as a matrix: its rows are flat, and in C order."""
        width = prod(self.shape[1:])
        rows = np.ascontiguousarray(self.rows).reshape(self.ids.size, width)
        return RowSparse(self.ids, rows, (self.shape[0], width))

    @classmethod
    def from_dense(cls, array: Any) -> "RowSparse":
        """The rows of ``array`` that are not all 0."""
        dense = array if isinstance(array, np.ndarray) else np.asarray(getattr(array, "data", array))
        ids = np.flatnonzero((dense != 0).any(axis=tuple(range(1, dense.ndim))))
        return RowSparse(ids, dense[ids], dense.shape)

    def copy(self) -> "RowSparse":
        """The same in memory of its own."""
        return RowSparse(self.ids.copy(), self.rows.copy(), self.shape)

    def astype(self, dtype: Any, copy: bool = True) -> "RowSparse":
        """The same in another dtype."""
        return RowSparse(self.ids, self.rows.astype(dtype, copy=copy), self.shape)

    def dense(self) -> Any:
        """The whole array."""
        merged = self.merged()
        out = np.zeros(self.shape, self.dtype)
        out[merged.ids] = merged.rows
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.dense().astype(dtype or self.dtype, copy=False)

    def scaled(self, factor: float) -> "RowSparse":
        """`merged`, with all rows multiplied by ``factor``; the rows are a copy."""
        merged = self.merged()
        return RowSparse(merged.ids, merged.rows * np.asarray(factor, self.dtype), self.shape)

    def add_into(self, dense: Any) -> None:
        """Add the rows to the whole array ``dense``, in place."""
        merged = self.merged()
        dense[merged.ids] += merged.rows

    def __add__(self, other: Any) -> Any:
        """The sum with another of the same shape, or with a whole array, which is a whole array."""
        if isinstance(other, RowSparse):
            ids, rows = np.concatenate([self.ids, other.ids]), np.concatenate([self.rows, other.rows])
            return RowSparse(ids, rows, self.shape)
        out = np.array(other, np.result_type(other, self.dtype))
        self.add_into(out)
        return out

    __radd__ = __add__

    def merged(self) -> "RowSparse":
        """The same with each id once, in ascending order; repeated rows are added in the order in which they stand.

        Half precision is added in float32.
        """
        if self.ids.size < 2 or bool(np.all(self.ids[1:] > self.ids[:-1])):
            return self
        order = np.argsort(self.ids, kind="stable")
        ordered = self.ids[order]
        first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        rows = self.rows[order]
        if first.size != ordered.size:
            rows = np.add.reduceat(rows.astype(wider(self.dtype), copy=False), first, axis=0).astype(self.dtype)
        return RowSparse(ordered[first], rows, self.shape)

    def between(self, start: int, stop: int) -> "RowSparse":
        """Rows ``start:stop`` as an array of their own, of a `merged` one; a view."""
        a, b = (int(i) for i in np.searchsorted(self.ids, (start, stop)))
        return RowSparse(self.ids[a:b] - start, self.rows[a:b], (stop - start, *self.shape[1:]))


def check_ids(ids: Any, shape: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Row ids as a flat array of int64.

    Raises:
        ShapeError: one is out of range, or the array has no rows.
        DTypeError: they are not integers.
    """
    try:
        data = ids if isinstance(ids, np.ndarray) else np.asarray(getattr(ids, "data", ids))
    except ValueError:
        raise DTypeError(
            f"row ids are integers, in one list or array; got {type(ids).__name__} of unequal lists"
        ) from None
    if not len(shape):
        raise ShapeError("a scalar has no rows: row-sparse arrays have at least one dimension")
    if data.size and data.dtype.kind not in "iu":
        raise DTypeError(f"row ids are integers, got {data.dtype}")
    found = data.reshape(-1).astype(np.int64, copy=False)
    if found.size and (int(found.min()) < 0 or int(found.max()) >= shape[0]):
        wrong = found[(found < 0) | (found >= shape[0])][0]
        raise ShapeError(
            f"row id {wrong} is out of range: an array of shape {tuple(shape)} has rows 0 to {shape[0] - 1}"
        )
    return found


def wider(dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    """The dtype in which values of ``dtype`` are added up: float32 for half precision (float16, bfloat16)."""
    half = dtype.itemsize < 4 and (dtype.kind == "f" or dtype.name == "bfloat16")
    return np.dtype(np.float32) if half else dtype
