"""Gradients of embeddings, and masks of dropout."""

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.native.table import Bound, In, kernel

SINGLE, WHOLE, WORD = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.uint64)


@cache
def _add_rows() -> Any:
    library = compiler.load(compiler.text("sparse.c"), exact=True)
    if library is None:
        return None
    library.add_rows.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_long] * 3]
    return library.add_rows


@kernel("take_add")
def _take_add(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    g, index = inputs
    shape = tuple(attrs["shape"])
    known = isinstance(g, In) and isinstance(index, In) and g.dtype == SINGLE and index.dtype.kind in "iu"
    if not known or not shape or attrs.get("axis") not in (0, -len(shape)) or not g.size or not math.prod(shape):
        return None
    if g.shape != (*index.shape, *shape[1:]):
        return None
    function, count, places, n = _add_rows(), index.size, shape[0], math.prod(shape[1:])

    def run(g: Any, index: Any, out: Any) -> Any:
        index = index if index.dtype == WHOLE else index.astype(WHOLE)
        return function(g.ctypes.data, index.ctypes.data, out.ctypes.data, count, n, places)

    return function and Bound((In(shape, SINGLE),), run)


@cache
def _dropout() -> Any:
    library = compiler.load(compiler.text("random.c"), exact=True)
    if library is None:
        return None
    library.dropout_mask.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_float]
    library.dropout_mask.restype = None
    return library.dropout_mask


@kernel("dropout_mask")
def _dropout_mask(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    (key,) = inputs
    dropped = min(round(attrs["p"] * 65536), 65536)
    shape = tuple(attrs["shape"])
    if not isinstance(key, In) or key != In((5,), WORD) or attrs.get("dtype", "float32") != "float32":
        return None
    function, n, scale = _dropout(), math.prod(shape), 65536.0 / max(1, 65536 - dropped)

    def run(key: Any, mask: Any) -> None:
        function(key.ctypes.data, mask.ctypes.data, n, dropped, scale)

    return function and Bound((In(shape, SINGLE),), run)
