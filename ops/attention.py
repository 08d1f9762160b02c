"""Scaled dot-product attention (Vaswani et al., arXiv:1706.03762) as one operator, and positions that rotate.

What the backward pass keeps is the result and one number a row, the logarithm of the sum of exponentials, instead of
the weights, which are as many as queries times keys (Dao et al., arXiv:2205.14135, do so on a GPU). The forward pass
goes by blocks of queries, so that the weights of all are never there at once.
"""

import math
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import specs
from shoal.ops.dropout import dropout
from shoal.ops.elementwise import where
from shoal.ops.linalg import matmul
from shoal.ops.loss import softmax
from shoal.ops.precision import is_half, wide
from shoal.ops.registry import Array, Op, Spec, op
from shoal.ops.shape import reshape, swapaxes

__all__ = ["additive", "attention", "attention_weights", "causal_mask", "scaled_dot_product_attention"]

BLOCK = 1 << 22
"""Weights that the forward pass has at a time."""


def _triangular(op: Op[Any], x: Spec, value: float = -math.inf) -> Spec:
    if x.ndim < 2:
        raise ShapeError(f"{op.name}: scores must be (..., queries, keys), got shape {x.shape}")
    return Spec(x.shape, x.dtype)


@op(_triangular)
def causal_mask(xp: Any, x: Array, value: float = -math.inf) -> Any:
    """``value`` where a key (last axis) comes after the query (the axis before it); x elsewhere."""
    if x.ndim < 2:
        raise ValueError("causal_mask: scores have queries and keys")
    return xp.where(xp.tri(*x.shape[-2:], dtype=bool), x, xp.asarray(value, x.dtype))


@causal_mask.vjp
def _causal_mask_vjp(xp: Any, g: Any, out: Any, x: Any, value: float = -math.inf) -> Any:
    return (xp.tril(g),)


def _attended(
    op: Op[Any],
    query: Spec,
    key: Spec,
    value: Spec,
    bias: Spec | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Spec, Spec]:
    specs.require_float(op, "query", query)
    fits = min(query.ndim, key.ndim, value.ndim) >= 2 and query.shape[-1] == key.shape[-1]
    try:
        lead = np.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    except ValueError:
        fits = False
    if not fits or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            f"{op.name}: query {query.shape}, key {key.shape} and value {value.shape} must be (..., queries, width), "
            "(..., keys, width) and (..., keys, depth), and the rest must broadcast"
        )
    scores = (*lead, query.shape[-2], key.shape[-2])
    if bias is not None:
        try:
            fits = np.broadcast_shapes(bias.shape, scores) == scores
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(f"{op.name}: the mask has shape {bias.shape}, which does not broadcast to scores {scores}")
    dtype = np.result_type(query.dtype, key.dtype, value.dtype)
    return Spec((*scores[:-1], value.shape[-1]), dtype), Spec(
        scores[:-1], np.dtype(np.float32) if is_half(dtype) else dtype
    )


