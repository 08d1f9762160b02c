"""Indexing, gathering, sorting; and what their gradients are made of: adding back to where elements came from.

A subscript is written down in an operator's attribute ``key`` as a tuple with one entry for each thing between the
brackets: an int; "new" for None; (start, stop, step) for a slice; "array" for an index array, which is an input of the
operator. An Ellipsis is written out as full slices.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import DTypeError, GraphError, ShapeError
from shoal.ops import specs
from shoal.ops.precision import is_float
from shoal.ops.registry import Array, Op, Shape, Spec, Traced, op, spec_of
from shoal.ops.shape import expand_dims, squeeze

Key = Sequence[Any]

_FULL = (None, None, None)


def subscript(x: Any, key: Any) -> Any:
    """``x[key]`` for everything that NumPy takes between the brackets.

    Raises:
        IndexError: a position outside the array, or too many of them.
        GraphError: a boolean mask on a symbol, whose shape would depend on its values.
    """
    if _is_truth(key):  # one truth value for the whole array, which gets an axis of length 1 or 0
        return take(expand_dims(x, axis=0), np.arange(int(bool(key))), axis=0)
    parts, arrays = _written(x, key)
    return getitem(x, *arrays, key=parts)


def assign(x: Any, key: Any, value: Any) -> Any:
    """What x is after ``x[key] = value``: a new array. Gradients go to x but for what was overwritten, and to value.

    Raises:
        IndexError, GraphError: as `subscript`.
        ShapeError: the value does not fit into ``x[key]``.
    """
    if _is_truth(key):
        if not bool(key):
            return x
        key = None
    parts, arrays = _written(x, key)
    if not isinstance(value, (int, float)) and not hasattr(value, "dtype"):
        value = np.asarray(value)
    if getattr(value, "ndim", 0) > 1 and value.shape[0] == 1:  # NumPy lets axes of length 1 in front of it pass
        room = len(getitem.infer(spec_of(x), *map(spec_of, arrays), key=parts).shape)
        while value.ndim > room and value.shape[0] == 1:
            value = squeeze(value, axis=0)
    return setitem(x, value, *arrays, key=parts)


def _is_truth(key: Any) -> bool:
    """Whether a subscript is a single truth value."""
    return isinstance(key, (bool, np.bool_)) or (
        isinstance(key, (np.ndarray, Traced)) and key.ndim == 0 and key.dtype.kind == "b"  # type: ignore[union-attr]  # a Traced has them
    )


def _written(x: Any, key: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """A subscript of x as operators have it: the attribute ``key``, and the index arrays."""
    entries = list(key) if isinstance(key, tuple) else [key]
    if any(_is_truth(e) for e in entries):
        raise IndexError("a single True or False cannot stand among other indices; index with an array of them")
    used = sum(_axes_used(e) for e in entries)
    if used > x.ndim:
        raise IndexError(f"{used} indices for an array with {x.ndim} axes, of shape {tuple(x.shape)}")
    parts: list[Any] = []
    arrays: list[Any] = []
    ellipses = 0
    for e in entries:
        if e is Ellipsis:
            ellipses += 1
            parts += [_FULL] * (x.ndim - used)
        elif e is None:
            parts.append("new")
        elif isinstance(e, slice):
            parts.append(tuple(None if v is None else v.__index__() for v in (e.start, e.stop, e.step)))
        elif isinstance(e, (int, np.integer)):
            parts.append(int(e))
        else:
            new = _index_arrays(e)
            arrays += new
            parts += ["array"] * len(new)
    if ellipses > 1:
        raise IndexError("an index may have one ellipsis ('...')")
    return tuple(parts), arrays


def _axes_used(entry: Any) -> int:
    """How many axes of the array an entry of a subscript takes up: a mask as many as it has itself."""
    if entry is None or entry is Ellipsis:
        return 0
    if isinstance(entry, (list, np.ndarray, Traced)):
        array: Any = np.asarray(entry) if isinstance(entry, list) else entry
        return array.ndim if array.dtype.kind == "b" else 1
    return 1


def _index_arrays(entry: Any) -> list[Any]:
    """An index array as it is; a mask as the positions where it holds."""
    if not isinstance(entry, Traced):
        entry = np.asarray(entry)
        if entry.size == 0 and entry.dtype.kind == "f":  # x[[]]
            entry = entry.astype(np.int64)
    if entry.dtype.kind == "b":
        if not isinstance(entry, np.ndarray) and not _is_tensor(entry):
            raise GraphError(
                "x[mask] has a shape that depends on values, so a graph cannot have it; use where(mask, x, 0)"
            )
        return list((entry.data if _is_tensor(entry) else entry).nonzero())
    if entry.dtype.kind not in "iu":
        raise DTypeError(f"an index must be of integers or booleans, got {entry.dtype}; use astype('int64')")
    return [entry]


def raw_key(key: Any) -> Any:
    """A subscript for a raw array: with arrays in the place of tensors."""
    if isinstance(key, tuple):
        return tuple(raw_key(k) for k in key)
    return key.data if _is_tensor(key) else key


def _is_tensor(x: Any) -> bool:
    """Whether x has an array: unlike `Symbol`. (`Tensor` itself cannot be imported here: it has subscripts.)"""
    return isinstance(x, Traced) and "data" in getattr(type(x), "__slots__", ())


def native(key: Key, arrays: Sequence[Any]) -> tuple[Any, ...]:
    """The written-down subscript as NumPy takes it."""
    rest = iter(arrays)
    return tuple(
        k if isinstance(k, int) else slice(*k) if isinstance(k, tuple) else None if k == "new" else next(rest)
        for k in key
    )


def _selected(op: Op[Any], x: Spec, *arrays: Any, key: Key) -> Spec:
    stand_in = np.broadcast_to(np.empty((), x.dtype), x.shape)  # takes no memory
    positions = [np.broadcast_to(np.intp(0), a.shape) for a in arrays]
    try:
        return Spec(stand_in[native(key, positions)].shape, x.dtype)
    except IndexError as error:
        if any(isinstance(k, int) for k in key):
            raise IndexError(f"getitem: {error}; the array has shape {x.shape}") from None
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ShapeError(f"getitem: index arrays of shape {shapes} do not fit shape {x.shape}: {error}") from None


@op(_selected, view=True)
def getitem(xp: Any, x: Array, *arrays: Array, key: Key) -> Any:
    """``x[key]``; see the module's text for the form of ``key``. Without index arrays the result is a view."""
    return x[native(key, arrays)]


