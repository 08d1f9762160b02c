"""Sums over leading axes: gradients of biases."""

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.native.table import Bound, In, kernel

__all__ = ["column_sums"]

SINGLE = np.dtype(np.float32)


@cache
def column_sums() -> Any:
    """``column_sums(x, out, rows, columns)`` on the addresses of float32 arrays; None if nothing can be compiled."""
    library = compiler.load(compiler.text("sums.c"), exact=True)
    if library is None:
        return None
    library.column_sums.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    library.column_sums.restype = None
    return library.column_sums


@kernel("sum_to")
def _sum_to(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    (x,) = inputs
    shape = tuple(attrs["shape"])
    if not isinstance(x, In) or x.dtype != SINGLE or not x.size:
        return None
    kept = len(shape)
    while kept and shape[len(shape) - kept] == 1:
        kept -= 1
    tail = x.shape[len(x.shape) - kept :]
    rows = math.prod(x.shape[: len(x.shape) - kept])
    if tail != shape[len(shape) - kept :] or rows < 2 or not kept:
        return None
    function, columns = column_sums(), math.prod(tail)

    def run(x: Any, out: Any) -> None:
        function(x.ctypes.data, out.ctypes.data, rows, columns)

    return function and Bound((In(shape, SINGLE),), run)
