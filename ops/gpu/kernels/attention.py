"""Attention and its gradients, by cuDNN (`shoal.ops.gpu.dnn`).

The forward part keeps the logarithm of each row's sum, from which the backward part computes the weights again.
Queries, keys and values are taken where they lie, so that parts of one product need no copies. Attention with a mask,
and other forms than `why_not_attention` lets through, stay with the array namespace, forward and backward alike.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu import dnn
from shoal.ops.gpu.dnn import Attention, address, dnn_of, stream_of, why_not_attention
from shoal.ops.gpu.kernels.table import Bound, In, dense, kernel

__all__ = ["wanted"]

STATISTICS = np.dtype(np.float32)
"""The type of the sums' logarithms."""


def wanted(
    xp: Any, q: Any, k: Any, v: Any, bias: Any, *, causal: bool = False, scale: float | None = None
) -> Attention | None:
    """What to ask of cuDNN for these shapes, with strides still to be filled in; None if it is not here, or refused."""
    if dnn_of(xp) is None or not all(isinstance(a, In) and len(a.shape) == 4 for a in (q, k, v)):
        return None
    if k.shape != v.shape or len({a.dtype for a in (q, k, v)}) != 1:
        return None
    factor = 1.0 / float(np.sqrt(q.shape[3])) if scale is None else float(scale)
    flat = (1, 1, 1, 1)
    asked = Attention(q.shape, k.shape, flat, flat, flat, q.dtype, bool(causal), factor)
    return None if why_not_attention(asked, masked=bias is not None) else asked


def _attend(xp: Any, part: str, asked: Attention, qkv: Sequence[Any], more: dict[int, Any]) -> None:
    """Run a part of an attention on arrays."""
    engine = dnn_of(xp)
    assert engine is not None
    arrays = [a if a.strides[-1] == a.dtype.itemsize else xp.module.ascontiguousarray(a) for a in qkv]
    q, k, v = (tuple(s // a.dtype.itemsize for s in a.strides) for a in arrays)
    places = {**dict(zip((dnn.Q, dnn.K, dnn.V), arrays, strict=True)), **more}
    where = {name: address(x) for name, x in places.items()}
    engine.attend(part, asked._replace(q_stride=q, k_stride=k, v_stride=v), where, stream_of(xp))


@kernel("attention", "dnn")
def _attention(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    asked = wanted(xp, *inputs, **attrs)
    if asked is None:
        return None

    def run(q: Any, k: Any, v: Any, bias: Any, out: Any, total: Any) -> None:
        _attend(xp, "forward", asked, (q, k, v), {dnn.OUT: out, dnn.TOTAL: total})

    return Bound((In(asked.queries, asked.dtype), In(asked.queries[:3], STATISTICS)), run, strided=True)


@kernel("attention_grad", "dnn")
def _attention_grad(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, out, total, q, k, v = inputs
    asked = wanted(xp, q, k, v, None, **attrs)
    if asked is None or {g.dtype, out.dtype} != {asked.dtype} or total.dtype != STATISTICS:
        return None

    def run(g: Any, out: Any, total: Any, q: Any, k: Any, v: Any, dq: Any, dk: Any, dv: Any) -> None:
        rows = {dnn.DOUT: dense(xp, g), dnn.OUT: dense(xp, out), dnn.TOTAL: dense(xp, total)}
        _attend(xp, "gradient", asked, (q, k, v), {**rows, dnn.DQ: dq, dnn.DK: dk, dnn.DV: dv})

    return Bound((In(asked.queries, asked.dtype), *[In(asked.keys, asked.dtype)] * 2), run, strided=True)