@op(_attended)
def attention(
    xp: Any,
    query: Array,
    key: Array,
    value: Array,
    bias: Array = None,
    causal: bool = False,
    scale: float | None = None,
) -> Any:
    """softmax(query @ key.T * scale + bias) @ value, and the logarithm of the softmax's sum.

    Args:
        query, key, value: (..., queries, width), (..., keys, width), (..., keys, depth); the rest broadcasts.
        bias: added to the scores (..., queries, keys), to which it broadcasts; -inf hides a key from a query.
        causal: a query does not see later keys.
        scale: 1 / sqrt(width) if None.
    Returns:
        (..., queries, depth), and (..., queries): of a query that sees no key 0 and +inf. The second is float32 for
        half precision.
    """
    dtype = np.result_type(query.dtype, key.dtype, value.dtype)
    q, k, v = wide(query) * _scale(query, scale), wide(key).swapaxes(-1, -2), wide(value)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    queries, keys = q.shape[-2], k.shape[-1]
    out = xp.empty((*lead, queries, v.shape[-1]), np.result_type(q.dtype, k.dtype, v.dtype))
    total = xp.empty((*lead, queries), out.dtype)
    step = max(1, BLOCK // max(1, math.prod(lead) * keys))
    for start in range(0, queries, step):
        rows = slice(start, start + step)
        scores = xp.matmul(q[..., rows, :], k)
        if bias is not None:
            scores = scores + wide(bias[..., rows, :] if bias.ndim > 1 and bias.shape[-2] > 1 else bias)
        if causal:
            seen = xp.tri(scores.shape[-2], keys, start, dtype=bool)
            scores = xp.where(seen, scores, xp.asarray(-math.inf, scores.dtype))
        top = scores.max(axis=-1, keepdims=True) if keys else xp.zeros((*scores.shape[:-1], 1), scores.dtype)
        top = xp.where(xp.isfinite(top), top, 0.0) if bias is not None else top
        scores -= top
        xp.exp(scores, out=scores)
        sums = scores.sum(axis=-1, keepdims=True)
        none = sums == 0
        out[..., rows, :] = xp.matmul(scores, v) / xp.where(none, 1.0, sums)
        total[..., rows] = xp.where(none, math.inf, top + xp.log(xp.where(none, 1.0, sums)))[..., 0]
    return out.astype(dtype, copy=False), total


def _scale(query: Any, scale: float | None) -> float:
    return float(scale) if scale is not None else 1.0 / math.sqrt(max(query.shape[-1], 1))


@attention.vjp
def _attention_vjp(
    xp: Any,
    g: Any,
    out: Any,
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    causal: bool = False,
    scale: float | None = None,
) -> Any:
    factor = _scale(query, scale)
    q, k, v, o = (_precise(xp, t) for t in (query, key, value, out[0]))
    scores = xp.matmul(q * factor, xp.swapaxes(k, -1, -2))
    if bias is not None:
        scores = scores + _precise(xp, bias)
    if causal:
        scores = xp.causal_mask(scores)
    weights = xp.exp(scores - xp.expand_dims(out[1], -1))
    slope, g_out = None, None
    if g[0] is not None:
        g_out = _precise(xp, g[0])
        slope = xp.matmul(g_out, xp.swapaxes(v, -1, -2)) - xp.sum(g_out * o, -1, keepdims=True)
    if g[1] is not None:
        more = xp.expand_dims(g[1], -1)
        slope = more if slope is None else slope + more
    slope = weights * slope
    return (
        lambda: xp.matmul(slope, k) * factor,
        lambda: xp.matmul(xp.swapaxes(slope, -1, -2), q) * factor,
        None if g_out is None else lambda: xp.matmul(xp.swapaxes(weights, -1, -2), g_out),
        slope,
    )


def _precise(xp: Any, x: Any) -> Any:
    return xp.astype(x, dtype="float32") if is_half(x.dtype) else x


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query @ key.T * scale + mask) @ value; names are PyTorch's.

    Args:
        query: (batch, heads, queries, width), or with any axes in front of the last two.
        key, value: (batch, heads, keys, width), (batch, heads, keys, depth).
        attn_mask: broadcasts to (..., queries, keys): booleans, True where a query sees a key, or numbers to be added.
        dropout_p: in training mode, weights are dropped with this probability.
        is_causal: query i sees the keys 0 to i; together with a mask, both must allow.
        scale: 1 / sqrt(width) if None.
        enable_gqa: key and value may have fewer heads than query, a divisor of them; a group of heads shares one.
    Returns:
        (batch, heads, queries, depth). A query that sees no key gets zeros.
    Raises:
        ShapeError: the shapes do not fit.
    """
    if enable_gqa and query.ndim > 2 and query.shape[-3] != key.shape[-3]:
        return _grouped(query, key, value, attn_mask, dropout_p, is_causal, scale)
    bias = None if attn_mask is None else additive(attn_mask, query.dtype)
    if not dropout_p:
        return attention(query, key, value, bias, causal=is_causal, scale=scale)[0]
    if is_causal:
        future = causal_mask(np.zeros((query.shape[-2], key.shape[-2]), query.dtype))
        bias = future if bias is None else bias + future
    return matmul(dropout(attention_weights(query, key, bias, scale), dropout_p), value)


def additive(mask: Any, dtype: np.dtype[Any]) -> Any:
    """A mask as numbers to be added to scores: 0 where a boolean one is True, else -inf."""
    if mask.dtype.kind == "b":
        return where(mask, np.zeros((), dtype), np.asarray(-math.inf, dtype))
    return mask if mask.dtype == dtype else mask.astype(dtype)


def _grouped(
    query: Any, key: Any, value: Any, mask: Any, dropout_p: float, is_causal: bool, scale: float | None
) -> Any:
    """Groups of heads as an axis of their own, along which key and value broadcast."""
    heads, shared = query.shape[-3], key.shape[-3]
    if not shared or heads % shared or value.shape[-3] != shared:
        raise ShapeError(
            f"scaled_dot_product_attention: query {tuple(query.shape)} has {heads} heads, key {tuple(key.shape)} and "
            f"value {tuple(value.shape)} must have a divisor of them"
        )

    def parted(x: Any, groups: int, each: int) -> Any:
        return reshape(x, shape=(*x.shape[:-3], groups, each, *x.shape[-2:]))

    if mask is not None and mask.ndim > 2:
        mask = parted(mask, *((shared, heads // shared) if mask.shape[-3] == heads else (1, 1)))
    q, k, v = parted(query, shared, heads // shared), parted(key, shared, 1), parted(value, shared, 1)
    out = scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal, scale)
    return reshape(out, shape=(*query.shape[:-1], value.shape[-1]))


def attention_weights(query: Any, key: Any, bias: Any = None, scale: float | None = None) -> Any:
    """softmax(query @ key.T * scale + bias): (..., queries, keys). A query that sees no key gets zeros."""
    scores = matmul(query * _scale(query, scale), swapaxes(key, -1, -2))
    if bias is None:
        return softmax(scores)
    scores = scores + bias
    return where(scores.max(axis=-1, keepdims=True) > -math.inf, softmax(scores), 0.0)
