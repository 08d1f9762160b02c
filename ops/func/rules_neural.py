"""Rules of `vmap` for convolutions, pooling, normalization, losses, activations with parameters."""

import math
from typing import Any

from shoal.ops.func.rules import (
    Batch,
    aligned,
    along,
    along_one,
    batching,
    decomposed,
    folded,
    later,
    lead,
    loop,
    trailing,
    unfolded,
)
from shoal.ops.registry import OPS, Op

batching("max_pool", "max_pool_index", "max_unpool", "max_pool_take", "sum_pool", "sum_unpool")(folded)
batching("sliding_windows", "windows_add", "unpool_at")(folded)
batching("resample", "resample_add")(along_one)
batching("suppressed")(trailing)


batching("softmax_cross_entropy", "softmax_cross_entropy_grad", "softmax_grad", "standardize_grad")(along)
batching("causal_mask")(trailing)
batching("batch_norm_relu", "convolution_relu")(loop)  # graphs have them, and do not run on batches


@batching("attention")
def _attention(op: Op[Any], batch: Batch, query: Any, *others: Any, **attrs: Any) -> Any:
    query = query if batch.on[0] else batch.spread(query)
    return aligned(op, batch._replace(on=[True, *batch.on[1:]]), query, *others, **attrs)


@batching("attention_grad")
def _attention_grad(op: Op[Any], batch: Batch, *inputs: Any, **attrs: Any) -> Any:
    return op(*batch.all(inputs), **attrs)


# -- sequences: (time, batch, ...), the weights the same for all examples; else one example after the other

_WEIGHTS = {"wx", "wh", "bx", "bh", "wr"}


def _side_by_side(x: Any, batch: Batch, timed: bool) -> Any:
    """The examples as further sequences of the batch."""
    if not timed:
        return OPS["reshape"](x, shape=(batch.size * x.shape[1], *x.shape[2:]))
    x = OPS["swapaxes"](x, axis1=0, axis2=1)
    return OPS["reshape"](x, shape=(x.shape[0], batch.size * x.shape[2], *x.shape[3:]))


