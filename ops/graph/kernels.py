"""Operators that can write their result where they are told: what the buffer plan can place.

An operator that is a NumPy ufunc takes ``out=`` by itself. The others here are those whose array function has an
``out`` argument and computes the very same bits with it. An operator that is not here allocates, and still works.
"""

from collections.abc import Callable
from typing import Any

from shoal.ops.graph.ir import Call
from shoal.ops.registry import OPS

__all__ = ["Kernel", "into"]

Kernel = Callable[..., Any]
"""``kernel(*inputs, out)``"""


def into(xp: Any, call: Call) -> Kernel | None:
    """A function of the inputs and the array to write the (only) output to; None if the operator has none."""
    ufunc = OPS[call.op].ufunc
    if ufunc is None or call.attrs or len(call.specs) != 1 or None in call.inputs:
        return None
    found: Kernel = getattr(xp, ufunc)
    return found
