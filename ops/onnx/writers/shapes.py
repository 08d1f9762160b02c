"""Shapes, positions and reductions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.graph.ir import Call
from shoal.ops.onnx.writers.arithmetic import common
from shoal.ops.onnx.writing import Writer, writes

__all__: list[str] = []


def axes_of(w: Writer, c: Call, x: str, name: str = "axis") -> list[int] | None:
    """Axes of an attribute, counted from the front; None for all."""
    found = c.attrs.get(name)
    if found is None:
        return None
    ndim = w.specs[x].ndim
    return [a % ndim for a in ((found,) if isinstance(found, int) else found)]


@writes("reshape")
def reshape(w: Writer, c: Call, x: str) -> str:
    """To the shape that was traced; the first length is free if it is that of the argument's first axis."""
    shape, given = list(c.specs[0].shape), w.specs[x].shape
    if given and shape and given[0] == shape[0] and shape[0] > 0:
        shape[0] = 0  # "as it is"
    elif shape and 0 not in shape:
        shape[0] = -1
    found: str = w.node("Reshape", x, w.ints(*shape))
    return found


@writes("broadcast_to")
def broadcast_to(w: Writer, c: Call, x: str) -> str:
    """To the shape that was traced."""
    found: str = w.node("Expand", x, w.ints(*c.specs[0].shape))
    return found


def _transposed(w: Writer, x: str, perm: Sequence[int]) -> str:
    found: str = w.node("Transpose", x, perm=list(perm))
    return found


@writes("transpose")
def transpose(w: Writer, c: Call, x: str) -> str:
    """Axes in another order."""
    ndim = w.specs[x].ndim
    axes = c.attrs["axes"]
    return _transposed(w, x, range(ndim)[::-1] if axes is None else [a % ndim for a in axes])


@writes("swapaxes")
def swapaxes(w: Writer, c: Call, x: str) -> str:
    """Two axes exchanged."""
    perm = list(range(w.specs[x].ndim))
    a, b = c.attrs["axis1"], c.attrs["axis2"]
    perm[a], perm[b] = perm[b], perm[a]
    return _transposed(w, x, perm)


@writes("moveaxis")
def moveaxis(w: Writer, c: Call, x: str) -> str:
    """Axes at other places."""
    src, dst = (axes_of(w, c, x, name) or [] for name in ("source", "destination"))
    perm = [a for a in range(w.specs[x].ndim) if a not in src]
    for d, s in sorted(zip(dst, src, strict=True)):
        perm.insert(d, s)
    return _transposed(w, x, perm)


@writes("squeeze")
def squeeze(w: Writer, c: Call, x: str) -> str:
    """Without axes of length 1."""
    axes = axes_of(w, c, x)
    if axes is None:
        axes = [i for i, n in enumerate(w.specs[x].shape) if n == 1]
    return _squeezed(w, x, axes)


def _squeezed(w: Writer, x: str, axes: Sequence[int]) -> str:
    if not axes:
        return x
    if w.opset < 13:
        return w.node("Squeeze", x, axes=list(axes))  # type: ignore[no-any-return]
    return w.node("Squeeze", x, w.ints(*axes))  # type: ignore[no-any-return]


def unsqueezed(w: Writer, x: str, axes: Sequence[int]) -> str:
    """With new axes of length 1."""
    if w.opset < 13:
        return w.node("Unsqueeze", x, axes=list(axes))  # type: ignore[no-any-return]
    return w.node("Unsqueeze", x, w.ints(*axes))  # type: ignore[no-any-return]


@writes("expand_dims")
def expand_dims(w: Writer, c: Call, x: str) -> str:
    """With new axes of length 1."""
    axis, ndim = c.attrs["axis"], c.specs[0].ndim
    return unsqueezed(w, x, [a % ndim for a in ((axis,) if isinstance(axis, int) else axis)])


@writes("concatenate")
def concatenate(w: Writer, c: Call, *xs: str) -> str:
    """One behind the other."""
    found: str = w.node("Concat", *common(w, c, xs), axis=c.attrs["axis"] % c.specs[0].ndim)
    return found


