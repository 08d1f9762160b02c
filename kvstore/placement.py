"""Which server owns which part of a key: pure, the same on every node, balanced by bytes.

A value is cut into near-equal slices; small keys that are declared together may be fused into shared ones. How large
slices are depends on what is declared together (`Grain`), never on the number of servers, so that sharding cannot
change the arithmetic. Slices go, largest first, to the server with the fewest bytes
(longest-processing-time rule, Graham 1969): no server carries more than the average plus one slice.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import KeyLayout, KeySpec, Shift, Slice
from shoal.kvstore.wire.schema import ITEM_BYTES

__all__ = [
    "BUCKET_BYTES",
    "CUTS",
    "FUSE_BYTES",
    "SLICE_BYTES",
    "Grain",
    "Home",
    "Piece",
    "Placement",
    "cut",
    "drained",
    "plan",
    "rebalanced",
]

SLICE_BYTES = 1 << 20
"""Largest slice of a small model: big enough for full throughput, small enough to stay in cache and to be overtaken."""

PAGE_BYTES, PAGED_BYTES = 4096, 64 << 10
"""Slices are cut at multiples of the first number if they may have the second number of bytes or more."""

ROW_SLICES = 8
"""A key that is kept by rows has slices this many times as large: a push of few rows is a message to each of them."""

FUSE_BYTES = 64 << 10
"""Smaller keys are fused if their declaration asks for it: to gather one takes less time than a message of its own."""

BUCKET_BYTES = 512 << 10
"""Fused keys of a small model share slices of about this size: several a megabyte, so that they spread over servers and
overlap on the way; but each costs a message both ways."""

LARGE_MODEL = 16
"""Keys of so many slices and more that are declared together get coarser slices."""

CUTS = ("", "rows", "whole", "fuse", "fuse-small", "fuse-whole")
"""How a key may be sliced: by bytes, between rows, not at all; "fuse" fuses small keys and cuts larger ones by bytes,
"fuse-small" fuses those below `FUSE_BYTES` only, and "fuse-whole", too, but leaves the larger ones whole."""


class Grain(NamedTuple):
    """How large slices are.

    Every slice costs a message each way, on one host some 0.1 ms of the server's time and as much of the worker's. Of a
    large model there are enough of them to overlap, and to spread over servers, if they are large; of a small one, or
    of a large key that is declared by itself, there are not.

    Attributes:
        most: bytes of the largest slice of a key that is larger than `SLICE_BYTES`.
        bucket: bytes that fused keys share.
        fused: keys of fewer bytes are fused, if their slices need not be their own: codecs have a scale for each slice,
            and some see matrices in keys; the norm of a key that is fused is taken from a piece of one.
    """

    most: int
    bucket: int
    fused: int

    @classmethod
    def of(cls, total_bytes: int, slice_bytes: int = SLICE_BYTES) -> "Grain":
        """Of keys of so many bytes that are declared together.

        >>> Grain.of(100 << 20) == (4 << 20, 2 << 20, 1 << 20)
        True
        >>> Grain.of(4 << 20) == (2 << 20, 512 << 10, 64 << 10)
        True
        """
        if total_bytes >= LARGE_MODEL * slice_bytes:
            return cls(4 * slice_bytes, 2 * slice_bytes, slice_bytes)
        bucket = min(BUCKET_BYTES, slice_bytes)
        return cls(2 * slice_bytes, bucket, min(FUSE_BYTES, bucket))

    def fuses(self, cut: str, nbytes: int) -> bool:
        """Whether a key of so many bytes is fused, if it is declared to be cut like this."""
        return nbytes < (self.fused if cut == "fuse" else min(FUSE_BYTES, self.fused)) and cut.startswith("fuse")


def cut(size: int, item_bytes: int, slice_bytes: int = SLICE_BYTES) -> list[tuple[int, int]]:
    """Near-equal element ranges of a flattened value, each at most ``slice_bytes``; one empty range for size 0.

    Slices of 64 KiB and more begin at multiples of `PAGE_BYTES`, so that they can be mapped side by side.

    >>> cut(10, 4, 16)
    [(0, 4), (4, 7), (7, 10)]
    >>> cut(40_000, 4, 65536)
    [(0, 14336), (14336, 27648), (27648, 40000)]
    """
    paged = slice_bytes >= PAGED_BYTES and PAGE_BYTES % item_bytes == 0
    unit = PAGE_BYTES // item_bytes if paged else 1
    units = -(-size // unit)
    n = max(1, -(-units // (slice_bytes // (item_bytes * unit))))
    base, extra = divmod(units, n)
    stops = [min(size, ((i + 1) * base + min(i + 1, extra)) * unit) for i in range(n)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def _ranges(spec: KeySpec, slice_bytes: int, most_bytes: int) -> list[tuple[int, int]]:
    """The element ranges that a key of its own is cut into.

    Args:
        most_bytes: of a slice of a key that does not fit into one of ``slice_bytes``.
    """
    size, item = prod(spec.shape), ITEM_BYTES[spec.dtype]
    if spec.cut in ("whole", "fuse-whole"):
        return [(0, size)]
    if spec.cut == "rows" and size:
        width = prod(spec.shape[1:])
        rows = cut(spec.shape[0], width * item, max(ROW_SLICES * slice_bytes, width * item))
        return [(a * width, b * width) for a, b in rows]
    return cut(size, item, most_bytes if size * item >= slice_bytes else slice_bytes)


@dataclass(frozen=True, slots=True)
class Piece:
    """One slice to be: elements ``start:stop`` of one key, or several whole keys one behind the other.

    ``parts`` are (index of the key among those planned, start, stop, offset in the slice), in elements.
    """

    parts: tuple[tuple[int, int, int, int], ...]
    size: int
    nbytes: int


def plan(specs: Sequence[KeySpec], slice_bytes: int = SLICE_BYTES) -> list[Piece]:
    """Cut and fuse keys that are declared together; pieces are ordered by their first key.

    >>> k = [KeySpec(key=n, dtype="<f4", shape=(10,), cut="fuse") for n in "ab"]
    >>> plan(k)[0].parts
    ((0, 0, 10, 0), (1, 0, 10, 10))
    """
    pieces: list[Piece] = []
    open_: dict[str, list[int]] = {}  # by dtype, the keys of the bucket that is being filled
    grain = Grain.of(sum([_nbytes(s) for s in specs]), slice_bytes)

    def close(dtype: str) -> None:
        parts, at = [], 0
        for i in open_.pop(dtype, []):
            size = prod(specs[i].shape)
            parts.append((i, 0, size, at))
            at += size
        if parts:
            pieces.append(Piece(tuple(parts), at, at * ITEM_BYTES[dtype]))

    filled: dict[str, int] = {}
    for i, spec in enumerate(specs):
        nbytes = _nbytes(spec)
        if "f" in spec.dtype and grain.fuses(spec.cut, nbytes):
            if filled.get(spec.dtype, 0) + nbytes > grain.bucket:
                close(spec.dtype)
                filled[spec.dtype] = 0
            open_.setdefault(spec.dtype, []).append(i)
            filled[spec.dtype] = filled.get(spec.dtype, 0) + nbytes
        else:
            item = ITEM_BYTES[spec.dtype]
            pieces += [Piece(((i, a, b, 0),), b - a, (b - a) * item) for a, b in _ranges(spec, slice_bytes, grain.most)]
    for dtype in list(open_):
        close(dtype)
    return sorted(pieces, key=lambda p: p.parts[0][:2])


def _nbytes(spec: KeySpec) -> int:
    return prod(spec.shape) * ITEM_BYTES[spec.dtype]


@dataclass(frozen=True, slots=True)
class Home:
    """Where a slice is, how large it is, and which keys lie in it."""

    server: int
    nbytes: int
    keys: tuple[str, ...]


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
        self.homes: dict[int, Home] = {}  # by slice
        self.closed: set[int] = set()  # servers that are given no slices any more
        self._next = 0

    @property
    def open(self) -> tuple[int, ...]:
        """Servers that may be given slices."""
        return tuple(s for s in range(len(self.load_bytes)) if s not in self.closed)

    def grow(self) -> int:
        """One more server, which has nothing yet; its rank."""
        self.load_bytes.append(0)
        return len(self.load_bytes) - 1

    def move(self, slice_id: int, server: int) -> None:
        """A slice has another home from now on."""
        home = self.homes[slice_id]
        self.load_bytes[home.server] -= home.nbytes
        self.load_bytes[server] += home.nbytes
        self.homes[slice_id] = replace(home, server=server)
        for key in home.keys:
            layout = self.layouts[key]
            slices = tuple(replace(s, server=server) if s.id == slice_id else s for s in layout.slices)
            self.layouts[key] = replace(layout, slices=slices)

    def add(self, specs: Sequence[KeySpec]) -> list[KeyLayout]:
        """Place new keys; their layouts, in the order of ``specs``."""
        pieces = plan(specs, self.slice_bytes)
        owner = self._assign(pieces)
        slices: list[list[Slice]] = [[] for _ in specs]
        for n, piece in enumerate(pieces):
            for i, start, stop, offset in piece.parts:
                slices[i].append(
                    Slice(id=self._next + n, server=owner[n], start=start, stop=stop, offset=offset, size=piece.size)
                )
            keys = tuple(specs[i].key for i, *_ in piece.parts)
            self.homes[self._next + n] = Home(owner[n], piece.nbytes, keys)
        self._next += len(pieces)
        layouts = [
            KeyLayout(key=s.key, dtype=s.dtype, shape=s.shape, slices=tuple(mine), cut=s.cut)
            for s, mine in zip(specs, slices, strict=True)
        ]
        self.layouts.update((layout.key, layout) for layout in layouts)
        return layouts

    def _assign(self, pieces: Sequence[Piece]) -> dict[int, int]:
        owner = {}
        for n in sorted(range(len(pieces)), key=lambda n: (-pieces[n].nbytes, n)):
            server = _lightest(self.load_bytes, self.open)
            self.load_bytes[server] += pieces[n].nbytes
            owner[n] = server
        return owner


def _lightest(load_bytes: Sequence[int], servers: Collection[int]) -> int:
    return min(servers, key=lambda s: (load_bytes[s], s))


def rebalanced(placement: Placement, pinned: Collection[int] = ()) -> list[Shift]:
    """The moves that even out what the open servers carry; no slice moves twice.

    A slice goes from the server that carries most to the one that carries least as long as that makes them more alike;
    the largest one that does not turn the two round goes first. So nothing is moved to a server that has its share, and
    the fullest is left with at most its largest slice more than the emptiest. A server that took a slice too large for
    it may hand on others of its own.

    Args:
        pinned: slices that stay where they are.
    """
    load, servers = list(placement.load_bytes), placement.open
    mine: dict[int, list[tuple[int, int]]] = {s: [] for s in servers}
    for slice_id, home in placement.homes.items():
        if home.server in mine and home.nbytes and slice_id not in pinned:
            mine[home.server].append((home.nbytes, slice_id))
    moves: list[Shift] = []
    while True:
        target = _lightest(load, servers)
        for source in sorted(servers, key=lambda s: (-load[s], s)):
            found = _fitting(mine[source], load[source] - load[target])
            if found is not None:
                break
        else:
            return moves
        mine[source].remove(found)  # nor is it given to the target's: it has moved once
        load[source] -= found[0]
        load[target] += found[0]
        moves.append(Shift(slice=found[1], source=source, target=target))


def _fitting(slices: Sequence[tuple[int, int]], gap: int) -> tuple[int, int] | None:
    """Of these (bytes, slice) the largest that closes the gap between two servers, or the smallest that narrows it."""
    closing = [(-nbytes, i) for nbytes, i in slices if 2 * nbytes <= gap]
    if closing:
        nbytes, slice_id = min(closing)
        return -nbytes, slice_id
    return min((s for s in slices if s[0] < gap), default=None)


def drained(placement: Placement, rank: int) -> list[Shift]:
    """The moves that leave server ``rank`` with nothing, largest slice first, each to whoever carries least by then.

    Raises:
        ConfigError: there is no other server that may be given slices.
    """
    load, others = list(placement.load_bytes), [s for s in placement.open if s != rank]
    if not others:
        raise ConfigError(f"server {rank} is the only one left: there is none that could take its slices")
    moves = []
    mine = [(-home.nbytes, i) for i, home in placement.homes.items() if home.server == rank]
    for nbytes, slice_id in sorted(mine):
        target = _lightest(load, others)
        load[target] -= nbytes
        moves.append(Shift(slice=slice_id, source=rank, target=target))
    return moves
