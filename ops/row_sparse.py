"""Row-sparse tensors, as MXNet's: a few rows of a large array. They are the gradients of embeddings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import index
from shoal.ops.registry import Array, Op, Spec, op
from shoal.ops.rows import RowSparse, check_ids
from shoal.ops.tensor import Tensor

__all__ = ["RowSparseTensor", "sparse_take"]


class RowSparseTensor(RowSparse):
    """A `RowSparse` with MXNet's interface: `indices` and `data` are Tensors, arithmetic keeps rows where it can.

    Args:
        ids: integers, in any order; a repeated one adds up.
        rows: one row for each id.
        shape: of the whole array.

    >>> RowSparseTensor([4, 1], np.ones((2, 3), "float32"), (6, 3)) * 2
    <RowSparseTensor 2 rows of (6, 3), float32>
    """

    __slots__ = ()
    stype = "row_sparse"

    def __init__(self, ids: Any, rows: Any, shape: Sequence[int]) -> None:
        super().__init__(ids, rows, shape)
        self._hold(self)

    def _hold(self, other: RowSparse) -> None:
        merged = other.merged()
        self.ids, self.rows = merged.ids, merged.rows

    @classmethod
    def of(cls, other: RowSparse) -> "RowSparseTensor":
        """``other`` as a tensor; its memory is not copied."""
        return cls(other.ids, other.rows, other.shape)

    @classmethod
    def empty(cls, shape: Sequence[int], dtype: Any = "float32") -> "RowSparseTensor":
        """One without rows: all is 0."""
        return cls(np.empty(0, np.int64), np.empty((0, *shape[1:]), dtype), shape)

    @property
    def indices(self) -> Tensor:
        """Numbers of the rows, ascending."""
        return Tensor(self.ids)

    @property
    def data(self) -> Tensor:
        """The rows."""
        return Tensor(self.rows)

    @property
    def size(self) -> int:
        """Number of elements of the whole array."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __repr__(self) -> str:
        return f"<RowSparseTensor {self.ids.size} rows of {self.shape}, {self.dtype}>"

    def asnumpy(self) -> Any:
        """The whole array."""
        return self.dense()

    def todense(self) -> Tensor:
        """The whole array as a Tensor."""
        return Tensor(self.dense())

    def tostype(self, stype: str) -> "Tensor | RowSparseTensor":
        """This as "default" (a Tensor) or "row_sparse" (itself).

        Raises:
            ConfigError: another storage type.
        """
        if stype == "row_sparse":
            return self
        if stype != "default":
            raise ConfigError(f"a row-sparse tensor becomes 'default' or 'row_sparse', not {stype!r}")
        return self.todense()

    def copy(self) -> "RowSparseTensor":
        """The same in memory of its own."""
        return RowSparseTensor(self.ids.copy(), self.rows.copy(), self.shape)

    def astype(self, dtype: Any, copy: bool = True) -> "RowSparseTensor":
        """The same in another dtype."""
        return RowSparseTensor(self.ids, self.rows.astype(dtype, copy=copy), self.shape)

    def retain(self, indices: Any) -> "RowSparseTensor":
        """Only those of the rows ``indices`` that are there.

        Raises:
            ShapeError: a row is out of range.
        """
        kept = np.isin(self.ids, check_ids(indices, self.shape))
        return RowSparseTensor(self.ids[kept], self.rows[kept], self.shape)

    def __getitem__(self, key: Any) -> "RowSparseTensor":
        """Rows ``[start:stop]``.

        Raises:
            ConfigError: anything else; convert with ``tostype("default")``.
        """
        if key == slice(None):
            return self
        if not isinstance(key, slice) or key.step not in (None, 1):
            raise ConfigError(f"a row-sparse tensor is sliced by rows, x[start:stop], not {key!r}; use todense()")
        start, stop, _ = key.indices(self.shape[0])
        return RowSparseTensor.of(self.between(start, max(start, stop)))

    def receive(self, g: Any, add: bool) -> None:
        """Take over a gradient, in place of what is here or added to it: rows, a whole array, or None for zero."""
        if g is None:
            if not add:
                self._hold(RowSparseTensor.empty(self.shape, self.dtype))
            return
        rows = g if isinstance(g, RowSparse) else RowSparse.from_dense(g)
        self._hold(RowSparse.__add__(self, rows) if add else rows.copy())

    def __neg__(self) -> "RowSparseTensor":
        return RowSparseTensor(self.ids, -self.rows, self.shape)

    def __add__(self, other: Any) -> Any:
        """With another: row-sparse. With a whole array: a Tensor."""
        if isinstance(other, RowSparse):
            self._same_shape(other)
            return RowSparseTensor.of(super().__add__(other))
        return Tensor(super().__add__(np.broadcast_to(np.asarray(other), self.shape)))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> "RowSparseTensor":
        """With a number or a whole array: the rows that are here."""
        if isinstance(other, RowSparse):
            self._same_shape(other)
            other = other.dense()
        values = np.asarray(other)
        factor = values if not values.ndim else np.broadcast_to(values, self.shape)[self.ids]
        return RowSparseTensor(self.ids, self.rows * _like(factor, other, self.dtype), self.shape)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "RowSparseTensor":
        values = np.asarray(other)
        divisor = values if not values.ndim else np.broadcast_to(values, self.shape)[self.ids]
        return RowSparseTensor(self.ids, self.rows / _like(divisor, other, self.dtype), self.shape)

    def _same_shape(self, other: RowSparse) -> None:
        if self.shape != other.shape:
            raise ShapeError(f"row-sparse tensors of shape {self.shape} and {other.shape} do not fit each other")


def _like(value: Any, given: Any, dtype: Any) -> Any:
    """A Python number does not widen an array."""
    return value.astype(dtype) if isinstance(given, (int, float)) else value


def _taken(op: Op[Any], x: Spec, ids: Spec) -> Spec:
    return index.take.infer(x, ids, axis=0)  # type: ignore[no-any-return]  # one output: a Spec


@op(_taken)
def sparse_take(xp: Any, x: Array, ids: Array) -> Any:
    """The rows ``ids`` of x, as ``take(x, ids, axis=0)``; the gradient has these rows only, where x is a variable.

    Where x was computed, on a GPU, in a graph and in second derivatives the gradient is a whole array.
    """
    return xp.take(x, ids, axis=0)


@sparse_take.vjp
def _sparse_take_vjp(xp: Any, g: Any, out: Any, x: Any, ids: Any) -> Any:
    if not isinstance(g, np.ndarray) or g.dtype.kind == "c":
        return xp.take_add(g, ids, axis=0, shape=tuple(x.shape)), None
    places = np.asarray(ids).reshape(-1)
    places = np.where(places < 0, places + x.shape[0], places)
    return RowSparse(places, g.reshape(places.size, *x.shape[1:]), x.shape), None
