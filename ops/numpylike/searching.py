"""NumPy's functions that look for elements, sort them, or choose among them."""

from typing import Any

from shoal.ops import elementwise
from shoal.ops.index import take, take_along_axis
from shoal.ops.tensor import Tensor, raw

__all__ = ["nonzero", "take", "take_along_axis", "where"]


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """x where the condition holds, elsewhere y. With the condition alone, where it holds: see `nonzero`."""
    if x is None and y is None:
        return nonzero(condition)
    return elementwise.where(condition, x, y)


def nonzero(x: Any) -> tuple[Any, ...]:
    """The positions of elements that are not zero: one int64 tensor per axis."""
    return tuple(Tensor(i) for i in raw(x).nonzero())
