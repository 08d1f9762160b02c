"""How the functions of this package take their arguments."""

from collections.abc import Sequence
from typing import Any

from shoal.ops import elementwise
from shoal.ops.creation import asarray

__all__ = ["arraylike", "converted", "whole_numbers"]


def arraylike(x: Any) -> Any:
    """``x`` if it is a tensor, a symbol or an array; a tensor of it if it is a number or a list."""
    return x if hasattr(x, "dtype") and hasattr(x, "astype") else asarray(x)


def converted(x: Any, dtype: Any) -> Any:
    """``x`` in ``dtype``, or as it is if that is None."""
    x = arraylike(x)
    return x if dtype is None or x.dtype == dtype else elementwise.astype(x, dtype=dtype)


def whole_numbers(values: Any) -> Any:
    """An int as it is, a sequence of integers as a tuple of ints."""
    if isinstance(values, Sequence):
        return tuple(int(v) for v in values)
    return values if isinstance(values, int) else values.tolist() if hasattr(values, "tolist") else int(values)
