"""Memory that a thread uses again: a fresh array of 256 KiB costs more in page faults than the arithmetic on it."""

import threading
from typing import Any

import numpy as np

from shoal.kvstore.codecs.base import Array

__all__ = ["full", "scratch"]

_local = threading.local()


def scratch(name: str, n: int, dtype: Any) -> Array:
    """An array of ``n`` items with anything in it. The next call with this name and dtype, on this thread, gives the
    same memory: nothing that is returned to a caller may lie in it.

    Args:
        name: tells the arrays apart that are in use at a time.
        n: items; `shoal.kvstore.codecs.blockwise.BLOCK` at most, or the memory of a large one is kept.
    """
    arrays: dict[tuple[str, Any], Array] = _local.__dict__.setdefault("arrays", {})
    kept = arrays.get((name, dtype))
    if kept is None or kept.size < n:
        kept = arrays[name, dtype] = np.empty(n, dtype)
    return kept[:n]


def full(n: int, value: Any) -> Array:
    """``n`` times ``value``, a NumPy number, not to be written to: two arrays are compared five times as fast as an
    array and a number."""
    arrays: dict[Any, Array] = _local.__dict__.setdefault("full", {})
    kept = arrays.get((value.dtype, value))
    if kept is None or kept.size < n:
        kept = arrays[value.dtype, value] = np.full(n, value, value.dtype)
        kept.flags.writeable = False
    return kept[:n]
