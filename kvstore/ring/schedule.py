"""What each worker does, in which order, so that all of them end with the same sum. Pure.

A collective over a flat array is cut into *blocks*; a block is a *program* on every worker: a list of `Step` that is
carried out in order. Programs of different blocks run side by side, which is what fills the links.

=============  ================================================  ======================  ==============================
algorithm      how                                               messages in sequence    bytes sent by a worker
=============  ================================================  ======================  ==============================
``ring``       reduce-scatter, then all-gather, round a ring     2 (n - 1)               2 (n - 1) / n of the array
``halving``    recursive halving, then doubling; n a power of 2  2 log2 n                the same
``doubling``   everybody exchanges all with n's powers of 2      log2 n                  log2 n times the array
=============  ================================================  ======================  ==============================

Ring: Patarasuk and Yuan, JPDC 2009. Halving and doubling: Thakur, Rabenseifner and Gropp, IJHPCA 2005.

The order of additions is part of the program, so the result does not depend on which message comes first; every part is
summed by one worker and copied by the others (or, with ``doubling``, summed by all in an order that differs only by
exchanging two summands), so that all workers end with the same bits.
"""

from dataclasses import dataclass, replace
from enum import Enum

from shoal.errors import ConfigError

__all__ = ["ALGORITHMS", "CHUNK_BYTES", "Block", "Do", "Step", "broadcast", "reduction"]

CHUNK_BYTES = 1 << 20
"""Largest message: big enough for full throughput, small enough to stay in cache and to be overtaken."""

LEAST_BYTES = 32 << 10
"""A block is not cut smaller than this to give every worker one."""

DOUBLING_BYTES = 16 << 10
"""Up to this size the number of messages in sequence is all that counts."""

HALVING_BYTES = 512 << 10
"""Up to this size, of at least 4 workers, halving is faster than the ring."""

ALGORITHMS = ("auto", "ring", "halving", "doubling")


class Do(Enum):
    """What a step does with elements ``start:stop`` of its block."""

    SEND = "send"  # the present sum, to the peer
    ADD = "add"  # wait for the peer's message, and add it
    COPY = "copy"  # wait for the peer's message; it is the result
    FINISH = "finish"  # the sum is complete here: make it the result


@dataclass(frozen=True, slots=True)
class Step:
    """One step; ``tag`` tells the messages apart that one worker sends another about one block."""

    do: Do
    start: int
    stop: int
    peer: int = -1
    tag: int = 0

    def moved(self, by: int) -> "Step":
        return replace(self, start=self.start + by, stop=self.stop + by)


Block = tuple[Step, ...]


def reduction(
    size: int, item_bytes: int, workers: int, rank: int, turn: int = 0, algorithm: str = "auto"
) -> list[Block]:
    """The programs by which worker ``rank`` takes part in the all-reduce of an array; its elements are counted flat.

    Args:
        size: elements of the array.
        turn: shifts who sums what, so that many small arrays are spread over the workers.
    Raises:
        ConfigError: ``halving`` and ``doubling`` need a number of workers that is a power of 2.
    """
    way = _choose(size * item_bytes, workers, algorithm)
    if workers == 1:
        return [(Step(Do.FINISH, 0, size),)]
    if way == "ring":
        cuts = _pieces(size, item_bytes, workers)
        return [_block(_ring(b - a, workers, rank, (i + turn) % workers), a) for i, (a, b) in enumerate(cuts)]
    program = _halving if way == "halving" else _doubling
    return [_block(program(b - a, workers, rank), a) for a, b in _cut(size, item_bytes, CHUNK_BYTES)]


def broadcast(size: int, item_bytes: int, workers: int, rank: int) -> list[Block]:
    """The programs by which every worker gets the array of worker 0: from worker to worker, block after block."""
    blocks = []
    for a, b in _cut(size, item_bytes, CHUNK_BYTES):
        steps = [Step(Do.COPY, a, b, rank - 1)] if rank else []
        if rank + 1 < workers:
            steps.append(Step(Do.SEND, a, b, rank + 1))
        blocks.append(tuple(steps))
    return blocks


