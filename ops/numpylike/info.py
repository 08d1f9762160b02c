"""What NumPy says about arrays: shapes, dtypes, equality, memory."""

from typing import Any

import numpy as np

from shoal.ops.creation import asarray
from shoal.ops.tensor import raw

__all__ = ["allclose", "array_equal", "may_share_memory", "result_type", "shape"]


def may_share_memory(a: Any, b: Any) -> bool:
    """Whether two arrays may lie in the same memory."""
    return bool(np.may_share_memory(raw(a), raw(b)))


def array_equal(a: Any, b: Any) -> bool:
    """Whether shape and all elements are equal."""
    return bool(np.array_equal(raw(a), raw(b)))


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements differ by at most ``atol`` + ``rtol`` * abs(b)."""
    return bool(np.allclose(raw(a), raw(b), rtol, atol, equal_nan))


def result_type(*values: Any) -> np.dtype[Any]:
    """The dtype that the values have together."""
    return np.result_type(*(raw(v) for v in values))


def shape(x: Any) -> tuple[int, ...]:
    """Length of each axis."""
    return tuple(asarray(x).shape)
