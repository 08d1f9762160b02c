"""Gathering from and scattering to places that are given by arrays: MXNet's functions, and PyTorch's.

All are made of `getitem`, `setitem` and one operator here, so that all have gradients. Nothing is written in place:
each function returns a new array. Where several values go to one place, the last one stays ("update"), or all are
combined ("add", "multiply", "maximum", "minimum"), and each gets its part of the gradient.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import index, reduce, shape
from shoal.ops.elementwise import astype, where, zeros_like
from shoal.ops.elementwise import maximum as _maximum
from shoal.ops.precision import is_float
from shoal.ops.registry import Array, Op, Shape, Spec, op

__all__ = [
    "gather",
    "gather_nd",
    "index_add",
    "index_copy",
    "index_fill",
    "index_select",
    "index_update",
    "masked_fill",
    "masked_scatter",
    "masked_select",
    "scatter",
    "scatter_add",
    "scatter_nd",
    "scatter_nd_reduce",
    "scatter_reduce",
    "segment_max",
    "segment_mean",
    "segment_min",
    "segment_prod",
    "segment_sum",
]

Key = Sequence[Any]

_MODES = ("add", "multiply", "maximum", "minimum")


def _combined(op: Op[Any], x: Spec, values: Any, *arrays: Spec, key: Key, mode: str) -> Spec:
    if mode not in _MODES:
        raise ConfigError(f"{op.name}: mode {mode!r}; there are {', '.join(_MODES)}")
    room = index.getitem.infer(x, *arrays, key=key).shape
    given = values.shape if isinstance(values, Spec) else ()
    try:
        fits = np.broadcast_shapes(given, room) == room
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"{op.name}: values of shape {given} do not fit into {room} places of shape {x.shape}")
    return x


@op(_combined)
def combine_at(xp: Any, x: Array, values: Array, *arrays: Array, key: Key, mode: str) -> Any:
    """A copy of x with values combined into ``[key]``; where an index occurs twice both values count.

    Args:
        key: see `shoal.ops.index`.
        mode: "add", "multiply", "maximum" or "minimum".
    """
    out = x.copy()
    getattr(xp, mode).at(out, index.native(key, arrays), xp.asarray(values).astype(x.dtype, copy=False))
    return out


@combine_at.vjp
def _combine_at_vjp(xp: Any, g: Any, out: Any, x: Any, values: Any, *arrays: Any, key: Key, mode: str) -> Any:
    none = [None] * len(arrays)

    def at(array: Any) -> Any:
        return xp.getitem(array, *arrays, key=key)

    if mode == "add":
        return g, lambda: at(g), *none
    if mode == "multiply":
        return *_product_gradients(xp, g, x, values, arrays, key), *none
    won, kept = (values == at(out)), x == out  # equal ones share
    ties = xp.combine_at(kept.astype(x.dtype), won.astype(x.dtype), *arrays, key=key, mode="add")
    share = g / xp.where(ties == 0, 1.0, ties)
    return share * kept, lambda: at(share) * won, *none


def _product_gradients(xp: Any, g: Any, x: Any, values: Any, arrays: Any, key: Key) -> tuple[Any, Any]:
    """Each factor's gradient is the product of the others: of all but the zeros, if it is the only zero itself."""
    zero_x, zero_v = x == 0, values == 0
    one_x, one_v = xp.where(zero_x, 1.0, x), xp.where(zero_v, 1.0, values)
    product = xp.combine_at(one_x, one_v, *arrays, key=key, mode="multiply")
    zeros = xp.combine_at(zero_x.astype(x.dtype), zero_v.astype(x.dtype), *arrays, key=key, mode="add")

    def others(factor: Any, is_zero: Any, product: Any, zeros: Any) -> Any:
        return xp.where(zeros == is_zero.astype(zeros.dtype), product / factor, 0.0)

    def at(array: Any) -> Any:
        return xp.getitem(array, *arrays, key=key)

    return (lambda: g * others(one_x, zero_x, product, zeros)), (
        lambda: at(g) * others(one_v, zero_v, at(product), at(zeros))
    )