@getitem.vjp
def _getitem_vjp(xp: Any, g: Any, out: Any, x: Any, *arrays: Any, key: Key) -> Any:
    return xp.getitem_add(g, *arrays, key=key, shape=tuple(x.shape)), *[None] * len(arrays)


def _shaped(op: Op[Any], g: Spec, *_: Any, shape: Shape, **__: Any) -> Spec:
    return Spec(tuple(shape), g.dtype)


@op(_shaped)
def getitem_add(xp: Any, g: Array, *arrays: Array, key: Key, shape: Shape) -> Any:
    """Zeros of ``shape`` with g added at ``[key]``: the gradient of `getitem`."""
    out = xp.zeros(shape, g.dtype)
    if arrays:
        xp.add_at(out, native(key, arrays), g)
    else:
        out[native(key, arrays)] = g
    return out


@getitem_add.vjp
def _getitem_add_vjp(xp: Any, g: Any, out: Any, x: Any, *arrays: Any, key: Key, shape: Shape) -> Any:
    return xp.getitem(g, *arrays, key=key), *[None] * len(arrays)


def _assigned(op: Op[Any], x: Spec, value: Any, *arrays: Any, key: Key) -> Spec:
    room = _selected(op, x, *arrays, key=key).shape
    shape = value.shape if isinstance(value, Spec) else ()
    try:
        fits = np.broadcast_shapes(shape, room) == room
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"x[...] = value: x has shape {x.shape}, x[...] {room}; a value of shape {shape} does not fit")
    return x


@op(_assigned)
def setitem(xp: Any, x: Array, value: Array, *arrays: Array, key: Key) -> Any:
    """A copy of x in which ``[key]`` is value, in the dtype of x; where an index occurs twice the last value stays."""
    out = xp.array(x)  # an array also where x is a number of NumPy's
    out[native(key, arrays)] = value
    return out


@setitem.vjp
def _setitem_vjp(xp: Any, g: Any, out: Any, x: Any, value: Any, *arrays: Any, key: Key) -> Any:
    def wrt_value() -> Any:
        given = xp.getitem(g, *arrays, key=key)
        return given * xp.assigned_last(*arrays, key=key, shape=tuple(g.shape)) if arrays else given

    return lambda: xp.setitem(g, 0.0, *arrays, key=key), wrt_value, *[None] * len(arrays)


def _last_spec(op: Op[Any], *arrays: Spec, key: Key, shape: Shape) -> Spec:
    return _selected(op, Spec(tuple(shape), np.dtype(bool)), *arrays, key=key)


@op(_last_spec)
def assigned_last(xp: Any, *arrays: Array, key: Key, shape: Shape) -> Any:
    """For each element of a value that is assigned to ``[key]`` of an array of ``shape``, whether it stays there.

    It does not where an index occurs again further on.
    """
    place, room = native(key, arrays), _last_spec(assigned_last, *map(spec_of, arrays), key=key, shape=shape).shape
    order = xp.arange(math.prod(room)).reshape(room)
    last = xp.full(shape, -1)
    last[place] = order
    return last[place] == order


