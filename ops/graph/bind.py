"""Compiled kernels as steps of a program: one library for a whole graph, addresses bound once where they stay the same.

A compiled function takes one argument: a block of addresses. A block belongs to an arena, and the addresses of what
lies in the arena are written into it once. Arrays that come from outside are compared by identity at each step (a
model's parameters are the same arrays step after step); addresses of arrays that are made anew are written each time.
"""

import ctypes
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from shoal.ops.graph.kernels import Source, Strides

__all__ = ["Block", "Operand", "address", "alike", "compiled", "empty", "native_step", "relaid"]

Values = list[Any]


def compiled(sources: Iterable[Source]) -> dict[str, Callable[[int], None]]:
    """Functions by name; all sources are compiled in one go. Empty where nothing can be compiled."""
    from shoal.ops.native import compiler

    found: dict[str, Callable[[int], None]] = {}
    texts: dict[bool, dict[str, str]] = {}
    for source in sources:
        texts.setdefault(source.exact, {})[source.name] = source.text
    files = [(exact, part) for exact, by_name in texts.items() for part in _parts(by_name)]
    libraries = compiler.load_all([("\n".join(part.values()), exact) for exact, part in files])
    for (_, part), library in zip(files, libraries, strict=True):
        if library is None:
            _warn_once(compiler.why_not())
        for name in part if library is not None else ():
            function = getattr(library, name)
            function.argtypes, function.restype = [ctypes.c_void_p], None
            found[name] = function
    return found


PART_CHARACTERS = 90_000
"""About the largest file: so much takes a compiler a second."""


def _parts(texts: dict[str, str]) -> list[dict[str, str]]:
    """The texts, by name, as files of about equal length that a compiler can take side by side."""
    count = -(-sum(map(len, texts.values())) // PART_CHARACTERS)
    parts: list[dict[str, str]] = [{} for _ in range(count)]
    lengths = [0] * count
    for name in sorted(texts, key=lambda n: (-len(texts[n]), n)):
        least = lengths.index(min(lengths))
        parts[least][name] = texts[name]
        lengths[least] += len(texts[name])
    return [p for p in parts if p]


_warned = False


def _warn_once(why: str) -> None:
    """Say that compiling failed, though there is a compiler."""
    global _warned
    if not _warned and why and "SHOAL_NATIVE" not in why and "no C compiler" not in why:
        _warned = True
        warnings.warn(f"graphs run without compiled kernels, by NumPy: {why[:500]}", RuntimeWarning, stacklevel=2)


class Operand:
    """An array of a compiled call: its number in the block, its place among the values, and its strides."""

    __slots__ = ("make", "number", "shape", "slot", "strides")

    def __init__(self, number: int, slot: int, spec: Any, strides: Strides, make: Callable[[], Any] | None) -> None:
        self.number, self.slot, self.shape, self.strides, self.make = number, slot, spec.shape, strides, make


class Block:
    """The addresses that one compiled call gets, in one arena."""

    __slots__ = ("address", "pointers", "seen")

    def __init__(self, count: int) -> None:
        self.pointers = (ctypes.c_uint64 * max(1, count))()
        self.address = ctypes.addressof(self.pointers)
        self.seen: Values = [None] * count


def native_step(
    function: Callable[[int], None],
    block: int,
    stable: Sequence[Operand],
    moving: Sequence[Operand],
    fresh: Sequence[Operand],
) -> Callable[[Values], None]:
    """A step that calls a compiled function.

    Args:
        block: where its `Block` is among the values.
        stable: arrays that are likely the same in the next run.
        moving: arrays that are made anew in each run.
        fresh: outputs that this step allocates.
    """
    known = [(x.number, x.slot, x.strides) for x in stable]
    new = [(x.number, x.slot, x.strides) for x in moving]
    outputs = [(x.number, x.slot, x.make) for x in fresh]

    def step(v: Values) -> None:
        b = v[block]
        pointers, seen = b.pointers, b.seen
        for number, slot, strides in known:
            x = v[slot]
            if x is not seen[number]:
                x = seen[number] = relaid(x, strides)
                pointers[number] = address(x)
        held = []
        for number, slot, strides in new:
            x = relaid(v[slot], strides)
            held.append(x)
            pointers[number] = address(x)
        for number, slot, make in outputs:
            x = v[slot] = make()  # type: ignore[misc]  # fresh operands have a maker
            pointers[number] = address(x)
        function(b.address)

    return step


def relaid(x: Any, strides: Strides) -> Any:
    """``x`` if it has these strides, else a copy that has."""
    if isinstance(x, np.generic):  # a NumPy scalar, as a full sum gives one, has no memory that stays where it is
        return np.asarray(x)
    if x.strides == strides or alike(x.shape, x.strides, strides):
        return x
    span = sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True)) + x.itemsize
    copy = np.ndarray(x.shape, x.dtype, np.empty(span, np.uint8), strides=strides)
    copy[...] = x
    return copy


def alike(shape: Sequence[int], a: Strides, b: Strides) -> bool:
    """Whether the strides mean the same places: those of axes of length 1 do not count."""
    return all(n == 1 or s == t for n, s, t in zip(shape, a, b, strict=True))


def empty(xp: Any, shape: Sequence[int], dtype: Any, order: Sequence[int]) -> Callable[[], Any]:
    """A function that makes arrays whose axes lie in ``order`` in memory, from the slowest to the fastest."""
    if list(order) == list(range(len(shape))):
        return lambda: xp.empty(shape, dtype)
    lying = [shape[axis] for axis in order]
    back = [list(order).index(axis) for axis in range(len(shape))]
    return lambda: xp.empty(lying, dtype).transpose(back)


def address(x: Any) -> int:
    """Where the array's first element is."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(x))  # a third of the time, where it is allowed
    except (TypeError, ValueError, BufferError):  # read-only, or with gaps
        return int(x.__array_interface__["data"][0])
