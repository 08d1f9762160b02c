"""Reductions: sums, means, extremes, searches, running sums.

``axis`` is an int, a tuple of ints, or None for all axes; ``keepdims`` keeps reduced axes with length 1.

Sums over leading axes, of which bias gradients and batch statistics are made, are taken by BLAS in blocks of rows, then
over the blocks. NumPy and BLAS by themselves add row after row there: over a million float32 rows of 0.1 they are off
by 1e-2 and 2e-3, blocks by 1e-6. Blocks are also faster, and too small for BLAS to divide among threads, so that the
bits do not depend on how many there are.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.backend import Namespace
from shoal.ops.precision import BFLOAT16, is_half, wide
from shoal.ops.registry import Array, Op, Shape, Spec, op

Axis = int | Sequence[int] | None

_FEW_ROWS = 32
"""Fewer rows than this are added by NumPy: starting BLAS costs more."""

_BLOCK_ROWS = 128


def _raw_sum(xp: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """``x.sum``; on the host by blocks where that is more accurate: leading axes of a contiguous float array."""
    if is_half(x.dtype):
        return _raw_sum(xp, wide(x), axis, keepdims).astype(x.dtype)
    if xp.host and axis is not None and x.dtype.char in "fd" and x.flags.c_contiguous:
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        axes = tuple(sorted(a + x.ndim if a < 0 else a for a in axes))  # one that is not there is NumPy's to refuse
        k = len(axes)
        if 0 < k < x.ndim and axes == tuple(range(k)):
            rows = math.prod(x.shape[:k])
            if rows >= _FEW_ROWS and x.size:
                sums = _sum_rows(xp, x.reshape(rows, -1))
                return sums.reshape((1,) * k * keepdims + x.shape[k:])
    return x.sum(axis=None if axis is None else _tuple(axis), keepdims=keepdims)


def _sum_rows(xp: Any, x: Any) -> Any:
    """Sum over the first axis of a contiguous (rows, columns) array, by blocks."""
    while (n := len(x)) > _BLOCK_ROWS:
        whole = n - n % _BLOCK_ROWS
        blocks = x[:whole].reshape(-1, _BLOCK_ROWS, x.shape[1])
        sums = xp.matmul(xp.ones((1, _BLOCK_ROWS), x.dtype), blocks)[:, 0]
        if whole < n:
            rest = xp.matmul(xp.ones((1, n - whole), x.dtype), x[whole:])
            sums = xp.concatenate([sums, rest])
        x = sums
    return xp.matmul(xp.ones(len(x), x.dtype), x)


def channel_sum(xp: Any, x: Any, axis: int) -> Any:
    """Sum over all axes but ``axis``; fast and accurate for channels-first and channels-last memory alike."""
    last = xp.moveaxis(x, axis, -1)
    if last.flags.c_contiguous:
        return _raw_sum(xp, last, tuple(range(x.ndim - 1)))
    return x.sum(axis=tuple(i for i in range(x.ndim) if i != axis % x.ndim))


def _tuple(axis: int | Sequence[int]) -> int | tuple[int, ...]:
    return axis if isinstance(axis, int) else tuple(axis)


def _kept(shape: Shape, axis: Axis) -> Shape:
    """``shape`` with the reduced axes at length 1."""
    if axis is None or not shape:  # an array without axes has one to NumPy's ufuncs
        return (1,) * len(shape)
    axes = {a % len(shape) for a in ((axis,) if isinstance(axis, int) else axis)}
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(xp: Any, g: Any, x: Any, axis: Axis) -> Any:
    """A reduction's cotangent, with the reduced axes back at length 1."""
    kept = _kept(x.shape, axis)
    return g if g.shape == kept else xp.reshape(g, kept)


def _count(shape: Shape, axis: Axis) -> int:
    return math.prod(shape) // max(1, math.prod(_kept_lengths(shape, axis)))


def _kept_lengths(shape: Shape, axis: Axis) -> Shape:
    return tuple(n for n, k in zip(shape, _kept(shape, axis), strict=True) if k == n)


