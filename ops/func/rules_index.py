"""Rules of `vmap` for subscripts, gathering, and adding back to where elements came from."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.func.rules import Batch, batching, flat, later, lead, loop, ndim_of
from shoal.ops.registry import OPS, Op

Key = Sequence[Any]
_FULL = (None, None, None)


def _advanced(key: Key) -> tuple[int, int, bool]:
    """(axes of the result before those of the index arrays, entries that are one, whether they stand together)."""
    places = [i for i, k in enumerate(key) if k == "array" or isinstance(k, int)]
    together = places == list(range(places[0], places[-1] + 1))
    before = places[0] if together else 0
    return before, len(places), together


def _index_ndim(arrays: Sequence[Any], on: Sequence[bool]) -> int:
    return max((ndim_of(a, flag) for a, flag in zip(arrays, on, strict=True)), default=0)


def _rows(batch: Batch, ndim: int) -> Any:
    """The number of each example, in the shape that index arrays with ``ndim`` axes need it."""
    return np.arange(batch.size).reshape((batch.size,) + (1,) * ndim)


def _wide(arrays: Sequence[Any], on: Sequence[bool], ndim: int) -> list[Any]:
    return [lead(a, ndim) if flag else a for a, flag in zip(arrays, on, strict=True)]


@batching("getitem")
def _getitem(op: Op[Any], batch: Batch, x: Any, *arrays: Any, key: Key) -> Any:
    if not arrays:
        return op(x, key=(_FULL, *key))
    ndim = _index_ndim(arrays, batch.on[1:])
    before, _, together = _advanced(key)
    if not any(batch.on[1:]):
        out = op(x, *arrays, key=(_FULL, *key))
        return out if together else OPS["moveaxis"](out, source=ndim, destination=0)
    x = x if batch.on[0] else batch.spread(x)
    out = op(x, _rows(batch, ndim), *_wide(arrays, batch.on[1:], ndim), key=("array", *key))
    if not together or not before:  # the axes of the index arrays are in front, where they belong
        return out
    return OPS["moveaxis"](
        out, source=tuple(range(1, ndim + 1)), destination=tuple(range(before + 1, before + ndim + 1))
    )


@batching("getitem_add")
def _getitem_add(op: Op[Any], batch: Batch, g: Any, *arrays: Any, key: Key, shape: Any) -> Any:
    g, shape = (g if batch.on[0] else batch.spread(g)), (batch.size, *shape)
    if not arrays:
        return op(g, key=(_FULL, *key), shape=shape)
    ndim = _index_ndim(arrays, batch.on[1:])
    before, _, together = _advanced(key)
    if not any(batch.on[1:]):
        g = g if together else OPS["moveaxis"](g, source=0, destination=ndim)
        return op(g, *arrays, key=(_FULL, *key), shape=shape)
    if together and before:
        moved = tuple(range(before + 1, before + ndim + 1))
        g = OPS["moveaxis"](g, source=moved, destination=tuple(range(1, ndim + 1)))
    return op(g, _rows(batch, ndim), *_wide(arrays, batch.on[1:], ndim), key=("array", *key), shape=shape)


@batching("setitem")
def _setitem(op: Op[Any], batch: Batch, x: Any, value: Any, *arrays: Any, key: Key) -> Any:
    if arrays:
        return loop(op, batch, x, value, *arrays, key=key)
    x = x if batch.on[0] else batch.spread(x)
    ndim = x.ndim - 1 - sum(isinstance(k, int) for k in key) + sum(k == "new" for k in key)
    return op(x, lead(value, ndim) if batch.on[1] else value, key=(_FULL, *key))


@batching("assigned_last")
def _assigned_last(op: Op[Any], batch: Batch, *arrays: Any, key: Key, shape: Any) -> Any:
    return loop(op, batch, *arrays, key=key, shape=shape)


@batching("take")
def _take(op: Op[Any], batch: Batch, x: Any, indices: Any, axis: int | None = None) -> Any:
    on_x, on_indices = batch.on
    if not on_indices:
        return op(flat(x), indices, axis=1) if axis is None else op(x, indices, axis=later(axis))
    if not on_x:
        out = op(x, indices, axis=axis)
        return out if axis is None else OPS["moveaxis"](out, source=axis % x.ndim, destination=0)
    if axis is None:
        x, axis = flat(x), 0
    key = (_FULL,) * (axis % (x.ndim - 1)) + ("array",)
    return _getitem(OPS["getitem"], batch, x, indices, key=key)


@batching("take_add")
def _take_add(op: Op[Any], batch: Batch, g: Any, indices: Any, shape: Any, axis: int | None = None) -> Any:
    g = g if batch.on[0] else batch.spread(g)
    size = int(np.prod(shape))
    if axis is None:
        flags = (True, batch.on[1])
        ndim = ndim_of(indices, batch.on[1])
        rows = OPS["reshape"](g, shape=(batch.size, int(np.prod(g.shape[1:]))))
        where = OPS["reshape"](indices, shape=((batch.size, -1) if batch.on[1] else (-1,))) if ndim != 1 else indices
        out = _take_add(op, batch._replace(on=flags), rows, where, shape=(size,), axis=0)
        return OPS["reshape"](out, shape=(batch.size, *shape))
    if not batch.on[1]:
        return op(g, indices, shape=(batch.size, *shape), axis=later(axis))
    key = (_FULL,) * (axis % len(shape)) + ("array",)
    flags = (True, True)
    return _getitem_add(OPS["getitem_add"], batch._replace(on=flags), g, indices, key=key, shape=shape)


@batching("along_axis_add")
def _along_axis_add(op: Op[Any], batch: Batch, g: Any, indices: Any, axis: int, shape: Any) -> Any:
    g, indices = batch.all([g, indices])
    return op(g, indices, axis=later(axis % len(shape)), shape=(batch.size, *shape))