# -- positions as tuples: gather_nd and its kin


def _tuple(name: str, indices: Any, ndim: int) -> tuple[list[Any], tuple[Any, ...]]:
    """Index arrays and the key, for indices of shape (axes, ...): one row per leading axis of the array."""
    if isinstance(indices, (list, tuple)):
        arrays = [i if hasattr(i, "dtype") else np.asarray(i) for i in indices]
    else:
        arrays = [indices[i] for i in range(indices.shape[0])]
    if not 0 < len(arrays) <= ndim:
        raise ShapeError(f"{name}: {len(arrays)} rows of indices for an array with {ndim} axes")
    if any(a.dtype.kind not in "iu" for a in arrays):
        raise DTypeError(f"{name}: indices must be integers, got {arrays[0].dtype}; use astype('int64')")
    return arrays, ("array",) * len(arrays)


def gather_nd(data: Any, indices: Any) -> Any:
    """The elements (or slices) of data at positions: out[...] = data[indices[0, ...], indices[1, ...], ...].

    Args:
        indices: integers (m, ...), for the first m axes of data.
    Raises:
        IndexError: a position is outside of data.
    """
    arrays, key = _tuple("gather_nd", indices, data.ndim)
    return index.getitem(data, *arrays, key=key)


def scatter_nd(data: Any, indices: Any, shape: Shape) -> Any:
    """Zeros of ``shape`` with data added at positions: the opposite of `gather_nd`. Values at one place are summed."""
    arrays, key = _tuple("scatter_nd", indices, len(shape))
    return index.getitem_add(data, *arrays, key=key, shape=tuple(shape))


def index_update(a: Any, ind: Any, val: Any) -> Any:
    """``a`` with ``val`` at positions ``ind``, as of `gather_nd`; of several values for one place the last stays."""
    arrays, key = _tuple("index_update", ind, a.ndim)
    return index.setitem(a, val, *arrays, key=key)


def index_add(a: Any, ind: Any, val: Any) -> Any:
    """``a`` with ``val`` added at positions ``ind``, as of `gather_nd`; all values for one place count."""
    return scatter_nd_reduce(a, ind, val, "add")


def scatter_nd_reduce(a: Any, ind: Any, val: Any, reduce: str = "add") -> Any:
    """``a`` with ``val`` combined into positions ``ind``, as of `gather_nd`.

    Args:
        reduce: "add", "multiply", "maximum", "minimum"; or "update", which overwrites.
    """
    if reduce == "update":
        return index_update(a, ind, val)
    arrays, key = _tuple("scatter_nd_reduce", ind, a.ndim)
    return combine_at(a, val, *arrays, key=key, mode=reduce)


# -- positions along an axis: PyTorch's gather and scatter


def _along(name: str, x: Any, indices: Any, axis: int) -> tuple[list[Any], tuple[str, ...]]:
    """Index arrays and the key of x[i, indices[i, j], ...]."""
    if not -x.ndim <= axis < x.ndim or indices.ndim != x.ndim:
        raise ShapeError(f"{name}: indices of shape {tuple(indices.shape)} for axis {axis} of shape {tuple(x.shape)}")
    axis %= x.ndim
    if any(m > n for i, (m, n) in enumerate(zip(indices.shape, x.shape, strict=True)) if i != axis):
        raise ShapeError(f"{name}: indices of shape {tuple(indices.shape)} are longer than {tuple(x.shape)}")
    grid: list[Any] = [
        np.arange(n).reshape((n,) + (1,) * (x.ndim - i - 1)) if i != axis else indices
        for i, n in enumerate(indices.shape)
    ]
    return grid, ("array",) * x.ndim


def gather(x: Any, axis: int, indices: Any) -> Any:
    """out[i, j, k] = x[i, indices[i, j, k], k], for axis 1: PyTorch's; indices may be shorter than x elsewhere."""
    arrays, key = _along("gather", x, indices, axis)
    return index.getitem(x, *arrays, key=key)


