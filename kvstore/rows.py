"""Some rows of an array: how gradients of embeddings are pushed, and their values pulled (MXNet's row_sparse)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.kvstore.arrays import Array, is_float

__all__ = ["RowSparse", "check_ids", "into_rows", "merge_rows", "reduce_rows", "wanted_rows", "wider"]


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

    def __init__(self, ids: Any, rows: Any, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        rows = rows if isinstance(rows, np.ndarray) else getattr(rows, "data", rows)
        self.rows: Array = np.asarray(rows)
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
        return self.rows.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of ids and rows."""
        return self.ids.nbytes + self.rows.nbytes

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
        return cls(ids, dense[ids], dense.shape)

    def copy(self) -> "RowSparse":
        """The same in memory of its own."""
        return RowSparse(self.ids.copy(), self.rows.copy(), self.shape)

    def dense(self) -> Array:
        """The whole array."""
        merged = self.merged()
        out = np.zeros(self.shape, self.dtype)
        out[merged.ids] = merged.rows
        return out

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
    data = ids if isinstance(ids, np.ndarray) else np.asarray(getattr(ids, "data", ids))
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
    """The dtype in which values of ``dtype`` are added up: float32 for half precision."""
    return np.dtype(np.float32) if is_float(dtype) and dtype.itemsize < 4 else dtype


def reduce_rows(parts: Sequence[RowSparse], reduce: str) -> RowSparse:
    """Sum or mean of `merged` parts, added in the order given; a row that a part lacks counts as 0.

    The ids are those of all parts. The rows have the parts' dtype, or float32 for half precision.
    """
    ids = parts[0].ids if len(parts) == 1 else np.unique(np.concatenate([p.ids for p in parts]))
    total = np.zeros((ids.size, *parts[0].shape[1:]), wider(parts[0].dtype))
    for part in parts:
        total[np.searchsorted(ids, part.ids)] += part.rows
    if reduce == "mean" and len(parts) > 1:
        np.divide(total, len(parts), out=total)
    return RowSparse(ids, total, parts[0].shape)


def merge_rows(value: Any) -> RowSparse | None:
    """The row-sparse array that a pushed value is: one, or the sum of a list of them; None if it is none."""
    if isinstance(value, RowSparse):
        return value
    if not isinstance(value, list | tuple) or not any(isinstance(v, RowSparse) for v in value):
        return None
    shapes = [v.shape if isinstance(v, RowSparse) else type(v).__name__ for v in value]
    if any(s != shapes[0] for s in shapes):
        raise ShapeError(f"the row-sparse values of one key have one shape; got {', '.join(map(str, shapes))}")
    return RowSparse(np.concatenate([v.ids for v in value]), np.concatenate([v.rows for v in value]), value[0].shape)


def wanted_rows(key: str, row_ids: Any, shape: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Rows to be pulled: each once, ascending.

    Raises:
        ConfigError: there is none.
        ShapeError, DTypeError: as `check_ids`.
    """
    if row_ids is None:
        raise ConfigError(f"row_sparse_pull of {key!r} needs row_ids, such as row_ids=[0, 5, 7]")
    try:
        return np.unique(check_ids(row_ids, shape))
    except (ShapeError, DTypeError) as e:
        raise type(e)(f"row_sparse_pull of {key!r}: {e}") from None


def into_rows(key: str, found: RowSparse, out: Any) -> Any:
    """``found`` itself, or ``out`` with these rows written."""
    if out is None:
        return found
    array = out if isinstance(out, np.ndarray) else getattr(out, "data", out)
    if not isinstance(array, np.ndarray) or array.shape != found.shape or array.dtype != found.dtype:
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(out).__name__
        raise ShapeError(
            f"row_sparse_pull of {key!r}: out must be an array of the whole key, {found.dtype} {found.shape}; "
            f"got {what}"
        )
    if not array.flags.writeable:
        raise ConfigError(f"row_sparse_pull of {key!r}: out is read-only")
    array[found.ids] = found.rows
    return out
