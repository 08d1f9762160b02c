"""Reading values where they lie: read-only arrays over the servers' memory."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from shoal.kvstore.arrays import Array, address
from shoal.kvstore.bundle import Bundle
from shoal.kvstore.client.exchange import Entry, Exchange, Fused
from shoal.kvstore.client.shell import Group
from shoal.kvstore.wire.sharing import Sharing
from shoal.kvstore.wire.shm import Mapped
from shoal.kvstore.wire.window import Window, fits

__all__ = ["InPlace", "Reading", "ReadingGroup"]


class InPlace:
    """How one store reads keys in place. On the I/O thread.

    Slices that lie in shared memory are mapped side by side, once: as long as they stay where they are, a key's array
    is the same at every read. Slices that come in messages are copied together, into memory that the key keeps.
    """

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._windows: dict[str, tuple[tuple[int, ...], list[Mapped], Array]] = {}
        self._copies: dict[str, Array] = {}
        self._parts: dict[int, tuple[int, Array, list[Any]]] = {}  # by bundle: its address, it, its keys' arrays

    def is_shared(self, part: Array) -> bool:
        """Whether this lies in memory of a server."""
        return self._sharing.locate(address(part), part.nbytes) is not None

    def copy(self, key: str, size: int, dtype: "np.dtype[Any]") -> Array:
        """A flat array of ``size`` elements that is the key's own."""
        if key not in self._copies:
            self._copies[key] = np.empty(size, dtype)
        return self._copies[key]

    def parts(self, bundle: Bundle, flat: Array) -> list[Any]:
        """Arrays of a bundle's keys, None where they are not made yet; the last one is the whole, read-only.

        As long as the bundle stays where it is, they are the same at every read.
        """
        made = self._parts.get(bundle.id)
        at = address(flat) if self.is_shared(flat) else 0
        if made is None or made[0] != at:
            home = flat if at else np.empty_like(flat)
            whole = home.view()
            whole.flags.writeable = False
            made = self._parts[bundle.id] = at, home, [*[None] * len(bundle.names), whole]
        if not at:
            np.copyto(made[1], flat)
        return made[2]

    def window(self, key: str, parts: Sequence[Array]) -> Array | None:
        """These arrays, all of them in memory of servers, as one; None if they cannot be mapped side by side."""
        addresses = tuple(map(address, parts))
        made = self._windows.get(key)
        if made is None or made[0] != addresses:
            made = self._map(addresses, parts)
            if made is None:
                return None
            self._windows[key] = made
        return made[2]

    def _map(
        self, addresses: tuple[int, ...], parts: Sequence[Array]
    ) -> tuple[tuple[int, ...], list[Mapped], Array] | None:
        pieces = []
        for at, part in zip(addresses, parts, strict=True):
            found = self._sharing.locate(at, part.nbytes)
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
    """One key that is being read: what a read without a copy has instead of memory to write to.

    Args:
        slices: how many the key has. Its array is made when the last has come, while others are still on their way.
    """

    __slots__ = ("_array", "_how", "_key", "_own", "_parts", "_shape", "_size", "_slices")

    def __init__(self, how: InPlace, key: str, shape: tuple[int, ...], slices: int) -> None:
        self._how, self._key, self._shape, self._size, self._slices = how, key, shape, prod(shape), slices
        self._parts: dict[int, Array] = {}
        self._array: Array | None = None
        self._own = False  # some parts are copies

    def __getitem__(self, part: slice) -> "_Part":
        return _Part(self, part)

    def take(self, part: slice, flat: Array) -> None:
        """A slice of the key has come."""
        if flat.size < self._size and not self._how.is_shared(flat):
            mine = self._how.copy(self._key, self._size, flat.dtype)[part]
            np.copyto(mine, flat)
            flat, self._own = mine, True
        self._parts[part.start or 0] = flat
        if len(self._parts) == self._slices:
            self._array = self._made()

    def array(self) -> Array:
        """The key's value, read-only."""
        return self._made() if self._array is None else self._array

    def _made(self) -> Array:
        array = self._joined().reshape(self._shape).view()
        array.flags.writeable = False
        return array

    def _joined(self) -> Array:
        if len(self._parts) == 1:
            return next(iter(self._parts.values()))
        parts = [self._parts[at] for at in sorted(self._parts)]
        window = None if self._own else self._how.window(self._key, parts)
        if window is not None:
            return window
        whole, at = self._how.copy(self._key, self._size, parts[0].dtype), 0
        for part in parts:
            mine = whole[at : at + part.size]
            if address(mine) != address(part):
                np.copyto(mine, part)
            at += part.size
        return whole


class _Part:
    """Where one slice of a key goes."""

    __slots__ = ("_part", "_reading")

    def __init__(self, reading: Reading, part: slice) -> None:
        self._reading, self._part = reading, part

    def write(self, flat: Array) -> None:
        self._reading.take(self._part, flat)


class FusedReading:
    """Keys of one bundle that are being read."""

    __slots__ = ("_flat", "_how", "_keys")

    def __init__(self, how: InPlace, keys: Fused) -> None:
        self._how, self._keys = how, keys
        self._flat: Array | None = None

    def write(self, flat: Array) -> None:
        """The bundle's value has come."""
        self._flat = flat

    def arrays(self, entries: Sequence[Entry], into: list[Any]) -> None:
        """Put each key's value, read-only, where it belongs in ``into``."""
        if self._flat is None:
            return
        bundle, members = self._keys.bundle, self._keys.members
        parts = self._how.parts(bundle, self._flat)
        stops = None
        for place, i in members:
            array = parts[place]
            if array is None:
                stops = stops or (0, *bundle.stops)
                array = parts[place] = parts[-1][stops[place] : stops[place + 1]].reshape(entries[i].shape)
            into[i] = array


class ReadingGroup(Group):
    """A call that reads in place: its result is a list of arrays, or of one key only its array.

    Args:
        how: the store's.
        wanted: what is read; `call` is the same with the places where the values go.
        one: the result is no list.
    """

    __slots__ = ("_fused", "_one", "_readings", "call")

    def __init__(self, how: InPlace, wanted: Exchange, one: bool) -> None:
        entries = [a.entry for a in wanted.alone]
        self._readings = [Reading(how, e.layout.key, e.shape, len(e.layout.slices)) for e in entries]
        self._fused = [FusedReading(how, f) for f in wanted.fused]
        self._one = one
        self.call = wanted.into(self._readings, self._fused)
        super().__init__(wanted.slices)

    def outcome(self) -> Any:
        arrays: list[Any] = [None] * len(self.call.entries)
        for alone, reading in zip(self.call.alone, self._readings, strict=True):
            arrays[alone.at] = reading.array()
        for fused in self._fused:
            fused.arrays(self.call.entries, arrays)
        return arrays[0] if self._one else arrays
