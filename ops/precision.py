"""Half precision is stored in two bytes and computed in four: sums of float16 in float16 lose most of its digits."""

from typing import Any

import numpy as np

__all__ = ["is_half", "wide"]


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of this dtype are floats of two bytes: float16 or bfloat16 (of kind "V" to NumPy)."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def wide(x: Any) -> Any:
    """``x`` in float32 if it is in half precision; else itself."""
    return x.astype(np.float32) if is_half(x.dtype) else x
