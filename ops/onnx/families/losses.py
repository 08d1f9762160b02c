"""Losses."""

from typing import Any

import numpy as np

from shoal.ops import elementwise, index, neural
from shoal.ops import reduce as reducing
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []


@node("NegativeLogLikelihoodLoss")
def negative_log_likelihood(c: Call, x: Any, target: Any, weight: Any = None) -> Any:
    """Minus the log-probability of the right class; classes along axis 1."""
    return _nll(c, x, target, weight)


@node("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(c: Call, x: Any, target: Any, weight: Any = None) -> Any:
    """`negative_log_likelihood` of the log-softmax, which is the second output."""
    logs = neural.log_softmax(x, axis=1)
    loss = _nll(c, logs, target, weight)
    return (loss, logs) if c.wants(1) else loss


def _nll(c: Call, logs: Any, target: Any, weight: Any) -> Any:
    ignored, dtype = c.get("ignore_index"), np.dtype(logs.dtype)
    target = cast(target, np.dtype(np.int64))
    kept = None if ignored is None else cast(target != int(ignored), dtype)
    where = (
        target if kept is None else elementwise.where(target == int(ignored), elementwise.zeros_like(target), target)
    )
    loss = -shaping.squeeze(index.take_along_axis(logs, shaping.expand_dims(where, axis=1), axis=1), axis=1)
    factor = kept
    if weight is not None:
        each = index.take(weight, where, axis=0)
        factor = each if kept is None else each * kept
    loss = loss if factor is None else loss * factor
    how = c.get("reduction", "mean")
    if how == "none":
        return loss
    total = reducing.sum_(loss)
    if how == "sum":
        return total
    return total / (reducing.sum_(factor) if factor is not None else float(np.prod(tuple(target.shape))))
