"""Normalization. Statistics take two passes: the mean, then the mean square distance from it.

The one-pass formula E[x**2] - E[x]**2 gives 0.94 for a variance of 1 around a mean of 1000 in float32; two passes give
six digits. float16 is computed in float32.

The common core of all gradients here: with xh = (x - mean) / std over n elements, a cotangent h of xh becomes
(h - mean(h) - xh * mean(h * xh)) / std for x.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import specs
from shoal.ops.elementwise import rsqrt
from shoal.ops.pooling import sum_pool
from shoal.ops.precision import is_half
from shoal.ops.precision import wide as _wide
from shoal.ops.reduce import channel_sum
from shoal.ops.registry import Array, Op, Shape, Spec, op
from shoal.ops.shape import reshape


def _per_channel(v: Any, ndim: int, axis: int) -> Any:
    """A vector of channels in a shape that broadcasts against an array with ``ndim`` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return v.reshape(tuple(shape))


def _batch_spec(op: Op[Any], x: Spec, gamma: Spec, beta: Spec, axis: int = 1, eps: float = 1e-5) -> tuple[Spec, ...]:
    specs.require_float(op, "x", x)
    axis = specs.axis_of(op, axis, x.ndim)
    for name, v in (("gamma", gamma), ("beta", beta)):
        if v.shape != (x.shape[axis],):
            raise ShapeError(
                f"{op.name}: {name} has shape {v.shape}, expected ({x.shape[axis]},): x of shape {x.shape} has "
                f"{x.shape[axis]} channels along axis {axis}"
            )
    statistic = np.dtype(np.float32) if is_half(x.dtype) else x.dtype
    channels = Spec((x.shape[axis],), statistic)
    return Spec(x.shape, x.dtype), channels, channels


@op(_batch_spec)
def batch_norm(xp: Any, x: Array, gamma: Array, beta: Array, axis: int = 1, eps: float = 1e-5) -> Any:
    """Batch normalization with the statistics of this batch (Ioffe and Szegedy, arXiv:1502.03167).

    Args:
        x: channels along ``axis``.
        gamma, beta: scale and shift per channel.
        eps: added to the variance.
    Returns:
        (normalized x, mean per channel, variance per channel, not corrected for bias). Statistics of float16 are
        float32.
    """
    wide, axis = _wide(x), axis % x.ndim
    n = _count(x, axis)
    mean = channel_sum(xp, wide, axis) / n
    out = wide - _per_channel(mean, x.ndim, axis)
    var = channel_sum(xp, xp.square(out), axis) / n
    out *= _per_channel((gamma / xp.sqrt(var + eps)).astype(out.dtype, copy=False), x.ndim, axis)
    out += _per_channel(beta, x.ndim, axis)
    return out.astype(x.dtype, copy=False), mean, var


def _count(x: Any, axis: int) -> float:
    """Elements per channel; nan for none, so that statistics of an empty batch are nan without a warning."""
    return float(math.prod(n for i, n in enumerate(x.shape) if i != axis)) or math.nan


@batch_norm.vjp
def _batch_norm_vjp(xp: Any, g: Any, out: Any, x: Any, gamma: Any, beta: Any, axis: int = 1, eps: float = 1e-5) -> Any:
    _, mean, var = out
    axis, n = axis % x.ndim, _count(x, axis % x.ndim)
    dx, dgamma, dbeta = (
        (None, None, None) if g[0] is None else xp.batch_norm_grad(g[0], x, gamma, mean, var, axis=axis, eps=eps)
    )
    if g[1] is not None:
        dx = _plus(dx, xp.broadcast_to(_per_channel(g[1] / n, x.ndim, axis), x.shape))
    if g[2] is not None:
        centred = x - _per_channel(mean, x.ndim, axis)
        dx = _plus(dx, _per_channel(g[2] * (2.0 / n), x.ndim, axis) * centred)
    return dx, dgamma, dbeta


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else a + b


