"""What native code in place of an operator's forward looks like to the executor, and how its C text is collected."""

import ctypes
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.registry import Spec

__all__ = [
    "CHANNELS_LAST",
    "Bound",
    "Maker",
    "Order",
    "Source",
    "address",
    "channels_last",
    "empty",
    "lanes",
    "scratch",
]

Order: TypeAlias = tuple[int, ...]
"""The axes of an array from the slowest in memory to the fastest."""

CHANNELS_LAST: Order = (0, 2, 3, 1)
"""Images of shape (batch, channels, height, width) whose channels are side by side in memory."""


class Bound(NamedTuple):
    """How a call is carried out.

    Attributes:
        run: ``run(*inputs, *outputs)`` writes the outputs. Inputs are arrays in any memory order, scalars or None.
        orders: the memory order in which it wants each output.
    """

    run: Callable[..., None]
    orders: tuple[Order, ...]


Maker: TypeAlias = Callable[[ctypes.CDLL], Bound]
"""Makes a `Bound` of the compiled library."""


class Source:
    """C functions for the calls of a graph, to be compiled together; equal ones are there once."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._texts: list[str] = []

    def add(self, key: Any, text: Callable[[str], str]) -> str:
        """The name of the function for ``key``; ``text(name)`` is asked for if there is none yet."""
        if key not in self._names:
            self._names[key] = f"k{len(self._names)}"
            self._texts.append(text(self._names[key]))
        return self._names[key]

    def load(self) -> ctypes.CDLL | None:
        """The library, or None: see `shoal.ops.native.compiler.why_not`."""
        return compiler.load(compiler.text("vectors.h") + "\n".join(self._texts))


def empty(spec: Spec, order: Order) -> Any:
    """A new array in the given memory order."""
    there = np.empty([spec.shape[axis] for axis in order], spec.dtype)
    return there.transpose([order.index(axis) for axis in range(len(order))])


def lanes() -> int:
    """How many floats a vector of ``vectors.h`` has; 0 where nothing can be compiled."""
    library = compiler.load(compiler.text("vectors.h") + "EXPORT int shoal_lanes(void) { return LANES; }\n")
    return 0 if library is None else int(library.shoal_lanes())


def address(array: Any) -> int:
    """Where an array's memory begins."""
    return int(array.ctypes.data)


def channels_last(x: Any) -> Any:
    """x with its channels last, without gaps: a view where it lies so already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


_local = threading.local()


def scratch(floats: int) -> int:
    """The address of memory for ``floats`` numbers that this thread may use until it calls again."""
    have = getattr(_local, "floats", None)
    if have is None or have.size < floats:
        have = _local.floats = np.empty(max(floats, 1 << 14), np.float32)
    return address(have)