@writes("stack")
def stack(w: Writer, c: Call, *xs: str) -> str:
    """Along a new axis."""
    axis = c.attrs["axis"] % c.specs[0].ndim
    found: str = w.node("Concat", *[unsqueezed(w, x, [axis]) for x in common(w, c, xs)], axis=axis)
    return found


@writes("split")
def split(w: Writer, c: Call, x: str) -> Any:
    """In the lengths that were traced."""
    axis = c.attrs["axis"] % w.specs[x].ndim
    sizes = [s.shape[axis] for s in c.specs]
    if len(sizes) == 1:
        return (w.node("Identity", x),)
    if w.opset < 13:
        return w.node("Split", x, outputs=len(sizes), axis=axis, split=sizes)
    return w.node("Split", x, w.ints(*sizes), outputs=len(sizes), axis=axis)


@writes("tile")
def tile(w: Writer, c: Call, x: str) -> str:
    """The whole array several times."""
    reps = c.attrs["reps"]
    reps = (reps,) if isinstance(reps, int) else tuple(reps)
    more = max(0, len(reps) - w.specs[x].ndim)
    x = unsqueezed(w, x, range(more)) if more else x
    reps = (1,) * (c.specs[0].ndim - len(reps)) + reps
    found: str = w.node("Tile", x, w.ints(*reps))
    return found


@writes("repeat")
def repeat(w: Writer, c: Call, x: str) -> str:
    """Each element several times along an axis."""
    times, axis = c.attrs["repeats"], c.attrs["axis"]
    if axis is None or not isinstance(times, int):
        raise w.refuse("it repeats each element differently, or all of them in one row")
    n = w.specs[x].shape[axis]
    found: str = w.node("Gather", x, w.const(np.repeat(np.arange(n), times)), axis=axis % w.specs[x].ndim)
    return found


@writes("flip")
def flip(w: Writer, c: Call, x: str) -> str:
    """In reverse order."""
    axes = axes_of(w, c, x)
    return _sliced(w, x, [(a, -1, -(2**31), -1) for a in (range(w.specs[x].ndim) if axes is None else axes)])


def _sliced(w: Writer, x: str, cuts: Sequence[tuple[int, int, int, int]]) -> str:
    """Of (axis, start, end, step)."""
    if not cuts:
        return x
    axes, starts, ends, steps = zip(*cuts, strict=True)
    found: str = w.node("Slice", x, w.ints(*starts), w.ints(*ends), w.ints(*axes), w.ints(*steps))
    return found


@writes("pad")
def pad(w: Writer, c: Call, x: str) -> str:
    """A constant around it."""
    width = c.attrs["pad_width"]
    flat = [a for a, _ in width] + [b for _, b in width]
    value = w.const(c.attrs["constant"], c.specs[0].dtype)
    found: str = w.node("Pad", x, w.ints(*flat), value)
    return found


@writes("roll")
def roll(w: Writer, c: Call, x: str) -> str:
    """Elements moved along axes, those that leave come in again."""
    shift, axes = c.attrs["shift"], axes_of(w, c, x)
    if axes is None:
        raise w.refuse("it rolls over all axes as one; give an axis")
    shifts = [shift] * len(axes) if isinstance(shift, int) else list(shift)
    for s, a in zip(shifts, axes, strict=True):
        n = w.specs[x].shape[a]
        spec = w.specs[x]
        x = w.node("Gather", x, w.const((np.arange(n) - s) % n), axis=a)
        w.specs[x] = spec
    return x


@writes("tril", "triu")
def triangle(w: Writer, c: Call, x: str) -> str:
    """One triangle, zeros in the other."""
    spec = w.specs[x]
    mask = np.tri(spec.shape[-2], spec.shape[-1], c.attrs["k"] - (c.op == "triu"), dtype=bool)
    keep = w.const(mask if c.op == "tril" else ~mask)
    found: str = w.node("Where", keep, x, w.const(0, spec.dtype))
    return found


