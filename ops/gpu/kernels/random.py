"""Dropout masks and uniform numbers, the very ones of the CPU, from a key in the memory of the GPU: ``c/random.cu``."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.gpu.kernels.program import STORED, flat, function
from shoal.ops.gpu.kernels.table import Bound, In, kernel

KEY = In((5,), np.dtype(np.uint64))


def _asked(inputs: Sequence[Any], attrs: dict[str, Any]) -> In | None:
    """The array that is wanted; None if there is no kernel for it."""
    out = In(tuple(attrs["shape"]), np.dtype(attrs.get("dtype", "float32")))
    return out if inputs[0] == KEY and out.dtype in STORED and out.size else None


@kernel("dropout_mask")
def _dropout_mask(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    out = _asked(inputs, attrs)
    dropped = min(round(attrs["p"] * 65536), 65536)
    if out is None or dropped == 65536:
        return None
    size, scale = math.prod(out.shape), float(np.asarray(65536.0 / (65536 - dropped), out.dtype))
    launch = function(xp, "random.cu", "dropout_mask", out.dtype)
    grid, block = flat(size, 16)
    return Bound((out,), lambda key, mask: launch(grid, block, key, mask, size, dropped, scale))


@kernel("random_uniform")
def _random_uniform(xp: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    out = _asked(inputs, attrs)
    if out is None:
        return None
    size, wide = math.prod(out.shape), out.dtype == np.float64
    most = 1 - 2**-11 if out.dtype == np.float16 else 1.0
    launch = function(xp, "random.cu", "random_uniform_wide" if wide else "random_uniform", out.dtype)
    grid, block = flat(size, 4 if wide else 8)
    return Bound((out,), lambda key, x: launch(grid, block, key, x, size, most))
