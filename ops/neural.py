"""MXNet's neural functions (``npx``): its names and arguments, over the operators of this package."""

import math
from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, ShapeError
from shoal.ops import activation as act
from shoal.ops import conv, convolve, index, linalg, norm, tape, threshold
from shoal.ops import loss as losses
from shoal.ops import pooling as pools
from shoal.ops.border import Pad
from shoal.ops.creation import arange
from shoal.ops.shape import moveaxis, reshape, swapaxes
from shoal.ops.tensor import Tensor

Lengths = int | Sequence[int]


def activation(data: Any, act_type: str = "relu") -> Any:
    """An activation function by name.

    Raises:
        ConfigError: there is none of that name; the message lists them.
    """
    if act_type not in act.ACTIVATIONS:
        raise ConfigError(f"no activation is called {act_type!r}; there are {', '.join(act.ACTIVATIONS)}")
    return act.ACTIVATIONS[act_type](data)


def leaky_relu(
    data: Any,
    gamma: Any = None,
    act_type: str = "leaky",
    slope: float = 0.25,
    lower_bound: float = 0.125,
    upper_bound: float = 0.334,
) -> Any:
    """The family of functions that let a part of negative values through.

    Args:
        act_type: "leaky" (``slope`` * x), "prelu" (``gamma`` * x, learned), "elu" (``slope`` * (exp(x) - 1)), "selu",
            "gelu", or "rrelu" (a random slope between ``lower_bound`` and ``upper_bound`` in training mode).
    """
    if act_type == "rrelu":
        return threshold.rrelu(data, lower_bound, upper_bound)
    if act_type == "prelu":
        return act.prelu(data, gamma)
    if act_type == "elu":
        return act.elu(data, alpha=slope)
    if act_type == "leaky":
        return act.leaky_relu(data, slope=slope)
    return activation(data, act_type)


def convolution(
    data: Any,
    weight: Any,
    bias: Any = None,
    kernel: Lengths | None = None,
    stride: Lengths = 1,
    dilate: Lengths = 1,
    pad: Pad = 0,
    num_filter: int | None = None,
    num_group: int = 1,
    no_bias: bool = False,
    layout: str | None = None,
) -> Any:
    """Convolution in 1 to 3 dimensions; see `shoal.ops.convolve.convolution`.

    Args:
        kernel, num_filter: what the weight's shape says already; checked if given.
        pad: numbers, pairs (before, after), "same" or "valid".
        layout: "NCW", "NCHW" or "NCDHW", or with the channels last, "NHWC"; as data has axes.
    """
    bias = None if no_bias else bias
    _check_weight("convolution", weight, kernel, num_filter, layout, num_filter_of=weight.shape[0])
    return convolve.convolution(data, weight, bias, stride, pad, dilate, num_group, layout)


def _check_weight(
    who: str, weight: Any, kernel: Lengths | None, num_filter: int | None, layout: str | None, num_filter_of: int
) -> None:
    """Raise a ShapeError unless the weight has the kernel and the filters that the caller says."""
    shape = tuple(weight.shape)
    inside = shape[1:-1] if layout in convolve.CHANNELS_LAST else shape[2:]
    if kernel is not None and conv.lengths(kernel, len(inside)) != inside:
        raise ShapeError(f"{who}: kernel={kernel}, but the weight has shape {shape}")
    if num_filter is not None and num_filter != num_filter_of:
        raise ShapeError(f"{who}: num_filter={num_filter}, but the weight has shape {shape}")


def deconvolution(
    data: Any,
    weight: Any,
    bias: Any = None,
    kernel: Lengths | None = None,
    stride: Lengths = 1,
    dilate: Lengths = 1,
    pad: Pad = 0,
    adj: Lengths = 0,
    num_filter: int | None = None,
    num_group: int = 1,
    no_bias: bool = False,
    layout: str | None = None,
    target_shape: Lengths | None = None,
) -> Any:
    """Transposed convolution; see `shoal.ops.convolve.deconvolution`.

    Args:
        kernel, num_filter: what the weight's shape says already; checked if given.
        target_shape: spatial shape of the result, in the place of ``pad`` and ``adj``.
    """
    bias = None if no_bias else bias
    second = weight.shape[-1 if layout in convolve.CHANNELS_LAST else 1]
    _check_weight("deconvolution", weight, kernel, num_filter, layout, num_filter_of=second * num_group)
    return convolve.deconvolution(data, weight, bias, stride, pad, dilate, adj, num_group, target_shape, layout)


def pooling(
    data: Any,
    kernel: Lengths = 1,
    stride: Lengths | None = None,
    pad: Pad = 0,
    pool_type: str = "max",
    global_pool: bool = False,
    count_include_pad: bool = True,
    pooling_convention: str = "valid",
    layout: str | None = None,
    p_value: float = 2.0,
) -> Any:
    """Pooling over windows, or over everything with ``global_pool``; see `shoal.ops.pooling`.

    Args:
        stride: None puts windows side by side.
        pool_type: "max", "avg", "sum" or "lp".
        pooling_convention: "valid": windows that do not fit are left out; "full": the last one may reach over the end.
        layout: as of `convolution`.
        p_value: the exponent of "lp".
    """
    if pool_type not in ("max", "avg", "sum", "lp") or pooling_convention not in ("valid", "full"):
        raise ConfigError(
            f"pooling: pool_type={pool_type!r}, pooling_convention={pooling_convention!r}; "
            "there are 'max', 'avg', 'sum' and 'lp', and the conventions 'valid' and 'full'"
        )
    if convolve.channels_last("pooling", layout, len(data.shape) - 2):
        first = moveaxis(data, -1, 1)
        args = kernel, stride, pad, pool_type, global_pool, count_include_pad, pooling_convention, None, p_value
        return moveaxis(pooling(first, *args), 1, -1)
    if global_pool:
        axes = tuple(range(2, data.ndim))
        if pool_type == "lp":
            return pools.global_lp_pool(data, p_value)
        reduction = {"max": data.max, "avg": data.mean, "sum": data.sum}[pool_type]
        return reduction(axis=axes, keepdims=True)
    over = pooling_convention == "full"
    if pool_type == "max":
        return pools.max_pool(data, kernel, stride, pad, ceil_mode=over)
    if pool_type == "sum":
        return pools.sum_pool(data, kernel, stride, pad, ceil_mode=over)
    if pool_type == "lp":
        return pools.lp_pool(data, p_value, kernel, stride, pad, over)
    return pools.avg_pool(data, kernel, stride, pad, count_include_pad, over)