def _values(values: Any, indices: Any) -> Any:
    """Values for indices, which may be shorter than they are."""
    if not getattr(values, "ndim", 0):
        return values
    if values.ndim != indices.ndim or any(n < m for n, m in zip(values.shape, indices.shape, strict=True)):
        raise ShapeError(f"scatter: values of shape {tuple(values.shape)} for indices of shape {tuple(indices.shape)}")
    return values if tuple(values.shape) == tuple(indices.shape) else values[tuple(slice(n) for n in indices.shape)]


def scatter(x: Any, axis: int, indices: Any, values: Any) -> Any:
    """x with values at x[i, indices[i, j, k], k] = values[i, j, k], for axis 1; the last value for a place stays."""
    arrays, key = _along("scatter", x, indices, axis)
    return index.setitem(x, _values(values, indices), *arrays, key=key)


def scatter_add(x: Any, axis: int, indices: Any, values: Any) -> Any:
    """x with values added at x[i, indices[i, j, k], k] += values[i, j, k], for axis 1."""
    return scatter_reduce(x, axis, indices, values, "sum")


_REDUCTIONS = {
    **{mode: mode for mode in _MODES},
    "sum": "add",
    "prod": "multiply",
    "mul": "multiply",
    "amax": "maximum",
    "max": "maximum",
    "amin": "minimum",
    "min": "minimum",
}


def scatter_reduce(x: Any, axis: int, indices: Any, values: Any, reduce: str, include_self: bool = True) -> Any:
    """x with values combined into x[i, indices[i, j, k], k], for axis 1.

    Args:
        reduce: "sum", "prod", "mean", "amax" or "amin", as in PyTorch; or "add", "mul", "max", "min", as in ONNX.
        include_self: what stands in x counts too, where values come.
    Raises:
        ConfigError: there is no such reduction.
    """
    if reduce != "mean" and reduce not in _REDUCTIONS:
        raise ConfigError(f"scatter_reduce: reduce {reduce!r}; there are mean, {', '.join(_REDUCTIONS)}")
    arrays, key = _along("scatter_reduce", x, indices, axis)
    values = _values(values, indices)
    mode = _REDUCTIONS.get(reduce, "add")
    if not include_self:
        x = index.setitem(x, _neutral(mode, x.dtype), *arrays, key=key)
    out = combine_at(x, values, *arrays, key=key, mode=mode)
    if reduce != "mean":
        return out
    ones = np.ones(tuple(indices.shape), x.dtype)
    start = zeros_like(x) + (1.0 if include_self else 0.0)
    counts = combine_at(start, ones, *arrays, key=key, mode="add")
    return out / (_maximum(counts, 1.0) if not include_self else counts)


def _neutral(mode: str, dtype: Any) -> Any:
    """What does not change a sum, a product, ..."""
    if mode in ("add", "multiply"):
        return 0 if mode == "add" else 1
    if is_float(dtype):
        return -math.inf if mode == "maximum" else math.inf
    if dtype.kind == "b":
        return mode == "minimum"
    return int(np.iinfo(dtype).min if mode == "maximum" else np.iinfo(dtype).max)


# -- whole slices


def _rows(x: Any, axis: int, indices: Any) -> tuple[list[Any], tuple[Any, ...]]:
    axis %= x.ndim
    if not hasattr(indices, "dtype"):
        indices = np.asarray(indices)
    return [indices], (*((None, None, None),) * axis, "array", *((None, None, None),) * (x.ndim - axis - 1))


def index_select(x: Any, axis: int, indices: Any) -> Any:
    """The slices of x along ``axis`` at ``indices``."""
    return index.take(x, indices, axis=axis)


def index_copy(x: Any, axis: int, indices: Any, source: Any) -> Any:
    """x with the slices of ``source`` in the place of those at ``indices`` along ``axis``."""
    arrays, key = _rows(x, axis, indices)
    return index.setitem(x, source, *arrays, key=key)


