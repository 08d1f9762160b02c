"""Small keys that share a slice: one message, one update, for all of them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import prod
from operator import setitem
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array, address, dtype_named
from shoal.kvstore.wire.messages import KeyLayout, Segment
from shoal.ops.native.pieces import gatherer, scatterer

__all__ = ["Bundle", "Gather", "Scatter", "Target", "batches", "bundles"]

_ALL = slice(None)

MANY = 32
"""Arrays that are copied by one compiled call, from the second time on that it is the same ones."""


class Target(Protocol):
    """A flat array, or what takes parts as if it were one."""

    def __setitem__(self, part: slice, value: Array, /) -> None: ...


@dataclass(frozen=True)
class Bundle:
    """A slice of ``size`` elements that the keys ``names`` lie in, one behind the other.

    Args:
        id: of the slice.
        server: which owns it.
        key: what messages about it say.
        stops: where each key ends; it begins where the one before it ends.
    """

    id: int
    server: int
    key: str
    dtype: np.dtype[Any]
    size: int
    names: tuple[str, ...]
    stops: tuple[int, ...]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The keys' places, as they travel."""
        starts = (0, *self.stops[:-1])
        return tuple(Segment(key=k, start=a, stop=b) for k, a, b in zip(self.names, starts, self.stops, strict=True))

    def order(self, pushed: Sequence[tuple[str, int]], names: Mapping[str, str]) -> list[int]:
        """Indices of this bundle's keys among those of a push, in the order in which they lie here.

        Args:
            pushed: the bundle's keys that are pushed, each with its index.
            names: what the user calls each key.
        Raises:
            ConfigError: one is missing, or is there twice.
        """
        given = dict(pushed)
        if len(given) != len(pushed):
            raise ConfigError("a key that was initialised with fuse=True is in this push twice; push it once a call")
        try:
            return [given[k] for k in self.names]
        except KeyError as e:
            here = ", ".join(repr(names.get(k, k)) for k in self.names[:4])
            raise ConfigError(
                f"key {names.get(e.args[0], e.args[0])!r} is not in this push, but was fused with others that are "
                f"({here}{', ...' if len(self.names) > 4 else ''}): keys that were initialised with fuse=True are "
                "pushed together, in one call. Push them all, or initialise them without fuse."
            ) from None

    def cut(self, flat: Array) -> list[Array]:
        """A slice's memory as that of its keys, each flat."""
        return np.split(flat, self.stops[:-1])

    def gather(self, arrays: list[Array]) -> "Gather":
        """What makes this slice of the values (flat, C-contiguous) of all its keys, in order."""
        return Gather(arrays, self.size, self.dtype)

    def scatter(self, wanted: Sequence[tuple[int, Target]]) -> "Scatter":
        """Where the values of some keys go: pairs of (place of the key here, flat memory)."""
        stops = (0, *self.stops)
        return Scatter([(view, stops[i], stops[i + 1]) for i, view in wanted])


def batches(keys: Iterable[str], bundle_of: Callable[[str], Bundle | None]) -> list[tuple[str, ...]]:
    """Keys by what they are pushed with: those of one bundle, each of the others by itself."""
    found: dict[Any, list[str]] = {}
    for key in keys:
        bundle = bundle_of(key)
        found.setdefault(key if bundle is None else bundle.id, []).append(key)
    return [tuple(b) for b in found.values()]


class Gather:
    """Makes a fused slice of the memory of its keys, as often as it is asked.

    Args:
        parts: flat arrays, in the order in which they lie in the slice.
        size: of all of them.
    Attributes:
        whole: their memory itself, if they lie there as in the slice: see `KVStore.alloc_like`.
    """

    __slots__ = ("_compiled", "_dtype", "_size", "_uses", "parts", "whole")

    def __init__(self, parts: list[Array], size: int, dtype: "np.dtype[Any]") -> None:
        self.parts, self._size, self._dtype = parts, size, dtype
        self._uses = 0
        self._compiled: Callable[[Array], None] | None = None
        self.whole = side_by_side(parts, size)

    @property
    def nbytes(self) -> int:
        return self._size * self._dtype.itemsize

    def read(self, room: Callable[[tuple[int, ...], Any], Array] = np.empty) -> Array:
        """The slice that the values make now: a new array, for which there is ``room``."""
        out = room((self._size,), self._dtype)
        if self._compiled is not None:
            self._compiled(out)
            return out
        np.concatenate(self.parts, out=out)
        self._uses += 1
        if self._uses == 2 and len(self.parts) >= MANY and sum(p.size for p in self.parts) == self._size:
            self._compiled = gatherer(self.parts)
        return out