def _batch_grad_spec(
    op: Op[Any], g: Spec, x: Spec, gamma: Spec, mean: Spec, var: Spec, axis: int = 1, eps: float = 1e-5
) -> tuple[Spec, ...]:
    return Spec(x.shape, x.dtype), Spec(gamma.shape, gamma.dtype), Spec(gamma.shape, gamma.dtype)


@op(_batch_grad_spec)
def batch_norm_grad(
    xp: Any, g: Array, x: Array, gamma: Array, mean: Array, var: Array, axis: int = 1, eps: float = 1e-5
) -> Any:
    """Gradients of `batch_norm` for x, gamma and beta, from the cotangent g of its first output.

    ``mean`` and ``var`` are what `batch_norm` returned: they save time, and count as functions of x.
    """
    wide, g_wide, n = _wide(x), _wide(g), _count(x, axis)
    inv = 1.0 / xp.sqrt(var + eps)
    xh = wide - _per_channel(mean, x.ndim, axis)
    xh *= _per_channel(inv, x.ndim, axis)
    dbeta = channel_sum(xp, g_wide, axis)
    dgamma = channel_sum(xp, g_wide * xh, axis)
    xh *= _per_channel(dgamma / -n, x.ndim, axis)
    xh += g_wide
    xh -= _per_channel(dbeta / n, x.ndim, axis)
    xh *= _per_channel((gamma * inv).astype(xh.dtype, copy=False), x.ndim, axis)
    return xh.astype(x.dtype, copy=False), dgamma.astype(gamma.dtype), dbeta.astype(gamma.dtype)


@batch_norm_grad.vjp
def _batch_norm_grad_vjp(
    xp: Any, g: Any, out: Any, dy: Any, x: Any, gamma: Any, mean: Any, var: Any, axis: int = 1, eps: float = 1e-5
) -> Any:
    axes = tuple(i for i in range(x.ndim) if i != axis)
    n = _count(x, axis)
    zero = xp.zeros_like(gamma)
    a, b, c = (xp.zeros_like(x) if g[0] is None else g[0]), *((zero if v is None else v) for v in g[1:])

    def mean_of(v: Any) -> Any:
        return xp.sum(v, axes, keepdims=True) / n

    inv = xp.rsqrt(mean_of(xp.square(x - mean_of(x))) + eps)
    xh = (x - mean_of(x)) * inv
    gamma_, b_, c_ = (_per_channel(v, x.ndim, axis) for v in (gamma, b, c))

    def centred(h: Any) -> Any:
        return h - mean_of(h) - xh * mean_of(h * xh)

    def wrt_x() -> Any:
        p, q = mean_of(a * xh), mean_of(dy * xh)
        inside = mean_of(a * dy) - mean_of(a) * mean_of(dy) - p * q
        h = (b_ - gamma_ * inv * p) * dy - gamma_ * inv * q * a
        return inv * centred(h) - gamma_ * inv * inv * inside * xh

    return (
        lambda: gamma_ * inv * centred(a) + b_ * xh + c_,
        wrt_x,
        lambda: xp.reshape(xp.sum(a * inv * centred(dy), axes), gamma.shape),
        None,
        None,
    )


def batch_norm_inference(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, axis: int = 1, eps: float = 1e-5) -> Any:
    """Batch normalization with given statistics: two passes over x."""
    scale = gamma * rsqrt(var + eps)
    shape = tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim))
    shift = beta - mean * scale
    return x * reshape(scale.astype(x.dtype), shape=shape) + reshape(shift.astype(x.dtype), shape=shape)


# -- the other norms: standardize over some axes, then scale and shift


def _standard_spec(op: Op[Any], x: Spec, axis: int | Sequence[int] = -1, eps: float = 1e-5) -> tuple[Spec, Spec]:
    specs.require_float(op, "x", x)
    kept = specs.reduced_shape(op, x.shape, axis, True)
    return Spec(x.shape, x.dtype), Spec(kept, np.dtype(np.float32) if is_half(x.dtype) else x.dtype)


