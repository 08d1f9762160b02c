"""The softmax family, and cross entropy on it.

All subtract the largest element first, so that nothing overflows; rows of -inf but for some elements are fine, which is
how attention masks work.

Each makes several passes over its array. On the host they go over a few rows at a time, which stay in a core's cache
from one pass to the next: no bit depends on how many, for a row is always summed as a whole.
"""

import math
from typing import Any

import numpy as np

from shoal.errors import DTypeError, ShapeError
from shoal.ops import specs
from shoal.ops.activation import relu, softplus
from shoal.ops.elementwise import abs_, where
from shoal.ops.registry import Array, Op, Spec, op


def _over_axis(op: Op[Any], x: Spec, axis: int = -1) -> Spec:
    specs.require_float(op, "x", x)
    specs.axis_of(op, axis, x.ndim)
    return Spec(x.shape, x.dtype)


@op(_over_axis)
def softmax(xp: Any, x: Array, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along ``axis``."""
    out = xp.empty_like(x)
    for part in _parts(xp, x, axis):
        e = _shifted(xp, x[part], axis, out[part])
        xp.exp(e, out=e)
        e /= e.sum(axis=axis, keepdims=True)
    return out


BLOCK = 1 << 17
"""So many elements at a time: half a megabyte of float32."""


def _parts(xp: Any, x: Any, axis: int) -> list[slice]:
    """Parts of the first axis of x to go over one after the other; a whole if that is the axis of a softmax."""
    if not xp.host or x.ndim < 2 or axis in (0, -x.ndim) or x.size <= BLOCK:
        return [slice(None)]
    rows = max(1, BLOCK // math.prod(x.shape[1:]))
    return [slice(start, start + rows) for start in range(0, len(x), rows)]


def _shifted(xp: Any, x: Any, axis: int, out: Any = None) -> Any:
    """x minus its largest element along ``axis``, in an array of its own, or in ``out``."""
    if not x.shape[axis]:
        return xp.empty_like(x) if out is None else out
    top = x.max(axis=axis, keepdims=True)
    if not xp.host or not xp.isfinite(top).all():
        top = xp.where(xp.isfinite(top), top, 0.0)
    return xp.subtract(x, top, out=out)


@softmax.vjp
def _softmax_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    return (xp.softmax_grad(g, out, axis=axis),)


def _alike(op: Op[Any], g: Spec, y: Spec, axis: int = -1) -> Spec:
    if g.shape != y.shape:
        raise ShapeError(f"{op.name}: g has shape {g.shape}, y has shape {y.shape}; they must be the same")
    return _over_axis(op, y, axis)


@op(_alike)
def softmax_grad(xp: Any, g: Array, y: Array, axis: int = -1) -> Any:
    """y * (g - sum(g * y)) along ``axis``: the gradient of `softmax` whose result was y."""
    weighted = g * y
    weighted -= y * weighted.sum(axis=axis, keepdims=True)
    return weighted.astype(y.dtype, copy=False)


@softmax_grad.vjp
def _softmax_grad_vjp(xp: Any, c: Any, out: Any, g: Any, y: Any, axis: int = -1) -> Any:
    total = xp.sum(c * y, axis, keepdims=True)
    return y * (c - total), lambda: c * (g - xp.sum(g * y, axis, keepdims=True)) - g * total


@op(_over_axis)
def log_softmax(xp: Any, x: Array, axis: int = -1) -> Any:
    """log(softmax(x)) along ``axis``, accurate for small probabilities."""
    out = xp.empty_like(x)
    for part in _parts(xp, x, axis):
        shifted = _shifted(xp, x[part], axis, out[part])
        shifted -= xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))
    return out


@log_softmax.vjp
def _log_softmax_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    return (g - xp.exp(out) * xp.sum(g, axis, keepdims=True),)


def masked_softmax(x: Any, mask: Any, axis: int = -1) -> Any:
    """Softmax over the elements where ``mask`` holds; 0 elsewhere.

    Args:
        mask: booleans that broadcast to the shape of x. A row without a True gives zeros.
    """
    return where(mask, softmax(where(mask, x, -1e4 if x.dtype == np.float16 else -1e30), axis=axis), 0.0)


def _entropy(op: Op[Any], x: Spec, label: Spec, axis: int = -1) -> Spec:
    specs.require_float(op, "x", x)
    axis = specs.axis_of(op, axis, x.ndim)
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    if label.shape != rest:
        raise ShapeError(
            f"{op.name}: labels of shape {label.shape} for scores of shape {x.shape}; expected one class number "
            f"per row: shape {rest}"
        )
    if label.dtype.kind not in "iu":
        raise DTypeError(f"{op.name}: labels must be integers (class numbers), got {label.dtype}; use astype('int64')")
    return Spec(rest, x.dtype)


@op(_entropy)
def softmax_cross_entropy(xp: Any, x: Array, label: Array, axis: int = -1) -> Any:
    """-log(softmax(x)) at the class ``label``, for each row.

    Args:
        x: scores, not probabilities; classes along ``axis``.
        label: class numbers, integers from 0; the shape of x without ``axis``.
    Raises:
        IndexError: a label is no class number. On a GPU the result is NaN there instead.
    """
    index = _within(xp, label, x, axis)
    chosen, found = xp.empty(index.shape, x.dtype), xp.empty(index.shape, x.dtype)
    for part in _parts(xp, x, axis):
        shifted = _shifted(xp, x[part], axis)
        chosen[part] = xp.take_along_axis(shifted, index[part], axis)
        xp.exp(shifted, out=shifted)
        found[part] = shifted.sum(axis=axis, keepdims=True)
    found = (xp.log(found) - chosen).squeeze(axis)
    if not xp.host:  # which is not asked whether they are class numbers, for it would be waited for
        found = xp.where((label >= 0) & (label < x.shape[axis]), found, np.asarray(np.nan, found.dtype)[()])
    return found


def _within(xp: Any, label: Any, x: Any, axis: int) -> Any:
    """The labels with the axis of classes, after making sure that they are class numbers: on the host only."""
    if xp.host and label.size and not (int(label.min()) >= 0 and int(label.max()) < x.shape[axis]):
        raise IndexError(
            f"softmax_cross_entropy: labels from {int(label.min())} to {int(label.max())}, "
            f"but the scores are for {x.shape[axis]} classes, 0 to {x.shape[axis] - 1}"
        )
    return xp.expand_dims(label if xp.host else xp.clip(label, 0, max(0, x.shape[axis] - 1)), axis)


@softmax_cross_entropy.vjp
def _softmax_cross_entropy_vjp(xp: Any, g: Any, out: Any, x: Any, label: Any, axis: int = -1) -> Any:
    return xp.softmax_cross_entropy_grad(g, x, label, axis=axis), None


def _entropy_grad(op: Op[Any], g: Spec, x: Spec, label: Spec, axis: int = -1) -> Spec:
    rest = _entropy(op, x, label, axis).shape
    if g.shape != rest:
        raise ShapeError(f"{op.name}: g of shape {g.shape} for scores of shape {x.shape}; expected shape {rest}")
    return Spec(x.shape, x.dtype)


@op(_entropy_grad)
def softmax_cross_entropy_grad(xp: Any, g: Array, x: Array, label: Array, axis: int = -1) -> Any:
    """g times (softmax(x) minus 1 at the class ``label``): the gradient of `softmax_cross_entropy`."""
    index, g, p = _within(xp, label, x, axis), xp.expand_dims(g, axis), xp.empty_like(x)
    for part in _parts(xp, x, axis):
        e = _shifted(xp, x[part], axis, p[part])
        xp.exp(e, out=e)
        total = e.sum(axis=axis, keepdims=True)
        if x.dtype.itemsize < 4:  # g / total may be less than the smallest number
            e /= total
            e *= g[part]
        else:
            e *= g[part] / total
    xp.put_along_axis(p, index, xp.take_along_axis(p, index, axis) - g.astype(p.dtype, copy=False), axis)
    return p


@softmax_cross_entropy_grad.vjp
def _softmax_cross_entropy_grad_vjp(xp: Any, c: Any, out: Any, g: Any, x: Any, label: Any, axis: int = -1) -> Any:
    p = xp.softmax(x, axis=axis)
    total = xp.sum(c * p, axis, keepdims=True)
    chosen = xp.take_along_axis(c, xp.expand_dims(label, axis), axis=axis)
    return (
        lambda: xp.squeeze(total - chosen, axis=axis),
        lambda: xp.expand_dims(g, axis) * p * (c - total),
        None,
    )


def sigmoid_cross_entropy(x: Any, target: Any) -> Any:
    """-target * log(sigmoid(x)) - (1 - target) * log(1 - sigmoid(x)), element by element, without overflow."""
    return relu(x) - x * target + softplus(-abs_(x))


def smooth_l1(x: Any, scalar: float = 1.0) -> Any:
    """(scalar * x)**2 / 2 where abs(x) < 1 / scalar**2, else abs(x) - 0.5 / scalar**2 (Girshick, arXiv:1504.08083)."""
    size, knee = abs_(x), 1.0 / scalar**2
    return where(size < knee, x * x * (0.5 * scalar**2), size - 0.5 * knee)
