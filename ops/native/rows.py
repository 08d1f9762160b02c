"""The softmax family, along the last axis of float32."""

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.native.table import Bound, In, Run, kernel

SINGLE, WHOLE = np.dtype(np.float32), np.dtype(np.int64)


@cache
def _library() -> ctypes.CDLL | None:
    return compiler.load(compiler.text("rows.c"), exact=True)


def _function(name: str, arrays: int) -> Any:
    """An exported function of ``arrays`` addresses and two lengths; None if nothing can be compiled."""
    library = _library()
    if library is None:
        return None
    function = getattr(library, name)
    function.argtypes = [*[ctypes.c_void_p] * arrays, ctypes.c_long, ctypes.c_long]
    return function


def _fits(x: Any, axis: int) -> bool:
    return isinstance(x, In) and x.dtype == SINGLE and x.shape != () and axis in (-1, len(x.shape) - 1) and x.size > 0


def _row_kernel(name: str, count: int) -> Any:
    """A kernel of ``count`` arrays of one shape, to one output of that shape."""

    def make(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
        x = inputs[0]
        if not all(_fits(i, attrs.get("axis", -1)) and i.shape == x.shape for i in inputs):
            return None
        function = _function(name, count + 1)
        n = x.shape[-1]
        rows = x.size // n

        def one(x: Any, y: Any) -> Any:
            return function(x.ctypes.data, y.ctypes.data, rows, n)

        def two(g: Any, y: Any, dx: Any) -> Any:
            return function(g.ctypes.data, y.ctypes.data, dx.ctypes.data, rows, n)

        return function and Bound((x,), one if count == 1 else two)

    return make


kernel("softmax")(_row_kernel("softmax", 1))
kernel("log_softmax")(_row_kernel("log_softmax", 1))
kernel("softmax_grad")(_row_kernel("softmax_grad", 2))


@kernel("softmax_cross_entropy")
def _cross_entropy(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    x, label = inputs
    if not _fits(x, attrs.get("axis", -1)) or not _labels(x, label):
        return None
    function, n, rows = _function("cross_entropy", 3), x.shape[-1], math.prod(x.shape[:-1])

    def run(x: Any, label: Any, loss: Any) -> Any:
        label = _wide(label)
        return function(x.ctypes.data, label.ctypes.data, loss.ctypes.data, rows, n)

    return function and Bound((In(label.shape, SINGLE),), run)


@kernel("softmax_cross_entropy_grad")
def _cross_entropy_grad(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, x, label = inputs
    if not _fits(x, attrs.get("axis", -1)) or not _labels(x, label) or g != In(label.shape, SINGLE):
        return None
    function, n, rows = _function("cross_entropy_grad", 4), x.shape[-1], math.prod(x.shape[:-1])

    def run(g: Any, x: Any, label: Any, dx: Any) -> Any:
        label = _wide(label)
        return function(g.ctypes.data, x.ctypes.data, label.ctypes.data, dx.ctypes.data, rows, n)

    run_: Run = run
    return function and Bound((x,), run_)


def _labels(x: In, label: Any) -> bool:
    return isinstance(label, In) and label.shape == x.shape[:-1] and label.dtype.kind in "iu"


def _wide(label: Any) -> Any:
    return label if label.dtype == WHOLE else label.astype(WHOLE)