def side_by_side(parts: Sequence[Array], size: int) -> Array | None:
    """Flat arrays that together are one array of ``size`` elements, as that array; None if they are not."""
    first = parts[0]
    owner = first.base
    if owner is None or any(p.base is not owner for p in parts):  # what keeps one of them alive, keeps the whole
        return None
    at, itemsize = address(first), first.itemsize
    stop = at
    for p in parts:
        if address(p) != stop or p.dtype != first.dtype:
            return None
        stop += p.nbytes
    return as_strided(first, (size,), (itemsize,)) if stop - at == size * itemsize else None


class Scatter:
    """Takes a fused slice apart into the memory of its keys.

    Args:
        parts: where each goes, and the range of the slice that it is.
    """

    __slots__ = ("_compiled", "_cuts", "_parts", "_places", "_stop", "_uses")

    def __init__(self, parts: list[tuple[Target, int, int]]) -> None:
        self._parts = parts
        self._places: list[Any] = []  # bytes of the targets, if they are plain memory: copied in one go
        self._cuts: list[slice] = []
        self._uses = 0
        self._compiled: Callable[[Array], None] | None = None
        self._stop = 0  # bytes of the slice that a compiled copy reads
        if all(isinstance(view, np.ndarray) and view.dtype.kind in "fiub" for view, _, _ in parts):
            for view, start, stop in parts:
                if isinstance(view, np.ndarray) and view.size:
                    self._places.append(view.data.cast("B"))
                    self._cuts.append(slice(start * view.itemsize, stop * view.itemsize))

    def write(self, flat: Array) -> None:
        """Copy each key's part of ``flat`` to where it goes."""
        if self._compiled is not None and flat.nbytes >= self._stop and flat.flags.c_contiguous:
            self._compiled(flat)
            return
        if self._places:
            memory = flat.data.cast("B")
            deque(map(setitem, self._places, repeat(_ALL), [memory[c] for c in self._cuts]), 0)
            self._uses += 1
            if self._uses == 2 and len(self._places) >= MANY:
                self._compile()
            return
        for view, start, stop in self._parts:
            view[:] = flat[start:stop]

    def _compile(self) -> None:
        """The same targets came again: they are worth a list of their addresses."""
        found = [(v, a) for v, a, b in self._parts if isinstance(v, np.ndarray) and v.size == b - a and v.size]
        if len(found) == len(self._places) and len({v.itemsize for v, _ in found}) == 1:
            self._stop = max(c.stop for c in self._cuts)
            self._compiled = scatterer([v for v, _ in found], [a for _, a in found])


def bundles(layouts: Sequence[KeyLayout]) -> list[Bundle]:
    """The shared slices among these keys' slices.

    Raises:
        ConfigError: a slice is shared with keys that are not among these.
    """
    found: dict[int, list[KeyLayout]] = {}
    shared: dict[int, None] = {}
    for layout in layouts:
        for s in layout.slices:
            members = found.setdefault(s.id, [])
            members.append(layout)
            if len(members) > 1 or s.size != s.stop - s.start:  # other keys may be empty
                shared[s.id] = None
    return [_bundle(i, found[i]) for i in shared]


def _bundle(slice_id: int, members: list[KeyLayout]) -> Bundle:
    members = sorted(members, key=lambda m: (m.slices[0].offset, m.slices[0].stop))
    first, sizes = members[0], [prod(m.shape) for m in members]
    total, stops = first.slices[0].size, [int(n) for n in np.cumsum(sizes)]
    if stops[-1] != total:
        raise ConfigError(
            f"key {first.key!r} was fused with keys that this call of init does not name: another worker named more. "
            "Every worker calls init(..., fuse=True) with the same list of keys."
        )
    label = f"{first.key} and {len(members) - 1} more"
    names = tuple(m.key for m in members)
    return Bundle(slice_id, first.slices[0].server, label, dtype_named(first.dtype), total, names, tuple(stops))
