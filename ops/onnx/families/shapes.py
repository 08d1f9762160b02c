"""Shapes and positions: what moves elements without computing."""

from typing import Any

import numpy as np

from shoal.ops import elementwise, index, padding
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast, dtype_of
from shoal.ops.onnx.nodes import Call, node

__all__ = ["axes_of"]


def axes_of(c: Call, given: Any, position: str = "axes") -> tuple[int, ...] | None:
    """Axes from an attribute (older opsets) or an input."""
    if given is not None:
        return c.ints(given, position)
    found = c.get(position)
    return None if found is None else tuple(int(a) for a in found)


@node("Constant")
def constant(c: Call) -> Any:
    """What the node holds."""
    for name, kind in (("value", None), ("sparse_value", None), ("value_float", "f4"), ("value_floats", "f4")):
        if name in c.attrs:
            return np.asarray(c.attrs[name], kind)
    for name in ("value_int", "value_ints"):
        if name in c.attrs:
            return np.asarray(c.attrs[name], np.int64)
    raise c.refuse("only numbers can be constants here")


@node("ConstantOfShape", known=[0])
def constant_of_shape(c: Call, shape: Any) -> Any:
    """The same number everywhere."""
    value = np.asarray(c.get("value", np.zeros(1, np.float32))).reshape(-1)
    return np.full(c.ints(shape, "the shape"), value[0], value.dtype)


@node("Shape")
def shape(c: Call, x: Any) -> Any:
    """Lengths of the axes, or of some of them."""
    return np.array(tuple(x.shape)[c.get("start", 0) : c.get("end")], np.int64)


@node("Size")
def size(c: Call, x: Any) -> Any:
    """How many elements there are."""
    return np.array(int(np.prod(tuple(x.shape), dtype=np.int64)), np.int64)


@node("Reshape", known=[1])
def reshape(c: Call, x: Any, wanted: Any = None) -> Any:
    """-1 stands for what is left, 0 for the length that is there."""
    to = c.ints(wanted, "the shape") if wanted is not None else tuple(c.get("shape"))
    if not c.get("allowzero", 0):
        to = tuple(x.shape[i] if n == 0 else n for i, n in enumerate(to))
    return shaping.reshape(x, to) if 0 not in to or -1 not in to else shaping.reshape(x, _solved(x, to))