@op(_standard_spec)
def standardize(xp: Any, x: Array, axis: int | Sequence[int] = -1, eps: float = 1e-5) -> Any:
    """(x - mean) / sqrt(var + eps) over ``axis``, and 1 / sqrt(var + eps) with those axes at length 1."""
    wide = _wide(x)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    n = float(math.prod(x.shape[a] for a in axes)) or math.nan
    out = wide - wide.sum(axis=axes, keepdims=True) / n
    inv = 1.0 / xp.sqrt(xp.square(out).sum(axis=axes, keepdims=True) / n + eps)
    out *= inv
    return out.astype(x.dtype, copy=False), inv


@standardize.vjp
def _standardize_vjp(xp: Any, g: Any, out: Any, x: Any, axis: int | Sequence[int] = -1, eps: float = 1e-5) -> Any:
    xh, inv = out
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    n = float(math.prod(x.shape[a] for a in axes)) or math.nan
    dx = None
    if g[0] is not None:
        h = g[0] if g[0].dtype == inv.dtype else xp.astype(g[0], dtype=inv.dtype.name)
        dx = xp.standardize_grad(h, xh, inv, axis=axis)
    if g[1] is not None:  # d inv / d x = -inv**2 * xh / n
        dx = _plus(dx, g[1] * inv * inv * xh * (-1.0 / n))
    return (dx,)


def _standard_grad_spec(op: Op[Any], g: Spec, y: Spec, inv: Spec, axis: int | Sequence[int] = -1) -> Spec:
    if g.shape != y.shape:
        raise ShapeError(f"{op.name}: g has shape {g.shape}, y has shape {y.shape}; they must be the same")
    return Spec(g.shape, np.result_type(g.dtype, y.dtype, inv.dtype))