def _apart(x: Any, batch: Batch, timed: bool) -> Any:
    if not timed:
        return unfolded(x, batch.size, x.shape[0] // batch.size)
    shape = (x.shape[0], batch.size, x.shape[1] // batch.size, *x.shape[2:])
    return OPS["swapaxes"](OPS["reshape"](x, shape=shape), axis1=0, axis2=1)


@batching("rnn_sequence", "gru_sequence", "lstm_sequence")
def _sequence(op: Op[Any], batch: Batch, *values: Any, **attrs: Any) -> Any:
    shared = [name in _WEIGHTS for name in op.arrays[: len(values)]]
    if any(flag and same for flag, same in zip(batch.on, shared, strict=True)):
        return loop(op, batch, *values, **attrs)
    wide = batch._replace(on=[f or s for f, s in zip(batch.on, shared, strict=True)]).all(values)
    given = [
        x if x is None or same else _side_by_side(x, batch, name == "x")
        for x, same, name in zip(wide, shared, op.arrays, strict=False)
    ]
    return tuple(_apart(o, batch, o.ndim == 3) for o in op(*given, **attrs))


@batching("ctc", "ctc_grad")
def _ctc(op: Op[Any], batch: Batch, *values: Any, **attrs: Any) -> Any:
    given = [_side_by_side(x, batch, i == 0) for i, x in enumerate(batch.all(values))]
    out = op(*given, **attrs)
    return _apart(out, batch, out.ndim == 3)


@batching("linear_recurrence")
def _recurrence(op: Op[Any], batch: Batch, x: Any, decay: Any, axis: int = -1, **attrs: Any) -> Any:
    x = x if batch.on[0] else batch.spread(x)
    return op(x, lead(decay, x.ndim - 1) if batch.on[1] else decay, axis=later(axis), **attrs)


# -- convolutions: a filter of its own for each example is a group of its own


def _fold(x: Any, batch: Batch, on: bool) -> Any:
    """(examples, batch, ...) as one batch."""
    x = x if on else batch.spread(x)
    return OPS["reshape"](x, shape=(batch.size * x.shape[1], *x.shape[2:]))


def _as_channels(x: Any, batch: Batch, on: bool) -> Any:
    """(examples, batch, channels, ...) as (batch, examples * channels, ...)."""
    x = OPS["swapaxes"](x if on else batch.spread(x), axis1=0, axis2=1)
    return OPS["reshape"](x, shape=(x.shape[0], batch.size * x.shape[2], *x.shape[3:]))


def _as_filters(x: Any, batch: Batch, on: bool) -> Any:
    """(examples, filters, ...) as (examples * filters, ...)."""
    return _fold(x, batch, on)


def _from_channels(x: Any, batch: Batch) -> Any:
    x = OPS["reshape"](x, shape=(x.shape[0], batch.size, x.shape[1] // batch.size, *x.shape[2:]))
    return OPS["swapaxes"](x, axis1=0, axis2=1)


@batching("convolution")
def _convolution(op: Op[Any], batch: Batch, x: Any, weight: Any, bias: Any = None, **attrs: Any) -> Any:
    on_x, on_weight, on_bias = (*batch.on, False)[:3]
    if not on_weight and not on_bias:
        return unfolded(op(_fold(x, batch, on_x), weight, bias, **attrs), batch.size, x.shape[1])
    groups = attrs.pop("num_group", 1) * batch.size
    channels, filters = _as_channels(x, batch, on_x), _as_filters(weight, batch, on_weight)
    shift = None if bias is None else _fold(bias, batch, on_bias)
    return _from_channels(op(channels, filters, shift, num_group=groups, **attrs), batch)


@batching("convolution_data")
def _convolution_data(op: Op[Any], batch: Batch, g: Any, weight: Any, **attrs: Any) -> Any:
    on_g, on_weight = batch.on
    if not on_weight:
        return unfolded(op(_fold(g, batch, on_g), weight, **attrs), batch.size, g.shape[1])
    groups = attrs.pop("num_group", 1) * batch.size
    channels, filters = _as_channels(g, batch, on_g), _as_filters(weight, batch, on_weight)
    return _from_channels(op(channels, filters, num_group=groups, **attrs), batch)


@batching("convolution_weight")
def _convolution_weight(op: Op[Any], batch: Batch, g: Any, x: Any, **attrs: Any) -> Any:
    groups = attrs.pop("num_group", 1) * batch.size
    channels = _as_channels(g, batch, batch.on[0]), _as_channels(x, batch, batch.on[1])
    out = op(*channels, num_group=groups, **attrs)
    return OPS["reshape"](out, shape=(batch.size, out.shape[0] // batch.size, *out.shape[1:]))


@batching("sum_channels")
def _sum_channels(op: Op[Any], batch: Batch, x: Any) -> Any:
    return OPS["sum"](x, axis=(1, *range(3, x.ndim)))


# -- normalization, in terms of simpler operators


def _batch_norm(x: Any, gamma: Any, beta: Any, axis: int = 1, eps: float = 1e-5) -> Any:
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    shape = tuple(-1 if i == axis % x.ndim else 1 for i in range(x.ndim))
    mean, var = OPS["mean"](x, axis=axes), OPS["var"](x, axis=axes)
    scale = gamma / OPS["sqrt"](var + eps)
    centred = x - OPS["reshape"](mean, shape=shape)
    return centred * OPS["reshape"](scale, shape=shape) + OPS["reshape"](beta, shape=shape), mean, var


def _batch_norm_grad(
    g: Any, x: Any, gamma: Any, mean: Any, var: Any, axis: int = 1, eps: float = 1e-5
) -> tuple[Any, Any, Any]:
    axis %= x.ndim
    axes = tuple(i for i in range(x.ndim) if i != axis)
    n = float(math.prod(x.shape[i] for i in axes)) or math.nan
    shape = tuple(-1 if i == axis else 1 for i in range(x.ndim))

    def spread(v: Any) -> Any:
        return OPS["reshape"](v, shape=shape)

    inv = 1.0 / OPS["sqrt"](var + eps)
    xh = (x - spread(mean)) * spread(inv)
    dbeta, dgamma = OPS["sum"](g, axis=axes), OPS["sum"](g * xh, axis=axes)
    return (g - spread(dbeta / n) - xh * spread(dgamma / n)) * spread(gamma * inv), dgamma, dbeta


batching("batch_norm")(decomposed(_batch_norm))
batching("batch_norm_grad")(decomposed(_batch_norm_grad))


@batching("prelu")
def _prelu(op: Op[Any], batch: Batch, x: Any, slope: Any) -> Any:
    def parts(x: Any, slope: Any) -> Any:
        if slope.ndim:
            slope = OPS["reshape"](slope, shape=(slope.shape[0],) + (1,) * max(x.ndim - 2, 0))
        return OPS["maximum"](x, 0.0) + slope * OPS["minimum"](x, 0.0)

    return decomposed(parts)(op, batch, x, slope)
