"""The arrays of one server: carries out Create, Accumulate and Apply.

Contributions are kept as they came, without a copy where the core allows it, and reduced in the order the core says:
that makes synchronous training bit-identical whatever order they came in. Half precision is reduced in float32.
If all contributions of a round are row-sparse, its update touches their rows only (``lazy_update``).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np

from shoal.errors import ConfigError, KeyNotInitializedError
from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.control import altered_optimizer
from shoal.kvstore.events import Contribution
from shoal.kvstore.rows import RowSparse, reduce_rows, wider
from shoal.kvstore.rules import CellView, Part, Rule
from shoal.kvstore.wire.messages import Segment
from shoal.kvstore.wire.schema import Payload
from shoal.ops.optim import Optimizer

__all__ = ["Cell", "Follower", "Table", "Update", "reduce_in_order"]


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


class Follower(Protocol):
    """What is told of each update of a slice."""

    def before(
        self, cell: "Cell", parts: Sequence[Contribution], arrays: list[Array | RowSparse], reduce: str, version: int
    ) -> None:
        """``cell`` is about to take these contributions, and to become ``version``."""
        ...


Guard: TypeAlias = Callable[[Mapping[tuple[int, int], Array | RowSparse]], None]
"""Given contributions, by rank and clock, that are about to be applied and wait no more."""

Allocate: TypeAlias = Callable[[tuple[int, ...], Any], Array | None]


@dataclass(slots=True)
class Cell:
    """One slice: its key, its store, its value, the state of its update, and how many updates it has had.

    A slice that several keys share has ``segments``, and is a flat array. One that is kept by rows has the ``width`` of
    a row.
    """

    key: str
    store: int
    value: Array
    segments: tuple[Segment, ...] = ()
    width: int = 0
    state: Any = None
    updates: int = 0
    update: "Update | None" = None  # how its value is updated; None: a round's reduction replaces it
    parts: dict[tuple[int, int], Array | RowSparse] = field(default_factory=dict)
    view: CellView | None = None  # what the rule sees and keeps
    followers: dict[int, Follower] = field(default_factory=dict)
    guard: "Guard | None" = None  # called once before the slice changes
    shown: tuple[Array, Payload] | None = None  # the value, and what is sent of it
    way: "_Way | None" = None  # how it was updated last

    def seen(self) -> CellView:
        """This slice for a rule; what the rule keeps lies there."""
        if self.view is None:
            self.view = CellView(self.value)
        return self.view


@dataclass(frozen=True, slots=True)
class Update:
    """How values of one store are updated; the multipliers are by key, where they are not 1."""

    optimizer: Optimizer
    lr_mult: dict[str, float]
    wd_mult: dict[str, float]
    rule: Rule | None = None
    own: bool = False  # it is for some keys, which keep it when the others' is changed

    def step(self, cell: Cell, gradient: Array) -> None:
        """Update ``cell`` in place."""
        way = cell.way
        if way is None or not way.fits(self, cell):
            way = cell.way = _Way(self, cell)
        lr, wd = self.lr_mult.get(way.key, 1.0), self.wd_mult.get(way.key, 1.0)
        prepared = way.prepared
        if prepared is not None and self.optimizer.step_prepared(prepared, gradient, cell.updates, lr, wd):
            return  # most often
        if not cell.segments:
            self._step(cell, cell.key, cell.value, gradient, cell.state)
            return
        for start, stop, key in way.runs:
            state = {name: array[start:stop] for name, array in cell.state.items()}
            self._step(cell, key, cell.value[start:stop], gradient[start:stop], state)

    def step_rows(self, cell: Cell, gradient: RowSparse) -> None:
        """Update the rows of ``cell`` that ``gradient`` has; neither value nor state of any other row moves."""
        homes = {"": cell.value, **cell.state}
        views = {name: array.reshape(gradient.shape) for name, array in homes.items()}
        rows = {name: view[gradient.ids] for name, view in views.items()}
        self._step(cell, cell.key, rows[""], gradient.rows, {name: rows[name] for name in cell.state})
        for name, view in views.items():
            view[gradient.ids] = rows[name]

    def _step(self, cell: Cell, key: str, value: Array, gradient: Array, state: Any) -> None:
        lr, wd = self.lr_mult.get(key, 1.0), self.wd_mult.get(key, 1.0)
        self.optimizer.step(value, gradient, state, cell.updates, lr_mult=lr, wd_mult=wd, name=key)

    @property
    def lazy(self) -> bool:
        """Whether row-sparse gradients update their own rows only."""
        return self.optimizer.lazy_update and not self.optimizer.whole

    def runs(self, segments: tuple[Segment, ...]) -> list[tuple[int, int, str]]:
        """Neighbouring keys that may be updated as one: start, stop, and the name of the first."""
        whole = self.optimizer.whole
        if not whole and not self.lr_mult and not self.wd_mult:
            return [(segments[0].start, segments[-1].stop, segments[0].key)]
        found: list[tuple[int, int, str]] = []
        for s in segments:
            if found and not whole and self._alike(found[-1][2], s.key):  # norms are taken key by key
                found[-1] = (found[-1][0], s.stop, found[-1][2])
            else:
                found.append((s.start, s.stop, s.key))
        return found

    def _alike(self, one: str, other: str) -> bool:
        return all(m.get(one, 1.0) == m.get(other, 1.0) for m in (self.lr_mult, self.wd_mult))


class _Way:
    """What updates of one cell have in common: found out once, and again when the cell or its update has changed.

    Attributes:
        runs: see `Update.runs`; of a cell with segments.
        prepared: for the optimizer, if a single call updates all of the cell.
        key: by which that call's multipliers are found.
    """

    __slots__ = ("_segments", "_update", "_whole", "key", "prepared", "runs")

    def __init__(self, update: Update, cell: Cell) -> None:
        self._update, self._segments, self._whole = update, cell.segments, update.optimizer.whole
        self.runs = update.runs(cell.segments) if cell.segments else []
        self.key = self.runs[0][2] if self.runs else cell.key
        self.prepared = update.optimizer.prepared(cell.value, cell.state) if len(self.runs) <= 1 else None

    def fits(self, update: Update, cell: Cell) -> bool:
        """Whether nothing has changed."""
        same = self._update is update and self._segments is cell.segments and self._whole == update.optimizer.whole
        return same and (self.prepared is None or self.prepared.holds(cell.value, cell.state))


class Table:
    """Values by slice id, updates by store. Without an update a round's reduction replaces the value, as in MXNet.

    Args:
        allocate: memory for a value of this shape and dtype that workers can read in place, or None.
    """

    def __init__(self, allocate: Allocate = lambda shape, dtype: None) -> None:
        self.allocate = allocate
        self.cells: dict[int, Cell] = {}
        self.defaults: dict[int, Update] = {}  # by store, for its keys that are created later
        self._altered: dict[int, list[tuple[Update, Update]]] = {}  # by number of the change, what it made of what
        self._scratch: dict[tuple[str, int, int], Array] = {}

    def create(
        self,
        slice_id: int,
        key: str,
        value: Array,
        store: int = 1,
        segments: tuple[Segment, ...] = (),
        width: int = 0,
    ) -> None:
        """Give a slice its first value; it is copied."""
        own = self.allocate(value.shape, value.dtype)
        own = np.empty(value.shape, value.dtype) if own is None else own
        np.copyto(own, value)
        cell = Cell(key, store, own, segments, width, update=self.defaults.get(store))
        if cell.update is not None:
            cell.state = cell.update.optimizer.init(cell.value)
        self.cells[slice_id] = cell

    def configure(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float],
        wd_mult: dict[str, float],
        store: int = 1,
        rule: Rule | None = None,
        keys: Collection[str] = (),
    ) -> None:
        """Install the update of a store, or only of some of its ``keys``.

        Values stay. An optimizer of the same name keeps the update counts and the states that both have, so that a new
        learning rate does not wipe the momentum; any other one starts anew. A rule keeps what it has kept if it is the
        same.

        Raises:
            DTypeError: a value is not a float; nothing is changed.
        """
        mine = [c for c in self.cells.values() if c.store == store and (not keys or c.key in keys)]
        fresh = [(c, optimizer.init(c.value)) for c in mine]
        update = Update(optimizer, lr_mult, wd_mult, rule, bool(keys))
        for cell, state in fresh:
            self.touch(cell)
            before = cell.update
            if before is None or before.optimizer.name != optimizer.name:
                cell.state, cell.updates = state, 0
            elif cell.state.keys() != state.keys():
                cell.state = {name: cell.state.get(name, array) for name, array in state.items()}
            if before is None or before.rule != rule:
                cell.view = None
            cell.update = update
        if not keys:
            self.defaults[store] = update

    def reinstate(self, slice_id: int, updates: int, states: Mapping[str, Array]) -> None:
        """Let the optimizer of a slice go on from these states, which are copied, and from so many updates.

        Raises:
            ConfigError: they are not what its optimizer keeps; nothing is changed.
        """
        cell = self._cell(slice_id)
        name = "no optimizer" if cell.update is None else cell.update.optimizer.name
        kept = {n: (a.shape, a.dtype) for n, a in (cell.state or {}).items()}
        given = {n: (a.shape, a.dtype) for n, a in states.items()}
        if cell.update is None or kept != given or updates < 0:
            raise ConfigError(
                f"key {cell.key!r} is updated by {name}, which keeps {_told(kept)}; got {_told(given)}. States are "
                "loaded into the optimizer that they were saved of, for the same model"
            )
        self.touch(cell)
        cell.updates, cell.state = updates, {n: states[n].copy() for n in kept}

    def alter(self, slice_id: int, number: int, settings: Mapping[str, Any]) -> None:
        """Update a slice with other hyper-parameters from now on; its count of updates and its states stay.

        Slices of keys that have an optimizer of their own keep it.

        Args:
            number: of the change; slices that take the same change share its optimizer.
        Raises:
            ConfigError: the slice's optimizer has no such hyper-parameter, or there is none; nothing is changed.
        """
        cell = self._cell(slice_id)
        before = cell.update
        if before is None:
            raise ConfigError(f"key {cell.key!r} has no optimizer")
        if before.own:
            return
        made = self._altered.setdefault(number, [])
        after = next((new for old, new in made if old is before), None)
        if after is None:
            after = replace(before, optimizer=altered_optimizer(before.optimizer, settings))
            made.append((before, after))
        self.touch(cell)
        state = after.optimizer.init(cell.value)
        if cell.state.keys() != state.keys():
            cell.state = {name: cell.state.get(name, array) for name, array in state.items()}
        cell.update = after

    @staticmethod
    def touch(cell: Cell) -> None:
        """A slice is about to be changed."""
        if cell.guard is not None:
            cell.guard({})

    def accumulate(
        self, slice_id: int, rank: int, value: Array | RowSparse, clock: int = 0, brief: bool = True
    ) -> None:
        """Keep a contribution until `apply`; copied unless that is ``brief``."""
        cell = self._cell(slice_id)
        if cell.guard is not None:
            cell.guard({})
        cell.parts[rank, clock] = value if brief else value.copy()

    def row_sparse(self, slice_id: int, ids: Array, rows: Array) -> RowSparse:
        """A row-sparse contribution to a slice that is kept by rows."""
        cell = self._cell(slice_id)
        return RowSparse(ids, rows, (cell.value.size // cell.width, cell.width))

    def apply(
        self, slice_id: int, parts: Sequence[Contribution], reduce: str, version: int = 0
    ) -> list[tuple[Contribution, Exception]]:
        """Correct and reduce these contributions, and update the value in place, to ``version``.

        Returns:
            Contributions that the rule failed on, each with its error: the update was made without them.
        """
        cell = self._cell(slice_id)
        arrays = [cell.parts.pop((p.rank, p.clock)) for p in parts]
        if cell.guard is not None:
            cell.guard({(p.rank, p.clock): a for p, a in zip(parts, arrays, strict=True)})
        for follower in cell.followers.values():
            follower.before(cell, parts, arrays, reduce, version)
        return self.advance(cell, parts, arrays, reduce)

    def advance(
        self, cell: Cell, parts: Sequence[Contribution], arrays: list[Array | RowSparse], reduce: str
    ) -> list[tuple[Contribution, Exception]]:
        """`apply` to a cell that need not be one of the table's."""
        update = cell.update
        failed: list[tuple[Contribution, Exception]] = []
        if update is not None and update.rule is not None:
            arrays, failed = self._correct(update.rule, cell, parts, arrays)
            if not arrays:
                return failed
        cell.updates += 1
        if len(arrays) == 1 and isinstance(arrays[0], np.ndarray) and update is not None:
            update.step(cell, arrays[0])  # most often
            return failed
        sparse = [a for a in arrays if isinstance(a, RowSparse)]
        if len(sparse) == len(arrays) and (update is None or update.lazy):
            self._update_rows(cell, update, reduce_rows(sparse, reduce))
        else:
            self._update(cell, update, [_dense(a, cell) for a in arrays], reduce)
        return failed

    def _correct(
        self, rule: Rule, cell: Cell, parts: Sequence[Contribution], arrays: list[Array | RowSparse]
    ) -> tuple[list[Array | RowSparse], list[tuple[Contribution, Exception]]]:
        """The corrected contributions, and those that the rule failed on. The value has not been touched."""
        found: list[Array | RowSparse] = []
        failed: list[tuple[Contribution, Exception]] = []
        for i, (part, array) in enumerate(zip(parts, arrays, strict=True)):
            try:
                found.append(self._corrected(i, rule, cell, part, array))
            except Exception as e:
                failed.append((part, e))
        return found, failed

    def _update(self, cell: Cell, update: Update | None, arrays: list[Array], reduce: str) -> None:
        direct = update is None and wider(cell.value.dtype) == cell.value.dtype
        if len(arrays) == 1:
            total = arrays[0]
        else:
            total = reduce_in_order(arrays, reduce, cell.value if direct else self._buffer(cell.value))
        if update is not None:
            update.step(cell, total)
        elif total is not cell.value:
            np.copyto(cell.value, total, casting="same_kind")

    @staticmethod
    def _update_rows(cell: Cell, update: Update | None, total: RowSparse) -> None:
        if update is None:
            cell.value.reshape(total.shape)[total.ids] = total.rows
        elif total.ids.size:
            update.step_rows(cell, total)

    def _corrected(
        self, index: int, rule: Rule, cell: Cell, part: Contribution, value: Array | RowSparse
    ) -> Array | RowSparse:
        out = self._buffer(cell.value, 1 + index)
        rule.correct(cell.seen(), Part(part.rank, part.staleness, _dense(value, cell)), out)
        if isinstance(value, RowSparse):  # rules see whole slices; the rows that came stay the ones that are updated
            return RowSparse(value.ids, out.reshape(value.shape)[value.ids], value.shape)
        return out

    def was_read(self, slice_id: int, rank: int) -> None:
        """Worker ``rank`` is being sent the slice's value."""
        cell = self._cell(slice_id)
        update = cell.update
        if update is not None and update.rule is not None:
            self.touch(cell)
            update.rule.was_read(cell.seen(), rank)

    def payload(self, slice_id: int, rows: Array | None = None) -> Payload:
        """The slice's value, uncopied; or a copy of some of its rows."""
        cell = self._cell(slice_id)
        if rows is not None:
            return as_payload(cell.value.reshape(-1, cell.width)[rows])
        if cell.shown is None or cell.shown[0] is not cell.value:
            cell.shown = cell.value, as_payload(cell.value)
        return cell.shown[1]

    def _cell(self, slice_id: int) -> Cell:
        if slice_id not in self.cells:
            raise KeyNotInitializedError(f"slice {slice_id} has no value yet: call init for its key first")
        return self.cells[slice_id]

    def _buffer(self, like: Array, number: int = 0) -> Array:
        dtype = wider(like.dtype)
        key = (dtype.str, like.size, number)
        if key not in self._scratch:
            self._scratch[key] = np.empty(like.size, dtype)
        return self._scratch[key].reshape(like.shape)


def _dense(value: Array | RowSparse, cell: Cell) -> Array:
    return value.dense().reshape(cell.value.shape) if isinstance(value, RowSparse) else value


def _told(kept: Mapping[str, tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{n} {dtype}{list(shape)}" for n, (shape, dtype) in kept.items()) or "nothing"
