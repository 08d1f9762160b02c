"""Normalization over the last axes of float32."""

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.native.table import Bound, In, kernel

SINGLE = np.dtype(np.float32)


@cache
def _library() -> ctypes.CDLL | None:
    library = compiler.load(compiler.text("norm.c"), exact=True)
    if library is not None:
        pointers, sizes = [ctypes.c_void_p] * 3, [ctypes.c_long] * 2
        library.standardize.argtypes = [*pointers, *sizes, ctypes.c_double]
        library.standardize_grad.argtypes = [*pointers, ctypes.c_void_p, *sizes]
        library.standardize.restype = library.standardize_grad.restype = None
    return library


def _rows(x: Any, axis: Any) -> tuple[int, ...] | None:
    """The shape with the normalized axes at length 1, if these are the last ones of float32 with elements."""
    if not isinstance(x, In) or x.dtype != SINGLE or not x.size or not x.shape:
        return None
    axes = sorted(a % len(x.shape) for a in ((axis,) if isinstance(axis, int) else axis))
    kept = len(x.shape) - len(axes)
    return (*x.shape[:kept], *[1] * len(axes)) if axes == list(range(kept, len(x.shape))) else None


@kernel("standardize")
def _standardize(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    (x,) = inputs
    kept, library = _rows(x, attrs.get("axis", -1)), _library()
    if kept is None or library is None:
        return None
    rows, eps = math.prod(kept), float(attrs.get("eps", 1e-5))
    n, function = x.size // rows, library.standardize

    def run(x: Any, y: Any, inv: Any) -> None:
        function(x.ctypes.data, y.ctypes.data, inv.ctypes.data, rows, n, eps)

    return Bound((x, In(kept, SINGLE)), run)


@kernel("standardize_grad")
def _standardize_grad(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, y, inv = inputs
    kept, library = _rows(y, attrs.get("axis", -1)), _library()
    if kept is None or library is None or g != y or inv != In(kept, SINGLE):
        return None
    rows = math.prod(kept)
    n, function = y.size // rows, library.standardize_grad

    def run(g: Any, y: Any, inv: Any, dx: Any) -> None:
        function(g.ctypes.data, y.ctypes.data, inv.ctypes.data, dx.ctypes.data, rows, n)

    return Bound((y,), run)
