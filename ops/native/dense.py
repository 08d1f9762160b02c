"""Dense layers: one matrix product over all leading axes, onto the bias."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.native import gemm
from shoal.ops.native.table import Bound, In, kernel

SINGLE = np.dtype(np.float32)


@kernel("fully_connected")
def _fully_connected(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    x, weight, bias = inputs
    arrays = [x, weight] + [bias] * (bias is not None)
    if not all(isinstance(a, In) and a.dtype == SINGLE and a.size for a in arrays) or len(weight.shape) != 2:
        return None
    units, features = weight.shape
    flat = attrs.get("flatten", True) and len(x.shape) != 2
    rows = x.shape[0] if flat else math.prod(x.shape[:-1])
    right = len(x.shape) >= 2 and rows * features == x.size and (bias is None or bias.shape == (units,))
    if not right or gemm.library() is None:
        return None
    shape, product = (rows, units) if flat else (*x.shape[:-1], units), gemm.product(rows, units, features, tb=True)

    def run(x: Any, weight: Any, bias: Any, out: Any) -> None:
        below = None if bias is None else bias.ctypes.data
        product(x.ctypes.data, weight.ctypes.data, out.ctypes.data, below)

    return Bound((In(shape, SINGLE),), run)
