"""Reading values where they lie: read-only arrays over the servers' memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.kvstore.arrays import Array
from shoal.kvstore.client.shell import Group
from shoal.kvstore.wire.sharing import Sharing
from shoal.kvstore.wire.shm import Mapped
from shoal.kvstore.wire.window import Window, fits

__all__ = ["InPlace", "Reading", "ReadingGroup"]


class InPlace:
    """How one store joins the slices of its keys. On the I/O thread.

    Slices that lie in shared memory are mapped side by side, once: as long as they stay where they are, a key's array
    is the same at every read.
    """

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._made: dict[str, tuple[tuple[int, ...], list[Mapped], Array]] = {}

    def join(self, key: str, parts: Sequence[Array]) -> Array:
        """One flat array of these flat ones; a copy only if they cannot be mapped side by side."""
        if len(parts) == 1:
            return parts[0]
        addresses = tuple(p.__array_interface__["data"][0] for p in parts)
        made = self._made.get(key)
        if made is None or made[0] != addresses:
            made = self._map(addresses, parts)
            if made is None:
                return np.concatenate(parts)
            self._made[key] = made
        return made[2]

    def _map(
        self, addresses: tuple[int, ...], parts: Sequence[Array]
    ) -> tuple[tuple[int, ...], list[Mapped], Array] | None:
        pieces = []
        for address, part in zip(addresses, parts, strict=True):
            found = self._sharing.locate(address, part.nbytes)
            if found is None:
                return None
            pieces.append((*found, part.nbytes))
        if not fits(pieces):
            return None
        try:
            array = np.asarray(Window(pieces)).view(parts[0].dtype)
        except OSError:  # too many mappings
            return None
        return addresses, [m for m, _, _ in pieces], array  # a region that is kept leaves its addresses to nobody else


class Reading:
    """One key that is being read: what a read without a copy has instead of memory to write to."""

    __slots__ = ("_join", "_key", "_parts", "_shape")

    def __init__(self, join: InPlace, key: str, shape: tuple[int, ...]) -> None:
        self._join, self._key, self._shape = join, key, shape
        self._parts: dict[int, Array] = {}

    def __getitem__(self, part: slice) -> "_Part":
        return _Part(self, part.start)

    def __setitem__(self, part: slice, value: Array) -> None:
        self._parts[part.start or 0] = value

    def array(self) -> Array:
        """The key's value, read-only."""
        flat = self._join.join(self._key, [self._parts[at] for at in sorted(self._parts)])
        array = flat.reshape(self._shape).view()
        array.flags.writeable = False
        return array


class _Part:
    """Where one slice of a key goes."""

    __slots__ = ("_reading", "_start")

    def __init__(self, reading: Reading, start: int) -> None:
        self._reading, self._start = reading, start

    def write(self, flat: Array) -> None:
        self._reading[self._start :] = flat


class ReadingGroup(Group):
    """A call whose result is made of the `Reading` objects in ``readings``: a list, or of one key only its array."""

    __slots__ = ("_one", "_readings")

    def __init__(self, jobs: int, readings: list[Reading], one: bool) -> None:
        self._readings, self._one = readings, one
        super().__init__(jobs)

    def outcome(self) -> Any:
        arrays = [r.array() for r in self._readings]
        return arrays[0] if self._one else arrays