def _taken(op: Op[Any], x: Spec, indices: Any, axis: int | None = None) -> Spec:
    where = indices.shape if isinstance(indices, Spec) else ()
    if isinstance(indices, Spec) and indices.dtype.kind not in "iu":
        raise DTypeError(f"{op.name}: indices must be integers, got {indices.dtype}; use astype('int64')")
    if axis is None:
        return Spec(where, x.dtype)
    axis = specs.axis_of(op, axis, x.ndim)
    return Spec(x.shape[:axis] + where + x.shape[axis + 1 :], x.dtype)


@op(_taken)
def take(xp: Any, x: Array, indices: Array, axis: int | None = None) -> Any:
    """The slices of x along ``axis`` at ``indices`` (elements of the flattened array if None).

    Raises:
        IndexError: an index is outside the axis.
    """
    return xp.take(x, indices, axis=axis)


@take.vjp
def _take_vjp(xp: Any, g: Any, out: Any, x: Any, indices: Any, axis: int | None = None) -> Any:
    return xp.take_add(g, indices, axis=axis, shape=tuple(x.shape)), None


@op(_shaped)
def take_add(xp: Any, g: Array, indices: Array, shape: Shape, axis: int | None = None) -> Any:
    """Zeros of ``shape`` with the slices of g added at ``indices`` along ``axis``: the gradient of `take`."""
    index = xp.asarray(indices)
    if axis is None:
        return xp.add_rows(g.reshape(-1, 1), index.reshape(-1), math.prod(shape)).reshape(shape)
    axis %= len(shape)
    rows = g.reshape(math.prod(shape[:axis]), index.size, math.prod(shape[axis + 1 :])).swapaxes(0, 1)
    out = xp.add_rows(rows, index.reshape(-1), shape[axis])
    return out.reshape(shape) if not axis else xp.ascontiguousarray(out.swapaxes(0, 1)).reshape(shape)


@take_add.vjp
def _take_add_vjp(xp: Any, g: Any, out: Any, x: Any, indices: Any, shape: Shape, axis: int | None = None) -> Any:
    return xp.take(g, indices, axis=axis), None


def _along(op: Op[Any], x: Spec, indices: Spec, *, axis: int) -> Spec:
    axis = specs.axis_of(op, axis, x.ndim)
    others = [(a, b) for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=False)) if i != axis]
    if indices.ndim != x.ndim or any(b not in (1, a) for a, b in others):
        raise ShapeError(f"{op.name}: indices of shape {indices.shape} must have shape {x.shape}, but for axis {axis}")
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"{op.name}: indices must be integers, got {indices.dtype}; use astype('int64')")
    shape = tuple(indices.shape[i] if i == axis else n for i, n in enumerate(x.shape))
    return Spec(shape, x.dtype)


@op(_along)
def take_along_axis(xp: Any, x: Array, indices: Array, axis: int) -> Any:
    """For each position, the element of x at the place along ``axis`` that ``indices`` gives: x[i, indices[i, j]]."""
    return xp.take_along_axis(x, indices, axis)


@take_along_axis.vjp
def _take_along_axis_vjp(xp: Any, g: Any, out: Any, x: Any, indices: Any, axis: int) -> Any:
    return xp.along_axis_add(g, indices, axis=axis, shape=tuple(x.shape)), None


@op(_shaped)
def along_axis_add(xp: Any, g: Array, indices: Array, axis: int, shape: Shape) -> Any:
    """Zeros of ``shape`` with g added at ``indices`` along ``axis``: the gradient of `take_along_axis`."""
    out = xp.zeros(shape, g.dtype)
    axis %= len(shape)
    places = [xp.arange(n).reshape((n,) + (1,) * (len(shape) - i - 1)) for i, n in enumerate(g.shape)]
    places[axis] = indices
    if g.shape[axis] == 1:  # no two indices can meet
        out[tuple(places)] = g
    else:
        xp.add_at(out, tuple(places), g)
    return out


@along_axis_add.vjp
def _along_axis_add_vjp(xp: Any, g: Any, out: Any, x: Any, indices: Any, axis: int, shape: Shape) -> Any:
    return xp.take_along_axis(g, indices, axis), None


def _hot(
    op: Op[Any], indices: Spec, *, depth: int, on_value: float = 1.0, off_value: float = 0.0, dtype: str = "float32"
) -> Spec:
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"one_hot: indices must be integers, got {indices.dtype}; use astype('int64')")
    return Spec((*indices.shape, depth), np.dtype(dtype))


@op(_hot)
def one_hot(
    xp: Any, indices: Array, depth: int, on_value: float = 1.0, off_value: float = 0.0, dtype: str = "float32"
) -> Any:
    """``on_value`` at each index and ``off_value`` elsewhere, along a new last axis of length ``depth``.

    An index outside 0 to depth - 1 gives a row of ``off_value``, as in MXNet.
    """
    return xp.where(indices[..., None] == xp.arange(depth), on_value, off_value).astype(dtype)


