"""The softmax family and cross entropy, along the last axis: ``c/rows.cu``."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import INDICES, STORED, function, geometry
from shoal.ops.gpu.kernels.table import Bound, In, kernel

__all__ = ["cross_entropy_in_place"]


def _fits(x: Any, axis: Any) -> bool:
    """Whether ``x`` is an array of numbers with elements, and ``axis`` its last one."""
    return isinstance(x, In) and x.dtype in STORED and bool(x.shape) and axis in (-1, len(x.shape) - 1) and x.size > 0


def _labels(x: In, label: Any) -> bool:
    return isinstance(label, In) and label.shape == x.shape[:-1] and label.dtype in INDICES


def _sizes(x: In) -> tuple[int, int]:
    return math.prod(x.shape[:-1]), x.shape[-1]


def _unary(name: str) -> None:
    @kernel(name)
    def make(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
        x = inputs[0]
        if not _fits(x, attrs.get("axis", -1)):
            return None
        (rows, n), launch = _sizes(x), function(xp, "rows.cu", name, x.dtype)
        grid, block = geometry(rows, n, x.dtype.itemsize)
        return Bound((x,), lambda x, y: launch(grid, block, x, y, rows, n))


_unary("softmax")
_unary("log_softmax")


@kernel("softmax_grad")
def _softmax_grad(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, y = inputs
    if not _fits(y, attrs.get("axis", -1)) or not isinstance(g, In) or g.shape != y.shape or g.dtype not in STORED:
        return None
    (rows, n), launch = _sizes(y), function(xp, "rows.cu", "softmax_grad", g.dtype, y.dtype)
    grid, block = geometry(rows, n, y.dtype.itemsize)
    return Bound((y,), lambda g, y, dx: launch(grid, block, g, y, dx, rows, n))


@kernel("softmax_cross_entropy")
def _cross_entropy(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    x, label = inputs
    if not _fits(x, attrs.get("axis", -1)) or not _labels(x, label):
        return None
    (rows, n), launch = _sizes(x), function(xp, "rows.cu", "cross_entropy", x.dtype, label.dtype)
    grid, block = geometry(rows, n, x.dtype.itemsize)
    out = In(label.shape, x.dtype)
    return Bound((out,), lambda x, label, loss: launch(grid, block, x, label, loss, rows, n))


@kernel("softmax_cross_entropy_grad")
def _cross_entropy_grad(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, x, label = inputs
    if not _fits(x, attrs.get("axis", -1)) or not _labels(x, label) or g != In(label.shape, x.dtype):
        return None
    (rows, n), launch = _sizes(x), function(xp, "rows.cu", "cross_entropy_grad", x.dtype, label.dtype)
    grid, block = geometry(rows, n, x.dtype.itemsize)
    return Bound((x,), lambda g, x, label, dx: launch(grid, block, g, x, label, dx, rows, n))


def cross_entropy_in_place(xp: Any, logits: Any, label: Any, loss: Any, scale: float = 1.0) -> None:
    """Cross entropy and its gradient in one pass over the logits, for a step that is written by hand.

    Args:
        logits: (..., classes) in C order, float16, bfloat16, float32 or float64; afterwards ``scale`` times the
            gradient of the sum of the losses.
        label: class numbers, int32 or int64. One that is none gives nan, in the loss and all over its row.
        loss: float32, of the labels' shape: the losses.
    """
    (rows, n), launch = (
        _sizes(In(logits.shape, logits.dtype)),
        function(xp, "rows.cu", "cross_entropy_in_place", logits.dtype, label.dtype),
    )
    assert loss.dtype == np.float32 and logits.flags.c_contiguous and loss.size == label.size == rows
    if rows:
        launch(*geometry(rows, n, logits.dtype.itemsize), logits, label, loss, scale, rows, n)