# --- positions --------------------------------------------------------------------------------------------------------


@writes("getitem")
def getitem(w: Writer, c: Call, x: str, *arrays: str) -> str:
    """Slices, whole numbers, new axes, and one array of positions."""
    key, spec = c.attrs["key"], w.specs[x]
    cuts: list[tuple[int, int, int, int]] = []
    gone: list[int] = []
    new: list[int] = []
    gathers: list[tuple[int, str]] = []
    axis, rest = 0, list(arrays)
    for k in key:
        if k == "new":
            new.append(len(new) + axis - len(gone))
            continue
        n = spec.shape[axis]
        if isinstance(k, int):
            cuts.append((axis, k % n, k % n + 1, 1))
            gone.append(axis)
        elif isinstance(k, tuple):
            start, stop, step = slice(*k).indices(n)
            if (start, stop, step) != (0, n, 1):
                end = -(2**31) if stop < 0 else 2**31 - 1 if stop == n and step > 0 else stop
                cuts.append((axis, start, end, step))
        else:
            gathers.append((axis, rest.pop(0)))
        axis += 1
    if len(gathers) > 1 or (gathers and (gone or new)):
        return _gathered(w, x, key, arrays)
    made = _sliced(w, x, cuts)
    for where, positions in gathers:
        made = w.node("Gather", made, positions, axis=where)
    made = _squeezed(w, made, gone)
    made = unsqueezed(w, made, new) if new else made
    return made if made != x else w.node("Identity", x)


def _gathered(w: Writer, x: str, key: Sequence[Any], arrays: Sequence[str]) -> str:
    """Several arrays of positions for the first axes."""
    whole = [isinstance(k, tuple) and slice(*k) == slice(None, None, None) for k in key]
    first = len(arrays)
    if any(whole[:first]) or not all(whole[first:]) or any(isinstance(k, int) or k == "new" for k in key[:first]):
        raise w.refuse("it mixes arrays of positions with slices or whole numbers")
    shape = np.broadcast_shapes(*[w.specs[a].shape for a in arrays])
    wide = [w.node("Expand", w.cast(a, np.int64), w.ints(*shape)) for a in arrays]
    where = w.node("Concat", *[unsqueezed(w, a, [len(shape)]) for a in wide], axis=len(shape))
    found: str = w.node("GatherND", x, where)
    return found


@writes("take")
def take(w: Writer, c: Call, x: str, positions: str) -> str:
    """Parts along an axis."""
    axis = c.attrs["axis"]
    if axis is None:
        x, axis = w.node("Reshape", x, w.ints(-1)), 0
        found: str = w.node("Gather", x, positions, axis=axis)
    else:
        found = w.node("Gather", x, positions, axis=axis % w.specs[x].ndim)
    return found


@writes("take_along_axis")
def take_along_axis(w: Writer, c: Call, x: str, positions: str) -> str:
    """One element for each position."""
    found: str = w.node("GatherElements", x, positions, axis=c.attrs["axis"] % w.specs[x].ndim)
    return found


@writes("one_hot")
def one_hot(w: Writer, c: Call, positions: str) -> str:
    """Ones at the positions."""
    on, off = (float(c.attrs[n]) for n in ("on_value", "off_value"))
    values = w.const([off, on], c.specs[0].dtype)
    found: str = w.node("OneHot", w.cast(positions, np.int64), w.ints(c.attrs["depth"]), values, axis=-1)
    return found


# --- reductions -------------------------------------------------------------------------------------------------------

REDUCTIONS = {
    "max": "ReduceMax",
    "mean": "ReduceMean",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "sum": "ReduceSum",
    "logsumexp": "ReduceLogSumExp",
}


@writes(*REDUCTIONS)
def reduction(w: Writer, c: Call, x: str) -> str:
    """Over some axes, or all."""
    dtype = c.specs[0].dtype
    x_wide = x if w.specs[x].dtype == dtype else w.cast(x, dtype)
    axes = axes_of(w, c, x)
    if axes == []:
        return w.node("Identity", x_wide)  # type: ignore[no-any-return]
    return w.reduce(REDUCTIONS[c.op], x_wide, axes, bool(c.attrs["keepdims"]))


