"""Small keys that share a slice: one message, one update, for all of them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import prod
from operator import setitem
from typing import Any, Protocol

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array, dtype_named
from shoal.kvstore.wire.messages import KeyLayout, Segment

__all__ = ["Bundle", "Scatter", "Target", "bundles"]

_ALL = slice(None)


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

    def gather(self, arrays: Iterable[Array], room: Callable[[tuple[int, ...], Any], Array] = np.empty) -> Array:
        """The slice that these values (flat) of all keys, in order, make: a new array, for which there is ``room``."""
        out = room((self.size,), self.dtype)
        np.concatenate(arrays if isinstance(arrays, list) else list(arrays), out=out)
        return out

    def scatter(self, wanted: Sequence[tuple[int, Target]]) -> "Scatter":
        """Where the values of some keys go: pairs of (place of the key here, flat memory)."""
        stops = (0, *self.stops)
        return Scatter([(view, stops[i], stops[i + 1]) for i, view in wanted])


class Scatter:
    """Takes a fused slice apart into the memory of its keys.

    Args:
        parts: where each goes, and the range of the slice that it is.
    """

    __slots__ = ("_cuts", "_parts", "_places")

    def __init__(self, parts: list[tuple[Target, int, int]]) -> None:
        self._parts = parts
        self._places: list[Any] = []  # bytes of the targets, if they are plain memory: copied in one go
        self._cuts: list[slice] = []
        if all(isinstance(view, np.ndarray) and view.dtype.kind in "fiub" for view, _, _ in parts):
            for view, start, stop in parts:
                if isinstance(view, np.ndarray) and view.size:
                    self._places.append(view.data.cast("B"))
                    self._cuts.append(slice(start * view.itemsize, stop * view.itemsize))

    def write(self, flat: Array) -> None:
        """Copy each key's part of ``flat`` to where it goes."""
        if self._places:
            memory = flat.data.cast("B")
            deque(map(setitem, self._places, repeat(_ALL), [memory[c] for c in self._cuts]), 0)
            return
        for view, start, stop in self._parts:
            view[:] = flat[start:stop]


def bundles(layouts: Sequence[KeyLayout]) -> list[Bundle]:
    """The shared slices among these keys' slices.

    Raises:
        ConfigError: a slice is shared with keys that are not among these.
    """
    found: dict[int, list[KeyLayout]] = {}
    for layout in layouts:
        for s in layout.slices:
            if s.size != s.stop - s.start:
                found.setdefault(s.id, []).append(layout)
    return [_bundle(i, members) for i, members in found.items()]


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