def _sorted_spec(op: Op[Any], x: Spec, axis: int = -1) -> Spec:
    specs.axis_of(op, axis, x.ndim)
    return Spec(x.shape, np.dtype(np.int64) if op.name == "argsort" else x.dtype)


@op(_sorted_spec)
def sort(xp: Any, x: Array, axis: int = -1) -> Any:
    """In ascending order along ``axis``."""
    return xp.sort(x, axis=axis)


@sort.vjp
def _sort_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    return (xp.take_along_axis(g, xp.argsort(xp.argsort(x, axis=axis), axis=axis), axis),)


@op(_sorted_spec)
def argsort(xp: Any, x: Array, axis: int = -1) -> Any:
    """The positions that sort x along ``axis``; equal elements keep their order. int64."""
    return xp.argsort(x, axis=axis, kind="stable")


def _top(op: Op[Any], x: Spec, k: int = 1, axis: int = -1, is_ascend: bool = False) -> tuple[Spec, Spec]:
    axis = specs.axis_of(op, axis, x.ndim)
    if not 0 < k <= x.shape[axis]:
        raise ShapeError(f"topk: k={k} of axis {axis} of shape {x.shape}")
    shape = tuple(k if i == axis else n for i, n in enumerate(x.shape))
    return Spec(shape, x.dtype), Spec(shape, np.dtype(np.int64))


@op(_top)
def topk(xp: Any, x: Array, k: int = 1, axis: int = -1, is_ascend: bool = False) -> Any:
    """The k largest elements along ``axis`` and their positions (int64), best first.

    Args:
        is_ascend: the k smallest instead.
    """
    if not 0 < k <= x.shape[axis]:
        raise ValueError(f"topk: k={k}")
    rows = xp.moveaxis(x, axis, -1)
    order = xp.moveaxis(_first(xp, rows, k, is_ascend), -1, axis)
    return xp.take_along_axis(x, order, axis), order


_MANY = 64
"""From so many elements on, the best are selected before they are sorted."""


def _first(xp: Any, x: Any, k: int, is_ascend: bool) -> Any:
    """The positions of the k smallest (or largest) elements along the last axis, best first, equal ones in order."""
    n = x.shape[-1]
    if n >= max(_MANY, 4 * k) and x.dtype.kind in "iuf" and x.size:
        rows = x.reshape(-1, n)
        kth = k - 1 if is_ascend else n - k
        limit = xp.partition(rows, kth, axis=-1)[:, kth : kth + 1]
        if not (x.dtype.kind == "f" and xp.isnan(rows).any()):
            places = _within_limit(xp, rows, limit, k, is_ascend)
            best = _sorted_places(xp, xp.take_along_axis(rows, places, -1), is_ascend)
            return xp.take_along_axis(places, best, -1).reshape(*x.shape[:-1], k)
    return _sorted_places(xp, x, is_ascend)[..., :k]


def _within_limit(xp: Any, rows: Any, limit: Any, k: int, is_ascend: bool) -> Any:
    """The positions, in ascending order, of the k best elements of each row; ``limit`` is the last of them."""
    better, equal = rows < limit if is_ascend else rows > limit, rows == limit
    room = k - better.sum(axis=-1, keepdims=True)
    if (equal.sum(axis=-1, keepdims=True) > room).any():
        equal &= xp.cumsum(equal, axis=-1) <= room
    return xp.nonzero(better | equal)[1].reshape(-1, k)


def _sorted_places(xp: Any, x: Any, is_ascend: bool) -> Any:
    """The positions that sort along the last axis; of equal elements the first comes first."""
    if is_ascend:
        return xp.argsort(x, axis=-1, kind="stable")
    # the reversed order is of the reversed array
    return x.shape[-1] - 1 - xp.flip(xp.argsort(xp.flip(x, -1), axis=-1, kind="stable"), -1)


@topk.vjp
def _topk_vjp(xp: Any, g: Any, out: Any, x: Any, k: int = 1, axis: int = -1, is_ascend: bool = False) -> Any:
    return (None if g[0] is None else xp.along_axis_add(g[0], out[1], axis=axis, shape=tuple(x.shape)),)


def pick(x: Any, indices: Any, axis: int = -1, keepdims: bool = False) -> Any:
    """The elements of x at ``indices`` along ``axis``: one per row for ``axis=-1``.

    Args:
        indices: of the shape of x without ``axis``; floats, as labels often are, are cut off, as in MXNet.
    """
    places = expand_dims(indices, axis=axis)
    if is_float(places.dtype):
        places = places.astype("int64")
    chosen = take_along_axis(x, places, axis=axis)
    return chosen if keepdims else chosen.squeeze(axis)