@writes("any", "all")
def logical(w: Writer, c: Call, x: str) -> str:
    """Whether any, or all, are true."""
    truth = w.cast(w.cast(x, bool), np.int32)
    op = "ReduceMax" if c.op == "any" else "ReduceMin"
    return w.cast(w.reduce(op, truth, axes_of(w, c, x), bool(c.attrs["keepdims"])), bool)


@writes("sum_to")
def sum_to(w: Writer, c: Call, x: str) -> str:
    """Summed to a shape that broadcasts to the one that is there."""
    shape, given = c.specs[0].shape, w.specs[x].shape
    more = len(given) - len(shape)
    axes = [a for a, n in enumerate(given) if a < more or (shape[a - more] == 1 and n != 1)]
    made = w.reduce("ReduceSum", x, axes, True) if axes else x
    return _squeezed(w, made, range(more)) if more else w.node("Identity", made)


@writes("var", "std")
def spread(w: Writer, c: Call, x: str) -> str:
    """The mean square distance from the mean, or its root."""
    axes, keep = axes_of(w, c, x), bool(c.attrs["keepdims"])
    shape = w.specs[x].shape
    n = int(np.prod([shape[a] for a in (range(len(shape)) if axes is None else axes)]))
    away = w.node("Sub", x, w.reduce("ReduceMean", x, axes, True))
    made = w.reduce("ReduceMean", w.node("Mul", away, away), axes, keep)
    ddof = c.attrs["ddof"]
    if ddof:
        made = w.node("Mul", made, w.const(n / (n - ddof), c.specs[0].dtype))
    return w.node("Sqrt", made) if c.op == "std" else made


@writes("argmax", "argmin")
def position(w: Writer, c: Call, x: str) -> str:
    """Where the largest or the smallest is."""
    axis, keep = c.attrs["axis"], bool(c.attrs["keepdims"])
    op = "ArgMax" if c.op == "argmax" else "ArgMin"
    if axis is None:
        x, axis = w.node("Reshape", x, w.ints(-1)), 0
        made = w.node(op, x, axis=0, keepdims=0)
        made = w.node("Reshape", made, w.ints(*c.specs[0].shape)) if c.specs[0].shape else made
    else:
        made = w.node(op, x, axis=axis, keepdims=int(keep))
    return made if c.specs[0].dtype == np.int64 else w.cast(made, c.specs[0].dtype)


@writes("cumsum")
def cumsum(w: Writer, c: Call, x: str) -> str:
    """Sums so far."""
    axis = c.attrs["axis"]
    x = x if w.specs[x].dtype == c.specs[0].dtype else w.cast(x, c.specs[0].dtype)
    if axis is None:
        x, axis = w.node("Reshape", x, w.ints(-1)), 0
    found: str = w.node("CumSum", x, w.const(axis, np.int64))
    return found


@writes("sort", "argsort")
def order(w: Writer, c: Call, x: str) -> str:
    """Rising along an axis."""
    axis = c.attrs["axis"]
    if axis is None:
        raise w.refuse("it sorts all elements as one row; give an axis")
    n = w.specs[x].shape[axis]
    values, where = w.node("TopK", x, w.ints(n), outputs=2, axis=axis, largest=0, sorted=1)
    return values if c.op == "sort" else w.cast(where, c.specs[0].dtype)


@writes("norm")
def norm(w: Writer, c: Call, x: str) -> str:
    """Of vectors: 1, 2."""
    order_, keep = c.attrs["ord"], bool(c.attrs["keepdims"])
    if order_ not in (None, 1, 2):
        raise w.refuse(f"the norm {order_} is none that ONNX has")
    return w.reduce("ReduceL1" if order_ == 1 else "ReduceL2", x, axes_of(w, c, x), keep)
