"""Arrays in memory that peers may map: blocks of regions, given back when nobody holds them any more.

An `Arena` grows by further regions up to a bound, and then says no: its users go on without it. Blocks of a page or
more begin at a page, so that a peer can map them wherever it likes; smaller ones at a cache line.
"""

import logging
import mmap
import threading
from bisect import bisect_left
from collections import deque
from math import prod
from typing import TYPE_CHECKING, Any

from shoal.kvstore.wire.interrupts import Held
from shoal.kvstore.wire.shm import HEADER_BYTES, Region, available_bytes, supported

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ALIGN_BYTES", "Arena", "Block", "Space"]

log = logging.getLogger("shoal.wire")

ALIGN_BYTES = 64
"""A cache line; also what the widest vector instructions like."""

FIRST_BYTES, DOUBLED_BYTES, LARGEST_BYTES = 16 << 20, 64 << 20, 256 << 20
"""Size of the first region; each further one is twice as large, up to the second number, then a quarter of what there
is, up to the third, or as large as it must be: little is taken that is not used, and regions stay few."""


class Space:
    """Which parts of ``start:stop`` are free: first fit, neighbours joined.

    >>> s = Space(64, 4096)
    >>> s.take(100, 64), s.take(100, 64)
    (64, 192)
    >>> s.give(64, 100), s.take(128, 64)
    (None, 64)
    """

    __slots__ = ("_starts", "_stops")

    def __init__(self, start: int, stop: int) -> None:
        self._starts, self._stops = [start], [stop]

    def take(self, size: int, align: int) -> int | None:
        """Begin of ``size`` bytes that are taken from now on; None if no gap is large enough."""
        size = _round_up(size, ALIGN_BYTES)
        for i, (a, b) in enumerate(zip(self._starts, self._stops, strict=True)):
            begin = _round_up(a, align)
            if begin + size <= b:
                left = [(x, y) for x, y in ((a, begin), (begin + size, b)) if x < y]
                self._starts[i : i + 1], self._stops[i : i + 1] = [x for x, _ in left], [y for _, y in left]
                return begin
        return None

    def give(self, begin: int, size: int) -> None:
        """Take back what `take` gave."""
        a, b = begin, begin + _round_up(size, ALIGN_BYTES)
        i = j = bisect_left(self._starts, a)
        if i and self._stops[i - 1] == a:
            i, a = i - 1, self._starts[i - 1]
        if j < len(self._starts) and self._starts[j] == b:
            b, j = self._stops[j], j + 1
        self._starts[i:j], self._stops[i:j] = [a], [b]

    def free_bytes(self) -> int:
        return sum(self._stops) - sum(self._starts)


class Block:
    """Memory lent by an arena; it is given back when the last array over it is gone."""

    __slots__ = ("__weakref__", "_arena", "address", "nbytes", "offset", "region")

    def __init__(self, arena: "Arena", region: Region, offset: int, nbytes: int) -> None:
        self._arena, self.region, self.offset, self.nbytes = arena, region, offset, nbytes
        self.address = region.address + offset

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Through this NumPy makes arrays whose base, and whose views' base, is this object."""
        return {"version": 3, "shape": (self.nbytes,), "typestr": "|u1", "data": (self.address, False)}

    def __del__(self) -> None:
        self._arena.returned.append((self.region.number, self.offset, self.nbytes))


class Arena:
    """Regions of this process and who uses which part of them. Any thread may use it.

    Args:
        limit_bytes: all regions together are never larger.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.regions: list[Region] = []
        self.returned: deque[tuple[int, int, int]] = deque()  # appended to by destructors, at any moment: no lock there
        self.refusal = supported()
        self._spaces: list[Space] = []
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """What all regions take, used or not."""
        return sum(r.size for r in self.regions)

    def array(self, shape: tuple[int, ...], dtype: Any) -> "NDArray[Any] | None":
        """An array with undefined content; None if there is no room for it."""
        import numpy as np  # the scheduler, which shares nothing, does without

        dtype = np.dtype(dtype)
        block = self.allocate(prod(shape) * dtype.itemsize)
        return None if block is None else np.asarray(block).view(dtype).reshape(shape)

    def allocate(self, nbytes: int) -> Block | None:
        """Room for ``nbytes``; None if the arena may not, or cannot, grow so far."""
        align = mmap.PAGESIZE if nbytes >= mmap.PAGESIZE else ALIGN_BYTES
        with self._lock:
            if self.refusal or nbytes <= 0:
                return None
            self._take_back()
            for region, space in zip(self.regions, self._spaces, strict=True):
                offset = space.take(nbytes, align)
                if offset is not None:
                    return Block(self, region, offset, nbytes)
            if not self._grow(nbytes):
                return None
            offset = self._spaces[-1].take(nbytes, align)
            return None if offset is None else Block(self, self.regions[-1], offset, nbytes)

    def find(self, address: int, nbytes: int) -> tuple[Region, int] | None:
        """The region in which these bytes lie, and where; None if they do not."""
        for region in self.regions:
            offset = address - region.address
            if offset >= 0 and offset + nbytes <= region.size:
                return region, offset
        return None

    def free_bytes(self) -> int:
        """What nobody uses of the regions that there are."""
        with self._lock:
            self._take_back()
            return sum(s.free_bytes() for s in self._spaces)

    def close(self) -> None:
        """Lend nothing any more; a region goes with the last array in it."""
        with self._lock:
            self.refusal = self.refusal or "it is closed"
            self.regions, self._spaces = [], []

    def _take_back(self) -> None:
        while self.returned:
            number, offset, nbytes = self.returned.popleft()
            if self._spaces:
                self._spaces[number].give(offset, nbytes)

    def _grow(self, nbytes: int) -> bool:
        need = _round_up(nbytes, mmap.PAGESIZE) + mmap.PAGESIZE  # the header, and what alignment leaves over
        usual = min(LARGEST_BYTES, max(self.size_bytes // 4, min(DOUBLED_BYTES, FIRST_BYTES << len(self.regions))))
        size = max(need, min(usual, self.limit_bytes - self.size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE)
        if size > self.limit_bytes - self.size_bytes:
            return False
        room = available_bytes() // 2  # a container that exceeds its limit is killed, not refused
        if size > room:
            self._stop(f"{size} bytes are more than half of the memory that is left ({room * 2})")
            return False
        with Held(lambda: None):  # Ctrl-C between the two lists, or with a descriptor that nobody owns yet, would leak
            try:
                region = Region(len(self.regions), size)
            except OSError as e:
                self._stop(f"{size} bytes: {e}")
                return False
            self._spaces.append(Space(HEADER_BYTES, size))
            self.regions.append(region)
        return True

    def _stop(self, reason: str) -> None:
        """Growing has failed: do not try for every array again."""
        self.limit_bytes = self.size_bytes
        log.info("no more shared memory than %d MB: %s", self.size_bytes >> 20, reason)


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to
