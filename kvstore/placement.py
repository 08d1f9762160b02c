"""Which server owns which part of a key: pure, the same on every node, balanced by bytes.

A value is cut into near-equal slices of at most `SLICE_BYTES`; the cut depends on the value alone, never on the number
of servers, so that sharding cannot change the arithmetic. Slices go, largest first, to the server with the fewest bytes
(longest-processing-time rule, Graham 1969): no server carries more than the average plus one slice.
"""

from collections.abc import Sequence
from math import prod

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import KeyLayout, KeySpec, Slice
from shoal.kvstore.wire.schema import ITEM_BYTES

__all__ = ["SLICE_BYTES", "Placement", "cut"]

SLICE_BYTES = 1 << 20
"""Largest slice: big enough for full throughput, small enough to stay in cache and to be overtaken."""


def cut(size: int, item_bytes: int, slice_bytes: int = SLICE_BYTES) -> list[tuple[int, int]]:
    """Near-equal element ranges of a flattened value, each at most ``slice_bytes``; one empty range for size 0.

    >>> cut(10, 4, 16)
    [(0, 4), (4, 7), (7, 10)]
    """
    n = max(1, -(-size * item_bytes // (slice_bytes // item_bytes * item_bytes)))
    base, extra = divmod(size, n)
    stops = [(i + 1) * base + min(i + 1, extra) for i in range(n)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


class Placement:
    """Slices of all declared keys over ``servers`` servers; slice ids count up from 0.

    >>> p = Placement(2)
    >>> [s.server for spec in (KeySpec(key="a", dtype="<f4", shape=(300,)), KeySpec(key="b", dtype="<f4", shape=(300,)))
    ...  for s in p.add([spec])[0].slices]
    [0, 1]
    """

    def __init__(self, servers: int, slice_bytes: int = SLICE_BYTES) -> None:
        if servers < 1:
            raise ConfigError(f"a store needs at least 1 server, got {servers}")
        self.slice_bytes = slice_bytes
        self.load_bytes = [0] * servers
        self.layouts: dict[str, KeyLayout] = {}
        self._next = 0

    def add(self, specs: Sequence[KeySpec]) -> list[KeyLayout]:
        """Place new keys; their layouts, in the order of ``specs``."""
        ranges = {s.key: cut(prod(s.shape), ITEM_BYTES[s.dtype], self.slice_bytes) for s in specs}
        owner = self._assign(
            [(s.key, i, (b - a) * ITEM_BYTES[s.dtype]) for s in specs for i, (a, b) in enumerate(ranges[s.key])]
        )
        return [self._layout(s, ranges[s.key], owner) for s in specs]

    def _assign(self, pieces: list[tuple[str, int, int]]) -> dict[tuple[str, int], int]:
        owner = {}
        for key, i, nbytes in sorted(pieces, key=lambda p: (-p[2], p[0], p[1])):
            server = min(range(len(self.load_bytes)), key=lambda s: (self.load_bytes[s], s))
            self.load_bytes[server] += nbytes
            owner[key, i] = server
        return owner

    def _layout(self, spec: KeySpec, ranges: list[tuple[int, int]], owner: dict[tuple[str, int], int]) -> KeyLayout:
        slices = tuple(
            Slice(id=self._next + i, server=owner[spec.key, i], start=a, stop=b) for i, (a, b) in enumerate(ranges)
        )
        self._next += len(slices)
        self.layouts[spec.key] = KeyLayout(key=spec.key, dtype=spec.dtype, shape=spec.shape, slices=slices)
        return self.layouts[spec.key]
