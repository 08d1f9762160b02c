"""Dense layers: one matrix product over all leading axes, onto an output that holds the bias already."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops.native.blas import sgemm
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
    product = sgemm()
    if product is None or len(x.shape) < 2 or rows * features != x.size or (bias and bias.shape != (units,)):
        return None
    shape = (rows, units) if flat else (*x.shape[:-1], units)

    def run(x: Any, weight: Any, bias: Any, out: Any) -> None:
        if bias is not None:
            out[...] = bias
        beta = 0.0 if bias is None else 1.0
        product(x.ctypes.data, False, weight.ctypes.data, True, out.ctypes.data, rows, units, features, beta)

    return Bound((In(shape, SINGLE),), run)
