"""Which values share memory: liveness, and one arena in which values that are never alive together overlap.

Pure arithmetic on positions and sizes. The executor says which values it can have written to a given place; all other
values are allocated by their operator at each run.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from shoal.ops.graph.ir import Call, Graph, Ref
from shoal.ops.registry import Spec

__all__ = ["ALIGN_BYTES", "SCRATCH", "Plan", "lifetimes", "nbytes", "owners", "plan"]

ALIGN_BYTES = 64
"""Values start at multiples of a cache line."""

SCRATCH = -1
"""In place of the number of an output: the memory that a call needs while it runs."""

NO_SCRATCH: Mapping[int, int] = {}

CallTest = Callable[[Call], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where values lie.

    Attributes:
        offsets: byte offset in the arena of each planned value.
        size_bytes: size of the arena.
        unshared_bytes: what the planned values would take without sharing.
        inplace: how many values were written over one of their operands.
    """

    offsets: dict[Ref, int]
    size_bytes: int
    unshared_bytes: int
    inplace: int


def nbytes(spec: Spec) -> int:
    """Bytes of a value, rounded up to the alignment."""
    return -(-math.prod(spec.shape) * spec.dtype.itemsize // ALIGN_BYTES) * ALIGN_BYTES


def owners(graph: Graph, views: CallTest) -> dict[Ref, frozenset[Ref]]:
    """For each value, the values whose memory it may lie in: itself, or what it may be a view of.

    Args:
        views: whether the outputs of a call may be views of its inputs.
    """
    found: dict[Ref, frozenset[Ref]] = {}
    for position, call in enumerate(graph.calls):
        inherited: frozenset[Ref] = frozenset()
        if call.op and views(call):
            inherited = inherited.union(*(found[ref] for ref in call.refs))
        for n in range(len(call.specs)):
            found[position, n] = inherited | {(position, n)}
    return found


def lifetimes(graph: Graph, owned: dict[Ref, frozenset[Ref]], pinned: Iterable[Ref] = ()) -> dict[Ref, int]:
    """The position of the last call that needs each value's memory; the number of calls if it must survive the run."""
    last = {ref: ref[0] for ref in owned}
    for position, call in enumerate(graph.calls):
        for ref in call.refs:
            for owner in owned[ref]:
                last[owner] = max(last[owner], position)
    for ref in (*graph.outputs, *pinned):
        for owner in owned[ref]:
            last[owner] = len(graph.calls)
    return last


def plan(
    graph: Graph,
    planned: Collection[Ref],
    views: CallTest,
    inplace: Callable[[int, int, Ref], bool],
    pinned: Iterable[Ref] = (),
    scratch: Mapping[int, int] = NO_SCRATCH,
) -> Plan:
    """Places in one arena for the values ``planned``.

    Args:
        planned: values that their call can write where it is told to.
        views: whether the outputs of a call may be views of its inputs.
        inplace: whether the call at a position may write that output over this input, of the same shape and dtype.
        pinned: values that are read after the run, besides the outputs.
        scratch: bytes that a call needs while it runs, by its position; their place is that of its output -1.
    """
    owned = owners(graph, views)
    last = lifetimes(graph, owned, pinned)
    arena, offsets, total, reused = _Arena(), {}, 0, 0
    dying: dict[int, list[Ref]] = {}
    for position, call in enumerate(graph.calls):
        for n, spec in enumerate(call.specs):
            ref = (position, n)
            if ref not in planned:
                continue
            dead = [r for r in call.refs if r in dying.get(position, ()) and r in offsets]
            heir = next((r for r in dead if inplace(position, n, r) and _fits(graph, call, n, r, owned)), None)
            if heir is None:
                offsets[ref] = arena.take(nbytes(spec))
            else:
                offsets[ref] = offsets[heir]
                dying[position].remove(heir)
                reused += 1
            total += nbytes(spec)
            dying.setdefault(last[ref], []).append(ref)
        if position in scratch:
            size = -(-scratch[position] // ALIGN_BYTES) * ALIGN_BYTES
            offsets[position, SCRATCH] = arena.take(size)
            arena.free(offsets[position, SCRATCH], size)
        for ref in dying.pop(position, ()):
            arena.free(offsets[ref], nbytes(graph.spec(ref)))
    return Plan(offsets, arena.size, total, reused)


def _fits(graph: Graph, call: Call, n: int, heir: Ref, owned: dict[Ref, frozenset[Ref]]) -> bool:
    """Whether output ``n`` may be written over ``heir``: of the same size, and seen through no other operand."""
    same = graph.spec(heir) == call.specs[n]
    return same and all(heir not in owned[ref] for ref in call.refs if ref != heir)


@dataclass(slots=True)
class _Arena:
    """A best-fit allocator of byte ranges; free ranges are sorted, disjoint and not adjacent."""

    size: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)

    def take(self, size: int) -> int:
        fits = [(length, start) for start, length in self.holes if length >= size]
        if fits:
            length, start = min(fits)
            self.holes.remove((start, length))
            if length > size:
                self.free(start + size, length - size)
            return start
        if self.holes and sum(self.holes[-1]) == self.size:  # grow the hole at the end
            start = self.holes.pop()[0]
        else:
            start = self.size
        self.size = start + size
        return start

    def free(self, start: int, length: int) -> None:
        if not length:
            return
        merged: list[tuple[int, int]] = []
        for begin, size in sorted([*self.holes, (start, length)]):
            if merged and sum(merged[-1]) == begin:
                merged[-1] = (merged[-1][0], merged[-1][1] + size)
            else:
                merged.append((begin, size))
        self.holes = merged
