"""Slices as snapshots see them: arrays that take what is in a cut, beside the values that go on.

A branch is only a mark until its slice takes something that the branch must not, or may not, take. Then the slice is
copied, with the state of its update, so that each can go its way.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from shoal.errors import StoreError
from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.events import BeginBranch, Contribution, CutBranch, DropBranch, SealBranch, SendBranch
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.rules import CellView
from shoal.kvstore.server.table import Cell, Table, Update
from shoal.kvstore.wire.messages import Stated, Value
from shoal.kvstore.wire.schema import Payload

__all__ = ["BranchAction", "Branches"]

BranchAction: TypeAlias = BeginBranch | CutBranch | SealBranch | DropBranch


class _Round(NamedTuple):
    """Contributions that were applied together."""

    parts: Sequence[Contribution]
    arrays: list[Array | RowSparse]
    reduce: str
    version: int
    update: Update | None


class _Branch:
    """One slice at the cut of one snapshot."""

    __slots__ = ("_cell", "_cut", "_kept", "_table", "states", "updates", "value")

    def __init__(self, table: Table) -> None:
        self._table = table
        self._cut: CutBranch | None = None
        self._cell: Cell | None = None  # the slice's copy, once there is one
        self._kept: list[_Round] = []  # what the slice has taken since, until the cut is known
        self.value: Array | None = None  # once it is sealed ...
        self.updates, self.states = 0, dict[str, Array]()  # ... and, if they are wanted, what the optimizer keeps

    def before(
        self, cell: Cell, parts: Sequence[Contribution], arrays: list[Array | RowSparse], reduce: str, version: int
    ) -> None:
        """The slice is about to take these contributions, and to become ``version``."""
        if self.value is not None:
            return
        if self._cell is None and self._cut is not None and len(self._inside(self._cut, parts, version)) == len(parts):
            return  # as long as all it takes is in the cut, the slice is the branch
        own = self._own(cell)
        one = _Round(parts, arrays, reduce, version, cell.update)
        if self._cut is None:
            self._kept.append(one._replace(arrays=[a.copy() for a in arrays]))
        else:
            self._take(own, self._cut, one)

    def cut(self, cut: CutBranch) -> None:
        """Take what is in the cut of that which was kept."""
        self._cut, kept, self._kept = cut, self._kept, []
        if all(len(self._inside(cut, one.parts, one.version)) == len(one.parts) for one in kept):
            self._cell = None
        elif self._cell is not None:
            for one in kept:
                self._take(self._cell, cut, one)

    def seal(self, cell: Cell, parts: Sequence[Contribution], reduce: str, states: bool) -> None:
        """Everything is here; ``parts`` of it still wait to be applied to the slice."""
        if parts:
            own = self._own(cell)
            _adopt(own, cell.update)
            self._table.advance(own, parts, [cell.parts[p.rank, p.clock] for p in parts], reduce)
        if states:
            at = cell if self._cell is None else self._cell
            self.updates, self.states = at.updates, {n: a.copy() for n, a in (at.state or {}).items()}
        self.value = self._copied(cell.value) if self._cell is None else self._cell.value
        self._cell = None

    def _own(self, cell: Cell) -> Cell:
        if self._cell is None:
            view = None
            value = self._copied(cell.value)
            if cell.view is not None:
                view = CellView(value, {name: array.copy() for name, array in cell.view.state.items()})
            state = copy.deepcopy(cell.state)
            self._cell = dataclasses.replace(
                cell, value=value, state=state, view=view, parts={}, followers={}, guard=None
            )
        return self._cell

    def _copied(self, value: Array) -> Array:
        """A copy, where readers on this host can see it if that is possible."""
        room = self._table.allocate(value.shape, value.dtype)
        copied = np.empty_like(value) if room is None else room
        np.copyto(copied, value)
        return copied

    def _take(self, own: Cell, cut: CutBranch, one: _Round) -> None:
        inside = self._inside(cut, one.parts, one.version)
        if inside:
            _adopt(own, one.update)
            parts, arrays = [one.parts[i] for i in inside], [one.arrays[i] for i in inside]
            self._table.advance(own, parts, arrays, one.reduce)

    @staticmethod
    def _inside(cut: CutBranch, parts: Sequence[Contribution], version: int) -> list[int]:
        """Which of these contributions are in the cut."""
        if cut.version >= 0:
            return list(range(len(parts))) if version <= cut.version else []
        return [i for i, p in enumerate(parts) if p.clock < cut.counts.get(p.rank, 0)]


def _adopt(cell: Cell, update: Update | None) -> None:
    """Update ``cell`` this way from now on; what both ways keep of it stays."""
    before, cell.update = cell.update, update
    if update is before or update is None:
        return
    state = update.optimizer.init(cell.value)
    if before is None or before.optimizer.name != update.optimizer.name:
        cell.state, cell.updates = state, 0
    elif cell.state.keys() != state.keys():
        cell.state = {name: cell.state.get(name, array) for name, array in state.items()}
    if before is None or before.rule != update.rule:
        cell.view = None


class Branches:
    """The branches of a table's slices: at most one for each slice and reader."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._made: dict[tuple[int, int], _Branch] = {}

    def do(self, action: BranchAction) -> None:
        """Carry out what a server core says."""
        key = action.slice, action.reader
        cell = self._table.cells[action.slice]
        match action:
            case BeginBranch():
                self._made[key] = cell.followers[action.reader] = _Branch(self._table)
            case CutBranch():
                self._made[key].cut(action)
            case SealBranch(_, _, parts, reduce, states):
                self._made[key].seal(cell, parts, reduce, states)
                del cell.followers[action.reader]
            case DropBranch():
                self._made.pop(key, None)
                cell.followers.pop(action.reader, None)

    def value(self, slice_id: int, reader: int) -> Payload:
        """The value of a branch that is sealed; it is never written again."""
        value = self._made[slice_id, reader].value
        if value is None:
            raise StoreError(f"the branch of slice {slice_id} for worker {reader} is not sealed")
        return as_payload(value)

    def answer(self, a: SendBranch) -> tuple[Value | Stated, int]:
        """What a reader gets of a branch that is sealed, and the bytes of it."""
        value = self.value(a.slice, a.reader)
        if not a.states:
            return Value(seq=a.seq, version=a.version, floor=a.floor, value=value), value.data.nbytes
        branch = self._made[a.slice, a.reader]
        slots, states = tuple(branch.states), tuple(map(as_payload, branch.states.values()))
        made = Stated(seq=a.seq, version=a.version, updates=branch.updates, slots=slots, value=value, states=states)
        return made, sum(p.data.nbytes for p in (value, *states))