def _choose(nbytes: int, workers: int, algorithm: str) -> str:
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"unknown all-reduce algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
    power = workers & (workers - 1) == 0
    if algorithm in ("halving", "doubling") and not power:
        raise ConfigError(f"all-reduce by {algorithm} needs 2, 4, 8, ... workers, not {workers}: use 'ring' or 'auto'")
    if algorithm != "auto":
        return algorithm
    if power and nbytes <= DOUBLING_BYTES:
        return "doubling"
    return "halving" if power and workers > 2 and nbytes <= HALVING_BYTES else "ring"


def _block(steps: list[Step], at: int) -> Block:
    return tuple(s.moved(at) for s in steps if s.stop > s.start)


def _cut(size: int, item_bytes: int, most_bytes: int, multiple: int = 1) -> list[tuple[int, int]]:
    """Near-equal ranges of at most ``most_bytes`` each; their number is a multiple of ``multiple``; none for size 0."""
    if size == 0:
        return []
    least = -(-size * item_bytes // most_bytes)
    n = -(-least // multiple) * multiple
    base, extra = divmod(size, n)
    stops = [(i + 1) * base + min(i + 1, extra) for i in range(n)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def _pieces(size: int, item_bytes: int, workers: int) -> list[tuple[int, int]]:
    """Ranges that are summed singly; each worker sums equally many of a large array."""
    if size * item_bytes >= workers * LEAST_BYTES:
        return _cut(size, item_bytes, CHUNK_BYTES, workers)
    return _cut(size, item_bytes, LEAST_BYTES)


def _ring(size: int, workers: int, rank: int, owner: int) -> list[Step]:
    """A piece starts right of its owner, gathers every worker's part on its way to the owner, and goes round again."""
    left, right = (rank - 1) % workers, (rank + 1) % workers
    place = (rank - owner - 1) % workers  # on the way; the owner's is the last
    last = workers - 1
    steps = [Step(Do.ADD, 0, size, left, 0)] if place else []
    if place < last:
        steps += [Step(Do.SEND, 0, size, right, 0), Step(Do.COPY, 0, size, left, 1)]
    else:
        steps.append(Step(Do.FINISH, 0, size))
    if place != last - 1:  # the worker left of the owner is the last to get the result
        steps.append(Step(Do.SEND, 0, size, right, 1))
    return steps


def _halving(size: int, workers: int, rank: int) -> list[Step]:
    """Half of what is left goes to a partner, half comes from it, until each holds one sum; then all the way back."""
    steps: list[Step] = []
    lo, hi, tag = 0, size, 0
    back: list[tuple[int, tuple[int, int], tuple[int, int]]] = []
    distance = workers // 2
    while distance:
        peer, middle = rank ^ distance, (lo + hi) // 2
        mine, theirs = ((lo, middle), (middle, hi)) if rank < peer else ((middle, hi), (lo, middle))
        steps += [Step(Do.SEND, *theirs, peer, tag), Step(Do.ADD, *mine, peer, tag)]
        back.append((peer, mine, theirs))
        (lo, hi), tag, distance = mine, tag + 1, distance // 2
    steps.append(Step(Do.FINISH, lo, hi))
    for peer, mine, theirs in reversed(back):
        steps += [Step(Do.SEND, *mine, peer, tag), Step(Do.COPY, *theirs, peer, tag)]
        tag += 1
    return steps


def _doubling(size: int, workers: int, rank: int) -> list[Step]:
    """All of it is exchanged with partners at distance 1, 2, 4, ..."""
    steps: list[Step] = []
    tag = 0
    while 1 << tag < workers:
        peer = rank ^ (1 << tag)
        steps += [Step(Do.SEND, 0, size, peer, tag), Step(Do.ADD, 0, size, peer, tag)]
        tag += 1
    return [*steps, Step(Do.FINISH, 0, size)]
