"""The arrays of one server: carries out Create, Accumulate and Apply.

Contributions are kept as they came, without a copy where the core allows it, and reduced in the order the core says:
that makes synchronous training bit-identical whatever order they came in. Half precision is reduced in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.errors import KeyNotInitializedError
from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.events import Contribution
from shoal.kvstore.rules import CellView, Part, Rule
from shoal.kvstore.wire.messages import Segment
from shoal.kvstore.wire.schema import Payload
from shoal.ops.optim import Optimizer

__all__ = ["Cell", "Table", "Update", "reduce_in_order"]


def reduce_in_order(parts: Sequence[Array], reduce: str, out: Array) -> Array:
    """Sum or mean of ``parts``, added in the order given, into ``out`` (which may be ``parts[0]``'s dtype or wider)."""
    if len(parts) == 1:
        np.copyto(out, parts[0])
        return out
    np.add(parts[0], parts[1], out=out, dtype=out.dtype)
    for part in parts[2:]:
        np.add(out, part, out=out)
    if reduce == "mean":
        np.divide(out, len(parts), out=out)
    return out


@dataclass(slots=True)
class Cell:
    """One slice: its key, its store, its value, the state of its update, and how many updates it has had.

    A slice that several keys share has ``segments``, and is a flat array.
    """

    key: str
    store: int
    value: Array
    segments: tuple[Segment, ...] = ()
    state: Any = None
    updates: int = 0
    parts: dict[tuple[int, int], Array] = field(default_factory=dict)
    view: CellView | None = None  # what the rule sees and keeps

    def seen(self) -> CellView:
        """This slice for a rule; what the rule keeps lies there."""
        if self.view is None:
            self.view = CellView(self.value)
        return self.view


@dataclass(frozen=True, slots=True)
class Update:
    """How the values of one store are updated; the multipliers are by key, where they are not 1."""

    optimizer: Optimizer
    lr_mult: dict[str, float]
    wd_mult: dict[str, float]
    rule: Rule | None = None

    def step(self, cell: Cell, gradient: Array) -> None:
        """Update ``cell`` in place."""
        if not cell.segments:
            lr, wd = self.lr_mult.get(cell.key, 1.0), self.wd_mult.get(cell.key, 1.0)
            self.optimizer.step(cell.value, gradient, cell.state, cell.updates, lr_mult=lr, wd_mult=wd)
            return
        for start, stop, lr, wd in self.runs(cell.segments):
            state = {name: array[start:stop] for name, array in cell.state.items()}
            value = cell.value[start:stop]
            self.optimizer.step(value, gradient[start:stop], state, cell.updates, lr_mult=lr, wd_mult=wd)

    def runs(self, segments: tuple[Segment, ...]) -> list[tuple[int, int, float, float]]:
        """Neighbouring keys with equal multipliers as one: start, stop, lr_mult, wd_mult."""
        whole = getattr(self.optimizer, "whole", False)  # norms are taken key by key
        if not whole and not self.lr_mult and not self.wd_mult:
            return [(segments[0].start, segments[-1].stop, 1.0, 1.0)]
        found: list[tuple[int, int, float, float]] = []
        for s in segments:
            lr, wd = self.lr_mult.get(s.key, 1.0), self.wd_mult.get(s.key, 1.0)
            if found and not whole and found[-1][2:] == (lr, wd):
                found[-1] = (found[-1][0], s.stop, lr, wd)
            else:
                found.append((s.start, s.stop, lr, wd))
        return found


class Table:
    """Values by slice id, updates by store. Without an update a round's reduction replaces the value, as in MXNet."""

    def __init__(self) -> None:
        self.cells: dict[int, Cell] = {}
        self.rules: dict[int, Update] = {}
        self._scratch: dict[tuple[str, int, int], Array] = {}

    def create(self, slice_id: int, key: str, value: Array, store: int = 1, segments: tuple[Segment, ...] = ()) -> None:
        """Give a slice its first value; it is copied."""
        cell = Cell(key, store, np.array(value, order="C"), segments)
        if store in self.rules:
            cell.state = self.rules[store].optimizer.init(cell.value)
        self.cells[slice_id] = cell

    def configure(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float],
        wd_mult: dict[str, float],
        store: int = 1,
        rule: Rule | None = None,
    ) -> None:
        """Install the update of a store.

        Values stay. An optimizer of the same name and with the same kinds of state keeps the states and update counts,
        so that a new learning rate does not wipe the momentum; any other one starts anew. A rule keeps what it has kept
        if it is the same.

        Raises:
            DTypeError: a value is not a float; nothing is changed.
        """
        mine = [c for c in self.cells.values() if c.store == store]
        fresh = [(c, optimizer.init(c.value)) for c in mine]
        before = self.rules.get(store)
        same = before is not None and before.optimizer.spec().name == optimizer.spec().name
        for cell, state in fresh:
            if not same or cell.state is None or cell.state.keys() != state.keys():
                cell.state, cell.updates = state, 0
        if before is None or before.rule != rule:
            for cell in mine:
                cell.view = None
        self.rules[store] = Update(optimizer, lr_mult, wd_mult, rule)

    def accumulate(self, slice_id: int, rank: int, value: Array, clock: int = 0, brief: bool = True) -> None:
        """Keep a contribution until `apply`; copied unless that is ``brief``."""
        self._cell(slice_id).parts[rank, clock] = value if brief else value.copy()

    def apply(self, slice_id: int, parts: Sequence[Contribution], reduce: str) -> None:
        """Correct and reduce these contributions, and update the value in place."""
        cell = self._cell(slice_id)
        arrays = [cell.parts.pop((p.rank, p.clock)) for p in parts]
        update = self.rules.get(cell.store)
        if update is not None and update.rule is not None:
            arrays = [
                self._corrected(i, update.rule, cell, p, a) for i, (p, a) in enumerate(zip(parts, arrays, strict=True))
            ]
        plain = len(arrays) == 1 and update is not None
        total = arrays[0] if plain else reduce_in_order(arrays, reduce, self._buffer(cell.value))
        cell.updates += 1
        if update is None:
            np.copyto(cell.value, total, casting="same_kind")
        else:
            update.step(cell, total)

    def _corrected(self, index: int, rule: Rule, cell: Cell, part: Contribution, value: Array) -> Array:
        out = self._buffer(cell.value, 1 + index)
        rule.correct(cell.seen(), Part(part.rank, part.staleness, value), out)
        return out

    def was_read(self, slice_id: int, rank: int) -> None:
        """Worker ``rank`` is being sent the slice's value."""
        cell = self._cell(slice_id)
        update = self.rules.get(cell.store)
        if update is not None and update.rule is not None:
            update.rule.was_read(cell.seen(), rank)

    def payload(self, slice_id: int) -> Payload:
        """The slice's value, uncopied."""
        return as_payload(self._cell(slice_id).value)

    def _cell(self, slice_id: int) -> Cell:
        if slice_id not in self.cells:
            raise KeyNotInitializedError(f"slice {slice_id} has no value yet: call init for its key first")
        return self.cells[slice_id]

    def _buffer(self, like: Array, number: int = 0) -> Array:
        dtype = np.dtype(np.float32) if like.dtype == np.float16 else like.dtype
        key = (dtype.str, like.size, number)
        if key not in self._scratch:
            self._scratch[key] = np.empty(like.size, dtype)
        return self._scratch[key].reshape(like.shape)