@op(specs.folded)
def sum_(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum of the elements over ``axis``."""
    return _raw_sum(xp, x, axis, keepdims)


@sum_.vjp
def _sum_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    return (xp.broadcast_to(_spread(xp, g, x, axis), x.shape),)


def _sum_to_spec(op: Op[Any], x: Spec, *, shape: Shape) -> Spec:
    try:
        fits = np.broadcast_shapes(x.shape, shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"sum_to: shape {shape} does not broadcast to {x.shape}")
    return Spec(tuple(shape), x.dtype)


@op(_sum_to_spec)
def sum_to(xp: Any, x: Array, shape: Shape) -> Any:
    """Sum over the axes along which an array of ``shape`` was broadcast to x: the gradient of broadcasting."""
    lead = x.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(i + lead for i, n in enumerate(shape) if n == 1 != x.shape[i + lead])
    if not axes:
        return x.reshape(shape)
    return _raw_sum(xp, x, axes).astype(x.dtype, copy=False).reshape(shape)


@sum_to.vjp
def _sum_to_vjp(xp: Any, g: Any, out: Any, x: Any, shape: Shape) -> Any:
    return (xp.broadcast_to(g, x.shape),)


@op(specs.reduced)
def mean(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Mean of the elements over ``axis``; integers give float64, as in NumPy."""
    if is_half(x.dtype):
        return mean.forward(xp, wide(x), axis, keepdims).astype(x.dtype)
    if x.dtype.char not in "fd":  # integers must be summed in float64
        return x.mean(axis=None if axis is None else _tuple(axis), keepdims=keepdims)
    return _raw_sum(xp, x, axis, keepdims) / _divisor(x.shape, axis)


def _divisor(shape: Shape, axis: Axis) -> float:
    """The number of elements that are averaged; nan for none, so that an empty mean is nan without a warning."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    return float(math.prod(shape[a] for a in axes)) or math.nan


@mean.vjp
def _mean_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    return (xp.broadcast_to(_spread(xp, g, x, axis) / _divisor(x.shape, axis), x.shape),)


@op(specs.reduced)
def var(xp: Any, x: Array, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    """Variance over ``axis``, in two passes: the mean of the squared distances from the mean.

    Args:
        ddof: the sum of squares is divided by n - ddof.
    """
    if x.dtype.char not in "fd":
        half = is_half(x.dtype)
        out = var.forward(xp, x.astype(np.float32 if half else np.float64), axis, ddof, keepdims)
        return out.astype(x.dtype) if half else out
    centred = x - _raw_sum(xp, x, axis, True) / _divisor(x.shape, axis)
    centred *= centred
    return _raw_sum(xp, centred, axis, keepdims) / _freedom(x.shape, axis, ddof)


def _freedom(shape: Shape, axis: Axis, ddof: float) -> float:
    n = _divisor(shape, axis) - ddof
    return n if n > 0 else math.nan


@var.vjp
def _var_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    centred = x - xp.mean(x, axis, keepdims=True)
    return (_spread(xp, g, x, axis) * (2.0 / _freedom(x.shape, axis, ddof)) * centred,)


@op(specs.reduced)
def std(xp: Any, x: Array, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    """Standard deviation over ``axis``: the square root of `var`."""
    return xp.sqrt(var.forward(xp, x, axis, ddof, keepdims))


@std.vjp
def _std_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Any:
    centred = x - xp.mean(x, axis, keepdims=True)
    return (_spread(xp, g / out, x, axis) * (1.0 / _freedom(x.shape, axis, ddof)) * centred,)


@op(specs.folded)
def prod(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Product of the elements over ``axis``."""
    out = wide(x).prod(axis=None if axis is None else _tuple(axis), keepdims=keepdims)
    return out.astype(x.dtype) if is_half(x.dtype) else out


@prod.vjp
def _prod_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    g, out = _spread(xp, g, x, axis), _spread(xp, out, x, axis)
    zero = x == 0
    zeros = xp.sum(zero, axis, keepdims=True)
    rest = xp.prod(xp.where(zero, 1.0, x), axis, keepdims=True)  # product without the zeros
    return (g * xp.where(zero, rest * (zeros == 1), xp.where(zeros == 0, out, 0.0) / xp.where(zero, 1.0, x)),)


def _extreme_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    chosen = x == _spread(xp, out, x, axis)
    ties = xp.sum(chosen, axis, keepdims=True).astype(x.dtype)
    return (chosen * (_spread(xp, g, x, axis) / ties),)


def _nonempty(op: Op[Any], x: Spec, axis: Axis = None, keepdims: bool = False) -> Spec:
    found = specs.folded(op, x, axis, keepdims)
    if x.ndim and 0 in (x.shape[a] for a in specs.axes_of(op, axis, x.ndim)):
        raise ShapeError(f"{op.name}: an array of shape {x.shape} has no element over axis {axis}")
    return found


@op(_nonempty)
def max_(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Largest element over ``axis``; equal ones share the gradient."""
    return x.max(axis=None if axis is None else _tuple(axis), keepdims=keepdims)


@op(_nonempty)
def min_(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Smallest element over ``axis``; equal ones share the gradient."""
    return x.min(axis=None if axis is None else _tuple(axis), keepdims=keepdims)


max_.vjp(_extreme_vjp)
min_.vjp(_extreme_vjp)


def _search(op: Op[Any], x: Spec, axis: int | None = None, keepdims: bool = False) -> Spec:
    return Spec(_nonempty(op, x, axis, keepdims).shape, np.dtype(np.int64))


@op(_search)
def argmax(xp: Any, x: Array, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the first largest element along ``axis`` (in the flattened array if None), int64."""
    return xp.argmax(x, axis=axis, keepdims=keepdims)


@op(_search)
def argmin(xp: Any, x: Array, axis: int | None = None, keepdims: bool = False) -> Any:
    """Position of the first smallest element along ``axis`` (in the flattened array if None), int64."""
    return xp.argmin(x, axis=axis, keepdims=keepdims)


@op(specs.folded)
def any_(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether an element over ``axis`` is not zero."""
    return x.any(axis=None if axis is None else _tuple(axis), keepdims=keepdims)


@op(specs.folded)
def all_(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether no element over ``axis`` is zero."""
    return x.all(axis=None if axis is None else _tuple(axis), keepdims=keepdims)


@op(specs.reduced)
def logsumexp(xp: Any, x: Array, axis: Axis = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over ``axis`` without overflow."""
    if not x.size:
        return xp.full(specs.reduced_shape(logsumexp, x.shape, axis, keepdims), -math.inf, x.dtype)
    if is_half(x.dtype):
        return logsumexp.forward(xp, wide(x), axis, keepdims).astype(x.dtype)
    top = x.max(axis=None if axis is None else _tuple(axis), keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):  # log(0) is -inf, and right
        out = xp.log(xp.sum(xp.exp(x - top), axis=axis, keepdims=True)) + top
    return out if keepdims else out.reshape(specs.reduced_shape(logsumexp, x.shape, axis, False))


@logsumexp.vjp
def _logsumexp_vjp(xp: Any, g: Any, out: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    return (_spread(xp, g, x, axis) * xp.exp(x - _spread(xp, out, x, axis)),)


_WIDE = {"e": np.float32, BFLOAT16.char: np.float32, "f": np.float64, "F": np.complex128}


def accumulated(function: Any, x: Any, axis: int | None) -> Any:
    """``cumsum`` or ``cumprod`` in the dtype of x, but added up in a wider one."""
    wide = _WIDE.get(x.dtype.char)
    return function(x, axis=axis) if wide is None else function(x, axis=axis, dtype=wide).astype(x.dtype)


def scanned(op: Op[Any], x: Spec, axis: int | None = None) -> Spec:
    """A running result along ``axis``; of the flattened array if None."""
    if axis is None:
        return Spec((math.prod(x.shape),), specs.result_dtype(op, [x]))
    specs.axis_of(op, axis, x.ndim)
    return Spec(x.shape, specs.result_dtype(op, [x]))


@op(scanned)
def cumsum(xp: Any, x: Array, axis: int | None = None) -> Any:
    """Running sum along ``axis`` (of the flattened array if None); floats are added up in a wider dtype."""
    return accumulated(xp.cumsum, x, axis)


@cumsum.vjp
def _cumsum_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int | None = None) -> Any:
    if axis is None:
        return (xp.reshape(xp.flip(xp.cumsum(xp.flip(g, 0), 0), 0), x.shape),)
    return (xp.flip(xp.cumsum(xp.flip(g, axis), axis), axis),)


def _norm_spec(op: Op[Any], x: Spec, ord: float = 2.0, axis: Axis = None, keepdims: bool = False) -> Spec:
    return Spec(specs.reduced_shape(op, x.shape, axis, keepdims), specs.result_dtype(op, [x], {"ord": ord}))


@op(_norm_spec)
def norm(xp: Any, x: Array, ord: float = 2.0, axis: Axis = None, keepdims: bool = False) -> Any:
    """The vector norm of the elements over ``axis``: 1 sums absolute values, 2 is the Euclidean length.

    Args:
        ord: p of (sum of abs(x)**p)**(1/p), not 0. The gradient at 0 is 0.
    """
    if not x.ndim:
        specs.axes_of(norm, axis, 0)
    if is_half(x.dtype):  # squares of float16 would overflow
        return xp.asarray(norm.forward(xp, wide(x), ord, axis, keepdims)).astype(x.dtype)
    if ord == 1:
        return _raw_sum(xp, xp.abs(x), axis, keepdims)
    if ord == 2:
        return xp.sqrt(_raw_sum(xp, xp.square(xp.abs(x) if x.dtype.kind == "c" else x), axis, keepdims))
    with np.errstate(divide="ignore"):  # 0 to a negative power
        return xp.power(_raw_sum(xp, xp.power(xp.abs(x), ord), axis, keepdims), 1.0 / ord)


@norm.vjp
def _norm_vjp(xp: Any, g: Any, out: Any, x: Any, ord: float = 2.0, axis: Axis = None, keepdims: bool = False) -> Any:
    g, sizes = _spread(xp, g, x, axis), xp.abs(x)
    towards = xp.conj(x) / xp.where(sizes == 0, 1.0, sizes) if x.dtype.kind == "c" else None
    if ord == 1:
        return (g * (xp.sign(x) if towards is None else towards),)
    length = _spread(xp, out, x, axis)
    if ord == 2:
        return (g * (x if towards is None else xp.conj(x)) / xp.where(length == 0, 1.0, length),)
    some = xp.logical_and(sizes != 0, length != 0)
    share = xp.power(xp.where(some, sizes, 1.0) / xp.where(some, length, 1.0), ord - 1.0)
    return (g * xp.where(some, share, 0.0) * (xp.sign(x) if towards is None else towards),)


Namespace.extra["channel_sum"] = channel_sum