@op(_standard_grad_spec)
def standardize_grad(xp: Any, g: Array, y: Array, inv: Array, axis: int | Sequence[int] = -1) -> Any:
    """inv * (g - mean(g) - y * mean(g * y)) over ``axis``: the gradient of `standardize`, which gave y and inv."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    n = float(math.prod(y.shape[a] for a in axes)) or math.nan
    dtype = np.result_type(g.dtype, y.dtype, inv.dtype)
    g, y, inv = _wide(g), _wide(y), _wide(inv)
    out = inv * (g - g.sum(axis=axes, keepdims=True) / n - y * ((g * y).sum(axis=axes, keepdims=True) / n))
    return out.astype(dtype, copy=False)


@standardize_grad.vjp
def _standardize_grad_vjp(xp: Any, c: Any, out: Any, g: Any, y: Any, inv: Any, axis: int | Sequence[int] = -1) -> Any:
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    n = float(math.prod(y.shape[a] for a in axes)) or math.nan

    def mean(v: Any) -> Any:
        return xp.sum(v, axes, keepdims=True) / n

    return (
        lambda: xp.standardize_grad(c, y, inv, axis=axis),
        lambda: -inv * (c * mean(g * y) + g * mean(c * y)),
        lambda: xp.sum(c * (g - mean(g) - y * mean(g * y)), axes, keepdims=True),
    )


def layer_norm(x: Any, gamma: Any = None, beta: Any = None, axis: int | Sequence[int] = -1, eps: float = 1e-5) -> Any:
    """Layer normalization over ``axis`` (Ba et al., arXiv:1607.06450).

    Args:
        gamma, beta: scale and shift along ``axis``, of that shape; None for none.
        axis: one, or several in ascending order, such as (-2, -1).
    """
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    shape = _along(x, axes)
    out = standardize(x, axis=axis if isinstance(axis, int) else axes, eps=eps)[0]
    out = out if gamma is None else out * _shaped(gamma, shape)
    return out if beta is None else out + _shaped(beta, shape)


def _along(x: Any, axes: Sequence[int]) -> Shape:
    """The shape in which a parameter of these axes broadcasts against x; () if it does so as it is."""
    places = [a % len(x.shape) for a in axes]
    if places == list(range(len(x.shape) - len(axes), len(x.shape))):
        return ()
    return tuple(n if i in places else 1 for i, n in enumerate(x.shape))


def _shaped(parameter: Any, shape: Shape) -> Any:
    return reshape(parameter, shape=shape) if shape else parameter


def group_norm(x: Any, gamma: Any, beta: Any, num_groups: int = 1, eps: float = 1e-5) -> Any:
    """Normalization over groups of channels and all positions (Wu and He, arXiv:1803.08494).

    Args:
        x: (batch, channels, ...).
        gamma, beta: one per channel.
        num_groups: divides the number of channels; 1 normalizes over all of them.
    Raises:
        ShapeError: it does not divide.
    """
    n, c, *rest = x.shape
    if c % num_groups:
        raise ShapeError(f"group_norm: {c} channels (shape {tuple(x.shape)}) are not a multiple of {num_groups} groups")
    grouped = reshape(x, shape=(n, num_groups, math.prod(rest) * (c // num_groups)))
    flat = reshape(standardize(grouped, axis=-1, eps=eps)[0], shape=tuple(x.shape))
    channels: Shape = (c,) + (1,) * len(rest)
    return flat * reshape(gamma, shape=channels) + reshape(beta, shape=channels)


def instance_norm(x: Any, gamma: Any, beta: Any, eps: float = 1e-5) -> Any:
    """Normalization of each channel of each sample over its positions (Ulyanov et al., arXiv:1607.08022)."""
    return group_norm(x, gamma, beta, num_groups=x.shape[1], eps=eps)


def rms_norm(x: Any, gamma: Any = None, axis: int | Sequence[int] = -1, eps: float = 1e-6) -> Any:
    """x / sqrt(mean(x**2) + eps) * gamma over ``axis`` (Zhang and Sennrich, arXiv:1910.07467).

    Args:
        gamma: scale along ``axis``, of that shape; None for none.
    """
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    wide = _square_safe(x)
    out = wide * rsqrt((wide * wide).mean(axis=axis if isinstance(axis, int) else axes, keepdims=True) + eps)
    out = out if wide is x else out.astype(x.dtype)
    return out if gamma is None else out * _shaped(gamma, _along(x, axes))


def _square_safe(x: Any) -> Any:
    """x in float32 if its squares could be too large for its own dtype."""
    return x.astype(np.float32) if is_half(x.dtype) else x


def l2_normalize(x: Any, axis: int | Sequence[int] = -1, eps: float = 1e-10) -> Any:
    """x divided by its length over ``axis``."""
    wide = _square_safe(x)
    axes = axis if isinstance(axis, int) else tuple(axis)
    out = wide * rsqrt((wide * wide).sum(axis=axes, keepdims=True) + eps)
    return out if wide is x else out.astype(x.dtype)


def local_response_norm(x: Any, nsize: int, alpha: float = 1e-4, beta: float = 0.75, knorm: float = 2.0) -> Any:
    """x / (knorm + alpha * mean of the squares of ``nsize`` neighbouring channels)**beta (Krizhevsky et al., 2012).

    Args:
        x: (batch, channels, ...).
        nsize: how many channels count, half of them before and half behind; those that are not there count as zeros.
        knorm: MXNet's default is 2, PyTorch's 1.
    Raises:
        ConfigError: ``nsize`` is less than 1.
    """
    if nsize < 1:
        raise ConfigError(f"local_response_norm: nsize={nsize} must be at least 1")
    wide = _square_safe(x)
    n, c, *rest = x.shape
    squares = reshape(wide * wide, shape=(n, 1, c, math.prod(rest)))
    total = sum_pool(squares, (nsize, 1), 1, ((nsize // 2, (nsize - 1) // 2), (0, 0)))
    out = wide * (reshape(total, shape=tuple(x.shape)) * (alpha / nsize) + knorm) ** -beta
    return out if wide is x else out.astype(x.dtype)
