"""Running results along an axis: products, extremes, log-sum-exp, and the linear recurrence that their gradients are.

float16 and float32 are accumulated in a wider dtype. ``axis=None`` flattens, as in NumPy.
"""

import math
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.precision import is_half, wide
from shoal.ops.reduce import accumulated, scanned
from shoal.ops.registry import Array, Op, Spec, broadcast_shape, op


def _part(ndim: int, axis: int, start: int | None, stop: int | None) -> tuple[Any, ...]:
    """A subscript: from ``start`` to ``stop`` along ``axis``; see `shoal.ops.index`."""
    return tuple((start, stop, None) if i == axis % ndim else (None, None, None) for i in range(ndim))


def _shifted(xp: Any, x: Any, axis: int, by: int, fill: float) -> Any:
    """x moved by one place along ``axis``, forwards (1) or backwards (-1), with ``fill`` where it came from."""
    if not x.shape[axis]:
        return x
    kept = xp.getitem(x, key=_part(x.ndim, axis, None, -1) if by > 0 else _part(x.ndim, axis, 1, None))
    width = tuple(((1, 0) if by > 0 else (0, 1)) if i == axis % x.ndim else (0, 0) for i in range(x.ndim))
    return xp.pad(kept, pad_width=width, constant=fill)


# -- linear recurrence


def _recurring(op: Op[Any], x: Spec, decay: Spec, axis: int = -1, reverse: bool = False) -> Spec:
    shape = broadcast_shape(op.name, [x, decay])
    if shape != x.shape:
        raise ShapeError(f"{op.name}: decay of shape {decay.shape} does not fit into x of shape {x.shape}")
    specs.axis_of(op, axis, x.ndim)
    return Spec(shape, np.result_type(x.dtype, decay.dtype))


@op(_recurring)
def linear_recurrence(xp: Any, x: Array, decay: Array, axis: int = -1, reverse: bool = False) -> Any:
    """s[t] = decay[t] * s[t - 1] + x[t] along ``axis``, from s[-1] = 0: moving averages, state-space models.

    Takes log2(n) passes over the whole array (Hillis and Steele, CACM 1986) and no division. ``decay[0]`` is not used.

    Args:
        decay: broadcasts to the shape of x.
        reverse: from the end to the front: s[t] = decay[t] * s[t + 1] + x[t].
    """
    dtype = np.result_type(x.dtype, decay.dtype)
    half = np.float32 if is_half(dtype) else dtype
    s = xp.moveaxis(x, axis, 0).astype(half)  # copies
    a = xp.moveaxis(xp.broadcast_to(decay, x.shape), axis, 0).astype(half)
    if reverse:
        s, a = s[::-1], a[::-1]
    step = 1
    while step < len(s):
        s[step:] += a[step:] * s[:-step]
        a[2 * step :] = a[2 * step :] * a[step:-step]
        step *= 2
    out = xp.moveaxis(s[::-1] if reverse else s, 0, axis)
    return xp.ascontiguousarray(out, dtype=dtype)


@linear_recurrence.vjp
def _linear_recurrence_vjp(xp: Any, g: Any, out: Any, x: Any, decay: Any, axis: int = -1, reverse: bool = False) -> Any:
    by = -1 if reverse else 1
    full = decay if decay.shape == x.shape else xp.broadcast_to(decay, x.shape)
    back = xp.linear_recurrence(g, _shifted(xp, full, axis, -by, 0.0), axis=axis, reverse=not reverse)
    return back, lambda: back * _shifted(xp, out, axis, by, 0.0)


# -- products


@op(scanned)
def cumprod(xp: Any, x: Array, axis: int | None = None) -> Any:
    """Running product along ``axis`` (of the flattened array if None). The gradient is right at zeros, too."""
    return accumulated(xp.cumprod, x, axis)


@cumprod.vjp
def _cumprod_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int | None = None) -> Any:
    along, flat = (0, xp.reshape(x, (-1,))) if axis is None else (axis, x)
    before = _shifted(xp, out, along, 1, 1.0)
    back = before * xp.linear_recurrence(g, _shifted(xp, flat, along, -1, 0.0), axis=along, reverse=True)
    return (back if axis is not None else xp.reshape(back, x.shape),)


# -- extremes


def _two(op: Op[Any], x: Spec, axis: int = -1) -> tuple[Spec, Spec]:
    specs.axis_of(op, axis, x.ndim)
    return x, Spec(x.shape, np.dtype(np.int64))


def _extreme(xp: Any, x: Any, axis: int, ufunc: str) -> Any:
    values = xp.accumulate(ufunc, x, axis)
    places = xp.arange(x.shape[axis]).reshape((-1,) + (1,) * (x.ndim - axis % x.ndim - 1))
    here = (x == values) | (x != x)  # of equal elements the last one counts, as in PyTorch
    return values, xp.accumulate("maximum", xp.where(here, places, 0), axis)


@op(_two)
def cummax(xp: Any, x: Array, axis: int = -1) -> Any:
    """The largest element so far along ``axis``, and its position (int64; the last of equal ones)."""
    return _extreme(xp, x, axis, "maximum")


@op(_two)
def cummin(xp: Any, x: Array, axis: int = -1) -> Any:
    """The smallest element so far along ``axis``, and its position (int64; the last of equal ones)."""
    return _extreme(xp, x, axis, "minimum")


def _extreme_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int = -1) -> Any:
    return (None if g[0] is None else xp.along_axis_add(g[0], out[1], axis=axis, shape=tuple(x.shape)),)


cummax.vjp(_extreme_vjp)
cummin.vjp(_extreme_vjp)


# -- log-sum-exp


def _float_scan(op: Op[Any], x: Spec, axis: int | None = None) -> Spec:
    specs.require_float(op, "x", x)
    return scanned(op, x, axis)


@op(_float_scan)
def logcumsumexp(xp: Any, x: Array, axis: int | None = None) -> Any:
    """log(cumsum(exp(x))) along ``axis`` without overflow."""
    flat = wide(x).reshape(-1) if axis is None else wide(x)
    return xp.accumulate("logaddexp", flat, 0 if axis is None else axis).astype(x.dtype, copy=False)


@logcumsumexp.vjp
def _logcumsumexp_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int | None = None) -> Any:
    along, flat = (0, xp.reshape(x, (-1,))) if axis is None else (axis, x)
    some = out > -math.inf
    safe = xp.where(some, out, 0.0)
    ahead = _shifted(xp, xp.where(some, out, math.inf), along, -1, math.inf)
    decay = xp.where(ahead < math.inf, xp.exp(xp.minimum(safe - xp.where(ahead < math.inf, ahead, 0.0), 0.0)), 0.0)
    back = xp.linear_recurrence(g, decay, axis=along, reverse=True)
    share = xp.where(some, xp.exp(xp.minimum(flat - safe, 0.0)), 0.0)
    result = back * share
    return (result if axis is not None else xp.reshape(result, x.shape),)