def _solved(x: Any, to: tuple[int, ...]) -> tuple[int, ...]:
    others = int(np.prod([n for n in to if n > 0]))
    return tuple((int(np.prod(tuple(x.shape))) // max(1, others)) if n == -1 else n for n in to)


@node("Flatten")
def flatten(c: Call, x: Any) -> Any:
    """A matrix: the axes before ``axis``, and the others."""
    axis = int(c.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    rows = int(np.prod(tuple(x.shape)[:axis], dtype=np.int64))
    return shaping.reshape(x, (rows, int(np.prod(tuple(x.shape)[axis:], dtype=np.int64))))


@node("Transpose")
def transpose(c: Call, x: Any) -> Any:
    """Axes in another order; reversed if none is given."""
    perm = c.get("perm")
    return shaping.transpose(x, tuple(range(x.ndim))[::-1] if perm is None else tuple(perm))


@node("Squeeze", known=[1])
def squeeze(c: Call, x: Any, axes: Any = None) -> Any:
    """Without axes of length 1."""
    found = axes_of(c, axes)
    return shaping.squeeze(x, axis=found)


@node("Unsqueeze", known=[1])
def unsqueeze(c: Call, x: Any, axes: Any = None) -> Any:
    """With new axes of length 1."""
    found = axes_of(c, axes) or ()
    return shaping.expand_dims(x, axis=tuple(found)) if found else x


@node("Expand", known=[1])
def expand(c: Call, x: Any, wanted: Any) -> Any:
    """Broadcast with a shape, in both directions."""
    return shaping.broadcast_to(x, np.broadcast_shapes(tuple(x.shape), c.ints(wanted, "the shape")))


@node("Tile", known=[1])
def tile(c: Call, x: Any, repeats: Any) -> Any:
    """The whole array several times along each axis."""
    return shaping.tile(x, c.ints(repeats, "the repeats"))


@node("Concat")
def concat(c: Call, *xs: Any) -> Any:
    """One behind the other."""
    return shaping.concatenate(list(xs), axis=int(c.get("axis", 1)))


@node("Split", known=[1])
def split(c: Call, x: Any, parts: Any = None) -> Any:
    """In pieces of given lengths, or in equal ones, of which the last may be shorter."""
    axis = int(c.get("axis", 0))
    n = int(x.shape[axis])
    sizes = c.ints(parts, "the lengths") if parts is not None else c.get("split")
    if sizes is None:
        count = int(c.get("num_outputs", c.outputs))
        step = -(-n // count)
        sizes = [min(step, max(0, n - step * i)) for i in range(count)]
    cuts = [int(v) for v in np.cumsum(sizes)[:-1]]
    return tuple(shaping.split(x, tuple(cuts), axis=axis)) if cuts else (x,)


@node("Slice", known=[1, 2, 3, 4])
def slice_(c: Call, x: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    """From starts to ends, clipped to what is there."""
    begin = axes_of(c, starts, "starts") or ()
    stop = axes_of(c, ends, "ends") or ()
    which = axes_of(c, axes) or tuple(range(len(begin)))
    step = c.ints(steps, "the steps") if steps is not None else (1,) * len(begin)
    key: list[Any] = [slice(None)] * x.ndim
    for axis, b, e, s in zip(which, begin, stop, step, strict=True):
        n = int(x.shape[axis])
        key[axis % x.ndim] = slice(*_bounds(b, e, s, n))
    return x[tuple(key)]


def _bounds(b: int, e: int, s: int, n: int) -> tuple[int, int | None, int]:
    """As a Python slice: ends below -n of a negative step mean "to the first"."""
    if s > 0:
        return max(-n, min(b, n)), max(-n, min(e, n)), s
    b = b + n if b < 0 else b
    e = e + n if e < 0 else e
    return max(0, min(b, n - 1)), None if e < 0 else min(e, n), s


@node("Pad", known=[1, 2, 3])
def pad(c: Call, x: Any, pads: Any = None, value: Any = None, axes: Any = None) -> Any:
    """Around the array: "constant", "reflect", "edge" or "wrap"; negative pads cut off."""
    flat = c.ints(pads, "the pads") if pads is not None else tuple(c.get("pads", c.get("paddings")))
    which = [a % x.ndim for a in (c.ints(axes, "the axes") if axes is not None else range(x.ndim))]
    width = [(0, 0)] * x.ndim
    for i, axis in enumerate(which):
        width[axis] = (flat[i], flat[i + len(which)])
    fill = c.known(value, "the value").reshape(-1) if value is not None else [c.get("value", 0.0)]
    x = x[tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, width, strict=True))]
    width = [(max(0, a), max(0, b)) for a, b in width]
    mode = c.get("mode", "constant")
    if mode == "constant":
        dtype = np.dtype(x.dtype)
        number = float(fill[0]) if len(fill) else 0.0
        return shaping.pad(x, tuple(width), number if dtype.kind == "f" else int(number))
    for axis, (a, b) in enumerate(width):
        if a or b:
            where = np.pad(np.arange(int(x.shape[axis])), (a, b), mode)
            x = index.take(x, where, axis=axis)
    return x


@node("CenterCropPad", known=[1])
def center_crop_pad(c: Call, x: Any, wanted: Any) -> Any:
    """Cut off, or filled with zeros, on both sides to a shape."""
    which = [a % x.ndim for a in c.get("axes", range(x.ndim))]
    for axis, n in zip(which, c.ints(wanted, "the shape"), strict=True):
        old = int(x.shape[axis])
        key: list[Any] = [slice(None)] * x.ndim
        if old > n:
            key[axis] = slice((old - n) // 2, (old - n) // 2 + n)
            x = x[tuple(key)]
        elif old < n:
            width = [(0, 0)] * x.ndim
            width[axis] = ((n - old) // 2, n - old - (n - old) // 2)
            x = shaping.pad(x, tuple(width), 0)
    return x


@node("DepthToSpace")
def depth_to_space(c: Call, x: Any) -> Any:
    """Channels become blocks of pixels; the blocks come first ("DCR") or the depth does ("CRD")."""
    b = int(c.get("blocksize"))
    return padding.depth_to_space(x, b) if c.get("mode", "DCR") == "DCR" else padding.pixel_shuffle(x, b)


@node("SpaceToDepth")
def space_to_depth(c: Call, x: Any) -> Any:
    """Blocks of pixels become channels."""
    return padding.space_to_depth(x, int(c.get("blocksize")))


@node("Trilu", known=[1])
def trilu(c: Call, x: Any, k: Any = None) -> Any:
    """The upper or the lower triangle."""
    offset = 0 if k is None else c.ints(k, "k")[0]
    rows, columns = x.shape[-2:]
    keep = np.tri(rows, columns, offset if not c.get("upper", 1) else offset - 1, dtype=bool)
    keep = keep if not c.get("upper", 1) else ~keep
    return elementwise.where(keep, x, elementwise.zeros_like(x))


@node("EyeLike")
def eye_like(c: Call, x: Any) -> Any:
    """Ones on a diagonal."""
    dtype = dtype_of(int(c.get("dtype"))) if "dtype" in c.attrs else np.dtype(x.dtype)
    return np.eye(int(x.shape[0]), int(x.shape[1]), k=int(c.get("k", 0)), dtype=dtype)


@node("Range", known=[0, 1, 2])
def range_(c: Call, start: Any, limit: Any, delta: Any) -> Any:
    """Numbers at equal distances."""
    a, b, s = (c.known(v, "the range").reshape(()) for v in (start, limit, delta))
    return np.arange(a.item(), b.item(), s.item()).astype(a.dtype)


@node("ReverseSequence", known=[1])
def reverse_sequence(c: Call, x: Any, lengths: Any) -> Any:
    """The first so many steps of each sequence in reverse order."""
    time, batch = int(c.get("time_axis", 0)), int(c.get("batch_axis", 1))
    n = int(x.shape[time])
    steps, each = np.arange(n)[:, None], np.array(c.ints(lengths, "the lengths"))[None, :]
    where = np.where(steps < each, each - 1 - steps, steps)
    shape = [1] * x.ndim
    shape[time], shape[batch] = where.shape
    where = (where if time < batch else where.T).reshape(shape)
    return index.take_along_axis(x, np.broadcast_to(where, tuple(x.shape)).copy(), axis=time)


@node("OneHot", known=[1])
def one_hot(c: Call, indices: Any, depth: Any, values: Any) -> Any:
    """The second of ``values`` at the index, the first elsewhere."""
    n, axis = c.ints(depth, "the depth")[0], int(c.get("axis", -1))
    indices = cast(indices, np.dtype(np.int64))
    indices = elementwise.where(indices < 0, indices + n, indices)
    axis = axis % (indices.ndim + 1)
    shape = [1] * (indices.ndim + 1)
    shape[axis] = n
    hit = shaping.expand_dims(indices, axis=axis) == np.arange(n).reshape(shape)
    return elementwise.where(hit, values[1], values[0])


@node("NonZero")
def non_zero(c: Call, x: Any) -> Any:
    """Positions of what is not 0, one row an axis."""
    return np.array(np.nonzero(c.known(x, "what is not zero")), np.int64)


@node("Unique")
def unique(c: Call, x: Any) -> Any:
    """Each value once: values, first positions, where each went, how often it is there."""
    axis, array = c.get("axis"), c.known(x, "its values")
    values, first, inverse, counts = np.unique(array, True, True, True, axis=axis)
    inverse = np.asarray(inverse).reshape(-1)
    if not c.get("sorted", 1):
        order = np.argsort(first, kind="stable")
        values, first, counts = np.take(values, order, axis=axis or 0), first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return values, *(v.astype(np.int64) for v in (first, inverse, counts))


@node("Compress")
def compress(c: Call, x: Any, condition: Any) -> Any:
    """Where a condition holds along an axis."""
    axis = c.get("axis")
    where = np.flatnonzero(c.known(condition, "the condition"))
    if axis is None:
        return index.take(shaping.reshape(x, (-1,)), where, axis=0)
    return index.take(x, where, axis=int(axis))