def index_fill(x: Any, axis: int, indices: Any, value: Any) -> Any:
    """x with ``value`` everywhere in the slices at ``indices`` along ``axis``."""
    arrays, key = _rows(x, axis, indices)
    return index.setitem(x, value, *arrays, key=key)


# -- masks


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x with ``value`` where the mask holds; the mask broadcasts."""
    return where(mask, value, x)


def masked_select(x: Any, mask: Any) -> Any:
    """The elements of x where the mask holds, as a vector; both broadcast. Its length depends on values: no graph."""
    full = np.broadcast_shapes(tuple(x.shape), tuple(mask.shape))
    return shape.broadcast_to(x, shape=full)[shape.broadcast_to(mask, shape=full)]


def masked_scatter(x: Any, mask: Any, source: Any) -> Any:
    """x with the first elements of ``source``, in order, where the mask holds."""
    order = reduce.cumsum(astype(shape.broadcast_to(mask, shape=tuple(x.shape)), dtype="int64")) - 1
    flat = shape.reshape(source, shape=(-1,))
    chosen = index.take(flat, shape.reshape(_maximum(order, 0), shape=tuple(x.shape)) % flat.shape[0])
    return where(mask, chosen, x)


# -- segments


def _segment(name: str, data: Any, ids: Any, num_segments: int | None) -> tuple[Any, int]:
    if not hasattr(ids, "dtype"):
        ids = np.asarray(ids)
    if ids.ndim != 1 or not data.ndim or ids.shape[0] != data.shape[0]:
        raise ShapeError(
            f"{name}: data of shape {tuple(data.shape)} needs one segment number per row, got {tuple(ids.shape)}"
        )
    if num_segments is None:
        values = getattr(ids, "data", ids) if not isinstance(ids, np.ndarray) else ids
        num_segments = int(values.max()) + 1 if values.size else 0
    return ids, num_segments


def segment_sum(data: Any, segment_ids: Any, num_segments: int | None = None) -> Any:
    """Sums of the rows of data that have the same segment number.

    Args:
        segment_ids: (rows,), integers from 0, in any order.
        num_segments: needed in a graph; by default the largest number plus one.
    """
    ids, n = _segment("segment_sum", data, segment_ids, num_segments)
    return index.take_add(data, ids, axis=0, shape=(n, *data.shape[1:]))


def segment_mean(data: Any, segment_ids: Any, num_segments: int | None = None) -> Any:
    """Means of the rows of data that have the same segment number; 0 where there is none. See `segment_sum`."""
    ids, n = _segment("segment_mean", data, segment_ids, num_segments)
    ones = np.ones((data.shape[0],) + (1,) * (data.ndim - 1), data.dtype)
    counts = index.take_add(ones, ids, axis=0, shape=(n,) + (1,) * (data.ndim - 1))
    return segment_sum(data, ids, n) / _maximum(counts, 1.0)


def _segment_combined(name: str, data: Any, ids: Any, num_segments: int | None, mode: str) -> Any:
    ids, n = _segment(name, data, ids, num_segments)
    start = np.full((n, *data.shape[1:]), _neutral(mode, data.dtype), data.dtype)
    return combine_at(start, data, ids, key=("array", *((None, None, None),) * (data.ndim - 1)), mode=mode)


def segment_max(data: Any, segment_ids: Any, num_segments: int | None = None) -> Any:
    """Largest elements of the rows with the same segment number; -inf where there is none. See `segment_sum`."""
    return _segment_combined("segment_max", data, segment_ids, num_segments, "maximum")


def segment_min(data: Any, segment_ids: Any, num_segments: int | None = None) -> Any:
    """Smallest elements of the rows with the same segment number; inf where there is none. See `segment_sum`."""
    return _segment_combined("segment_min", data, segment_ids, num_segments, "minimum")


def segment_prod(data: Any, segment_ids: Any, num_segments: int | None = None) -> Any:
    """Products of the rows with the same segment number; 1 where there is none. See `segment_sum`."""
    return _segment_combined("segment_prod", data, segment_ids, num_segments, "multiply")