def batch_norm(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    eps: float = 1e-3,
    momentum: float = 0.9,
    fix_gamma: bool = False,
    use_global_stats: bool = False,
    output_mean_var: bool = False,
    axis: int = 1,
) -> Any:
    """Batch normalization: with the batch's statistics in training mode, with the running ones otherwise.

    In training mode the running statistics, if they are tensors, move towards the batch's, in place:
    ``running = momentum * running + (1 - momentum) * batch``, with the variance not corrected for bias, as in MXNet.

    Args:
        fix_gamma: gamma counts as 1.
        use_global_stats: use the running statistics in training mode too.
        output_mean_var: return (out, mean, var).
    """
    if fix_gamma:
        gamma = gamma * 0.0 + 1.0
    if not tape.state.training or use_global_stats:
        out = norm.batch_norm_inference(x, gamma, beta, running_mean, running_var, axis=axis, eps=eps)
        return (out, running_mean, running_var) if output_mean_var else out
    out, mean, var = norm.batch_norm(x, gamma, beta, axis=axis, eps=eps)
    for running, batch in ((running_mean, mean), (running_var, var)) if 0 not in x.shape else ():  # of none: nan
        if isinstance(running, Tensor) and isinstance(batch, Tensor):
            running.data[...] = momentum * running.data + (1.0 - momentum) * batch.data
    return (out, mean, var) if output_mean_var else out


def layer_norm(data: Any, gamma: Any = None, beta: Any = None, axis: Any = -1, eps: float = 1e-5) -> Any:
    """Layer normalization; see `shoal.ops.norm.layer_norm`."""
    return norm.layer_norm(data, gamma, beta, axis, eps)


def topk(data: Any, axis: int | None = -1, k: int = 1, ret_typ: str = "indices", is_ascend: bool = False) -> Any:
    """The k largest (smallest if ``is_ascend``) elements along ``axis``, best first.

    Args:
        axis: None for the elements of the flattened array; a mask has the shape of ``data`` nevertheless.
        ret_typ: "value", "indices" (int64), "both" (values, indices), or "mask": ones where an element was chosen.
    """
    if axis is None:
        flat = topk(data.reshape(-1), -1, k, ret_typ, is_ascend)
        return flat.reshape(tuple(data.shape)) if ret_typ == "mask" else flat
    values, indices = index.topk(data, k=k, axis=axis, is_ascend=is_ascend)
    if ret_typ == "mask":
        chosen = index.one_hot(indices, depth=data.shape[axis], dtype=data.dtype.name)
        return _mask(chosen, axis, data.ndim)
    found = {"value": values, "indices": indices, "both": (values, indices)}
    if ret_typ not in found:
        raise ConfigError(f"topk: ret_typ {ret_typ!r}; there are 'value', 'indices', 'both' and 'mask'")
    return found[ret_typ]


def _mask(chosen: Any, axis: int, ndim: int) -> Any:
    """Sum of one-hot rows: (..., k at axis, ..., depth) to (..., depth at axis, ...)."""
    axis %= ndim
    summed = chosen.sum(axis=axis)
    order = [*range(axis), ndim - 1, *range(axis, ndim - 1)]
    return summed.transpose(tuple(order))


def batch_dot(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    """Matrix products of batches."""
    a = swapaxes(a, -1, -2) if transpose_a else a
    return linalg.matmul(a, swapaxes(b, -1, -2) if transpose_b else b)


def batch_flatten(x: Any) -> Any:
    """All axes but the first as one."""
    return reshape(x, shape=(x.shape[0], math.prod(x.shape[1:])))


def arange_like(data: Any, start: float = 0.0, step: float = 1.0, axis: int | None = None) -> Any:
    """Numbers from ``start`` in steps, as many as data has along ``axis`` (in the shape of data if None)."""
    n = data.size if axis is None else data.shape[axis]
    numbers = arange(n).astype(data.dtype) * float(step) + float(start)
    return numbers if axis is not None else numbers.reshape(tuple(data.shape))


def softmax(
    data: Any, axis: int = -1, length: Any = None, temperature: float | None = None, use_length: bool = False
) -> Any:
    """Softmax along ``axis``.

    Args:
        length: with ``use_length``, how many elements count, for each row; the others become 0.
        temperature: scores are divided by it.
    """
    if temperature is not None and temperature != 1.0:
        data = data * (1.0 / temperature)
    if not use_length or length is None:
        return losses.softmax(data, axis=axis)
    axis %= data.ndim
    places = arange(data.shape[axis]).reshape((-1,) + (1,) * (data.ndim - axis - 1))
    return losses.masked_softmax(data, places < length.expand_dims(axis), axis=axis)


def log_softmax(data: Any, axis: int = -1, temperature: float | None = None) -> Any:
    """log(softmax(x)) along ``axis``; scores are divided by ``temperature``."""
    if temperature is not None and temperature != 1.0:
        data = data * (1.0 / temperature)
    return losses.log_softmax(data, axis=axis)
