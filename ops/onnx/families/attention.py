"""Attention and rotary positions, as ONNX has them since opset 23."""

import math
from typing import Any

import numpy as np

from shoal.ops import elementwise, linalg, neural
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast, dtype_of
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []


def _heads(x: Any, count: int) -> Any:
    """(batch, steps, heads * size) as (batch, heads, steps, size)."""
    batch, steps, width = x.shape
    return shaping.transpose(shaping.reshape(x, (batch, steps, count, width // count)), (0, 2, 1, 3))


def _repeated(x: Any, times: int) -> Any:
    """Each head ``times`` times: several heads of queries share one of keys."""
    if times == 1:
        return x
    batch, heads, steps, size = x.shape
    wide = shaping.broadcast_to(shaping.expand_dims(x, axis=2), (batch, heads, times, steps, size))
    return shaping.reshape(wide, (batch, heads * times, steps, size))


def _bias(c: Call, mask: Any, shape: tuple[int, ...], past: int, lengths: Any, dtype: np.dtype[Any]) -> Any:
    """What is added to the scores: the mask, what lies in the future, and what is beyond the lengths."""
    steps, total = shape[-2:]
    bias: Any = None
    if mask is not None:
        if np.dtype(mask.dtype).kind == "b":
            mask = elementwise.where(mask, np.zeros((), dtype), np.full((), -np.inf, dtype))
        lacking = total - int(mask.shape[-1])
        if lacking > 0:
            width = ((0, 0),) * (mask.ndim - 1) + ((0, lacking),)
            mask = shaping.pad(mask, width, -math.inf)
        bias = mask
    offset = past
    if c.get("is_causal", 0):
        first = np.zeros(1, np.int64) + offset
        if lengths is not None and not past:
            first = lengths - steps
        keep = np.arange(total)[None, None] <= np.arange(steps)[None, :, None] + first[:, None, None]
        causal = np.where(keep, 0.0, -np.inf).astype(dtype)[:, None]
        bias = causal if bias is None else bias + causal
    if lengths is not None:
        beyond = np.where(np.arange(total)[None, :] < lengths[:, None], 0.0, -np.inf).astype(dtype)[:, None, None]
        bias = beyond if bias is None else bias + beyond
    return bias


@node("Attention", known=[6])
def attention(
    c: Call,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    past_key: Any = None,
    past_value: Any = None,
    lengths: Any = None,
) -> Any:
    """softmax(q k / sqrt(size) + mask) v, with grouped heads, a cache, a soft cap and causal masks."""
    flat, dtype = q.ndim == 3, np.dtype(q.dtype)
    if flat:
        q = _heads(q, int(c.get("q_num_heads")))
        k, v = (_heads(x, int(c.get("kv_num_heads"))) for x in (k, v))
    past = 0
    if past_key is not None:
        past = int(past_key.shape[2])
        k, v = shaping.concatenate([past_key, k], axis=2), shaping.concatenate([past_value, v], axis=2)
    present = k, v
    times = int(q.shape[1]) // int(k.shape[1])
    scale = math.sqrt(c.get("scale") or 1.0 / math.sqrt(int(q.shape[-1])))
    scores = linalg.matmul(q * scale, shaping.swapaxes(_repeated(k, times) * scale, -1, -2))
    known = None if lengths is None else np.array(c.ints(lengths, "the lengths"))
    bias = _bias(c, mask, tuple(scores.shape), past, known, dtype)
    cap = float(c.get("softcap", 0.0))
    capped = elementwise.tanh(scores / cap) * cap if cap else scores
    biased = capped if bias is None else capped + bias
    wide = cast(biased, dtype_of(int(c.get("softmax_precision")))) if c.get("softmax_precision") else biased
    weights = cast(_softmax(wide), dtype)
    out = linalg.matmul(weights, _repeated(v, times))
    if flat:
        batch, heads, steps, size = out.shape
        out = shaping.reshape(shaping.transpose(out, (0, 2, 1, 3)), (batch, steps, heads * size))
    seen = (capped, capped, biased, weights)[int(c.get("qk_matmul_output_mode", 0))]
    return out, *present, seen


def _softmax(x: Any) -> Any:
    """Of rows in which nothing is seen: zeros."""
    hidden = x == -math.inf
    lowest = np.full((), np.finfo(np.dtype(x.dtype)).min / 2, np.dtype(x.dtype))
    weights = neural.softmax(elementwise.where(hidden, lowest, x), axis=-1)
    return elementwise.where(hidden, elementwise.zeros_like(x), weights)


@node("RotaryEmbedding", known=[3])
def rotary_embedding(c: Call, x: Any, cosines: Any, sines: Any, positions: Any = None) -> Any:
    """Pairs of features turned by an angle that grows with the position (Su et al., arXiv:2104.09864)."""
    shape = tuple(x.shape)
    if x.ndim == 3:
        count = int(c.get("num_heads"))
        x = shaping.reshape(x, (shape[0], shape[1], count, shape[2] // count))
    else:
        x = shaping.transpose(x, (0, 2, 1, 3))
    size = int(x.shape[-1])
    turned = int(c.get("rotary_embedding_dim", 0)) or size
    part, rest = x[..., :turned], x[..., turned:]
    if positions is not None:
        where = c.known(positions, "the positions").astype(np.int64)
        cosines, sines = cosines[where], sines[where]
    half = turned // 2
    cos, sin = (shaping.expand_dims(t[..., :half], axis=2) for t in (cosines, sines))
    if c.get("interleaved", 0):
        a, b = part[..., 0::2], part[..., 1::2]
        pairs = shaping.stack([cos * a - sin * b, sin * a + cos * b], axis=-1)
        part = shaping.reshape(pairs, (*part.shape[:-1], turned))
    else:
        a, b = part[..., :half], part[..., half:]
        part = shaping.concatenate([cos * a - sin * b, sin * a + cos * b], axis=-1)
    out = shaping.concatenate([part, rest], axis=-1) if turned < size else part
    return shaping.reshape(out, shape) if len(shape) == 3 else shaping.transpose(out, (0, 2, 1, 3))
