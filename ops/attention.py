"""Scaled dot-product attention (Vaswani et al., arXiv:1706.03762) as one operator, and positions that rotate.

What the backward pass keeps is the result and one number a row, the logarithm of the sum of exponentials, instead of
the weights, which are as many as queries times keys (Dao et al., arXiv:2205.14135, do so on a GPU). The forward pass
goes by blocks of queries, so that the weights of all are never there at once.
"""

import math
from functools import partial
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

__all__ = [
    "additive",
    "attention",
    "attention_grad",
    "attention_weights",
    "causal_mask",
    "scaled_dot_product_attention",
]

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
    product = _product(xp)
    for rows in _blocks(queries, math.prod(lead) * keys):
        scores = product(q[..., rows, :], k)
        if bias is not None:
            scores = scores + wide(bias[..., rows, :] if bias.ndim > 1 and bias.shape[-2] > 1 else bias)
        if causal:
            scores = _hidden(xp, scores, rows.start)
        top = scores.max(axis=-1, keepdims=True) if keys else xp.zeros((*scores.shape[:-1], 1), scores.dtype)
        top = xp.where(xp.isfinite(top), top, 0.0) if bias is not None else top
        scores -= top
        xp.exp(scores, out=scores)
        sums = scores.sum(axis=-1, keepdims=True)
        none = sums == 0
        out[..., rows, :] = product(scores, v) / xp.where(none, 1.0, sums)
        total[..., rows] = xp.where(none, math.inf, top + xp.log(xp.where(none, 1.0, sums)))[..., 0]
    return out.astype(dtype, copy=False), total


def _blocks(queries: int, weights: int) -> list[slice]:
    """Blocks of queries, each of which has so many weights."""
    step = max(1, BLOCK // max(1, weights))
    return [slice(start, start + step) for start in range(0, queries, step)]


def _hidden(xp: Any, scores: Any, start: int) -> Any:
    """Scores of queries from ``start`` on, -inf for later keys."""
    seen = xp.tri(*scores.shape[-2:], start, dtype=bool)
    return xp.where(seen, scores, xp.asarray(-math.inf, scores.dtype))


def _product(xp: Any) -> Any:
    """Products of matrices; on a GPU by the kernel that the operator has there."""
    return xp.matmul if xp.host else partial(matmul.forward, xp)


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
    if bias is None and g[0] is not None and g[1] is None and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        found = xp.attention_grad(g[0], *out, query, key, value, causal=causal, scale=scale)
        return (*found, None)
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


def _attended_grads(
    op: Op[Any],
    g: Spec,
    out: Spec,
    total: Spec,
    query: Spec,
    key: Spec,
    value: Spec,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Spec, Spec, Spec]:
    expected = _attended(op, query, key, value)
    lead = query.shape[:-2]
    if (g.shape, out.shape, total.shape) != (expected[0].shape, expected[0].shape, expected[1].shape) or not (
        lead == key.shape[:-2] == value.shape[:-2]
    ):
        raise ShapeError(
            f"{op.name}: cotangent {g.shape}, result {out.shape} and sums {total.shape} must be those of query "
            f"{query.shape}, key {key.shape} and value {value.shape}, whose axes but the last two must be equal"
        )
    return tuple(Spec(x.shape, expected[0].dtype) for x in (query, key, value))  # type: ignore[return-value]  # three


@op(_attended_grads)
def attention_grad(
    xp: Any,
    g: Array,
    out: Array,
    total: Array,
    query: Array,
    key: Array,
    value: Array,
    causal: bool = False,
    scale: float | None = None,
) -> Any:
    """Gradients of `attention` for query, key and value, from the cotangent g of its first result.

    ``out`` and ``total`` are what `attention` gave, without a bias; they save time, and count as arguments. The weights
    are computed again, by blocks of queries.
    """
    dtype, factor = np.result_type(query.dtype, key.dtype, value.dtype), _scale(query, scale)
    g, out, total, q, k, v = (wide(x) for x in (g, out, total, query, key, value))
    queries, keys, product = q.shape[-2], k.shape[-2], _product(xp)
    found = [xp.zeros(x.shape, np.result_type(q.dtype, k.dtype, v.dtype)) for x in (q, k, v)]
    for rows in _blocks(queries, math.prod(q.shape[:-2]) * keys):
        near, g_near = q[..., rows, :], g[..., rows, :]
        weights = product(near * factor, k.swapaxes(-1, -2))
        if causal:
            weights = _hidden(xp, weights, rows.start)
        weights -= total[..., rows, None]
        xp.exp(weights, out=weights)
        slope = product(g_near, v.swapaxes(-1, -2))
        slope -= (g_near * out[..., rows, :]).sum(axis=-1, keepdims=True)
        slope *= weights
        found[0][..., rows, :] = product(slope, k) * factor
        found[1] += product(slope.swapaxes(-1, -2), near) * factor
        found[2] += product(weights.swapaxes(-1, -2), g_near)
    return tuple(x.astype(dtype, copy=False) for x in found)


@attention_grad.vjp
def _attention_grad_vjp(
    xp: Any,
    c: Any,
    found: Any,
    g: Any,
    out: Any,
    total: Any,
    query: Any,
    key: Any,
    value: Any,
    causal: bool = False,
    scale: float | None = None,
) -> Any:
    factor = _scale(query, scale)
    g, o, q, k, v = (_precise(xp, x) for x in (g, out, query, key, value))
    a, b, e = (None if x is None else _precise(xp, x) for x in c)

    def turned(x: Any) -> Any:
        return xp.swapaxes(x, -1, -2)

    scores = xp.matmul(q * factor, turned(k))
    weights = xp.exp((xp.causal_mask(scores) if causal else scores) - xp.expand_dims(total, -1))
    rest = xp.matmul(g, turned(v)) - xp.sum(g * o, -1, keepdims=True)
    slope = weights * rest
    parts = [xp.matmul(x, turned(y)) * factor for x, y in ((a, k), (q, b)) if x is not None and y is not None]
    d_slope = _total(parts)  # of what the first two gradients made of `slope`
    d_weights = _total([*([] if e is None else [xp.matmul(g, turned(e))]), *([] if not parts else [d_slope * rest])])
    d_scores = d_weights * weights
    d_rest = None if d_slope is None else d_slope * weights
    d_sum = None if d_rest is None else -xp.sum(d_rest, -1, keepdims=True)

    def wrt_g() -> Any:
        found = [] if d_rest is None else [xp.matmul(d_rest, v), d_sum * o]
        return _total([*found, *([] if e is None else [xp.matmul(weights, e)])])

    def wrt_q() -> Any:
        found = xp.matmul(d_scores, k)
        return (found if b is None else found + xp.matmul(slope, b)) * factor

    def wrt_k() -> Any:
        found = xp.matmul(turned(d_scores), q)
        return (found if a is None else found + xp.matmul(turned(slope), a)) * factor

    return (
        wrt_g,
        None if d_sum is None else lambda: d_sum * g,
        lambda: -xp.sum(d_scores, -1),
        wrt_q,
        wrt_k,
        None if d_rest is None else lambda: xp.matmul(turned(d_rest), g),
    )


def _total(parts: Any) -> Any:
    """The sum of some arrays; None of none."""
    return sum(parts[1:], parts[0]) if parts else None


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
