"""Which dtypes hold floating-point numbers, and half precision: stored in two bytes, computed in four.

Sums of float16 in float16 lose most of its digits. bfloat16 is the dtype of `ml_dtypes`: to NumPy its kind is "V", as
of unknown bytes, so that a dtype's kind alone does not say whether it is one of floats.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["BFLOAT16", "is_float", "is_half", "narrow_numbers", "narrowing", "wide"]

BFLOAT16: "np.dtype[Any]" = np.dtype(ml_dtypes.bfloat16)
"""The upper two bytes of a float32."""


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of this dtype are floating-point ones (or complex), which have gradients."""
    return dtype.kind in "fc" or dtype == BFLOAT16


def is_half(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of this dtype are floats of two bytes: float16 or bfloat16."""
    return dtype.itemsize == 2 and dtype.kind in "fV"


def wide(x: Any) -> Any:
    """``x`` in float32 if it is in half precision; else itself."""
    return x.astype(np.float32) if is_half(x.dtype) else x


# NumPy lets a Python float widen bfloat16, which it does not know, to float32 (2.0: an int too). Here it does not, as
# for other floats.


def narrow_numbers(values: list[Any], ufunc: str | None = None) -> list[Any]:
    """``values`` with bfloat16 in the place of Python floats, if there is an array of bfloat16 among them.

    Args:
        ufunc: NumPy's function that they are for; with it, ints are numbers too, and not positions.
    """
    if any(getattr(x, "dtype", None) is BFLOAT16 for x in values):
        kinds = (float,) if ufunc in (None, "ldexp") else (float, int)
        return [BFLOAT16.type(x) if type(x) in kinds else x for x in values]
    return values


def narrowing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The element-wise ``forward``, whose numbers inside do not widen bfloat16."""

    @wraps(forward)
    def run(xp: Any, *inputs: Any, **attrs: Any) -> Any:
        out = forward(xp, *inputs, **attrs)
        for x in inputs:
            if getattr(x, "dtype", None) is BFLOAT16 and type(out) is not tuple:
                return out if out.dtype.kind != "f" or _wider(inputs) else out.astype(BFLOAT16)
        return out

    return run


def _wider(inputs: Sequence[Any]) -> bool:
    """Whether an input holds floats that are wider than bfloat16, or wide integers, with which it gives float64."""
    return any(x.dtype.kind in "fiu" for x in inputs if hasattr(x, "dtype"))
