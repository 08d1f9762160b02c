"""NumPy's functions that look for elements, sort them, or choose among them."""

from typing import Any

import numpy as np

from shoal.ops import elementwise
from shoal.ops.index import argsort, sort, take, take_along_axis
from shoal.ops.tensor import Tensor, raw

__all__ = ["argsort", "nonzero", "sort", "take", "take_along_axis", "unique", "where"]


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """x where the condition holds, elsewhere y. With the condition alone, where it holds: see `nonzero`."""
    if x is None and y is None:
        return nonzero(condition)
    return elementwise.where(condition, x, y)


def nonzero(x: Any) -> tuple[Any, ...]:
    """The positions of elements that are not zero: one int64 tensor per axis."""
    return tuple(Tensor(i) for i in raw(x).nonzero())


def unique(x: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False) -> Any:
    """The sorted elements without repetitions; also, if wanted, where they come first, where each went, how many."""
    find: Any = np.unique
    found = find(np.asarray(raw(x)), return_index, return_inverse, return_counts)
    return tuple(map(Tensor, found)) if isinstance(found, tuple) else Tensor(found)
