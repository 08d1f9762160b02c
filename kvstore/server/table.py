"""The arrays of one server: carries out Create, Accumulate and Apply.

Contributions are kept as they came, without a copy, and reduced in rank order when the core says so: that makes
synchronous training bit-identical whatever order they came in. Half precision is reduced in float32.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.errors import KeyNotInitializedError
from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.wire.schema import Payload
from shoal.ops.optim import Optimizer

__all__ = ["Cell", "Rule", "Table", "reduce_in_order"]


def reduce_in_order(parts: list[Array], reduce: str, out: Array) -> Array:
    """Sum or mean of ``parts``, added in the order given, into ``out`` (which may be ``parts[0]``'s dtype or wider)."""
    np.copyto(out, parts[0])
    for part in parts[1:]:
        np.add(out, part, out=out)
    if reduce == "mean" and len(parts) > 1:
        np.divide(out, len(parts), out=out)
    return out


@dataclass(slots=True)
class Cell:
    """One slice: its key, its store, its value, the state of its update rule, and how many updates it has had."""

    key: str
    store: int
    value: Array
    state: Any = None
    updates: int = 0
    parts: dict[int, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """How the values of one store are updated; the multipliers are by key, where they are not 1."""

    optimizer: Optimizer
    lr_mult: dict[str, float]
    wd_mult: dict[str, float]

    def step(self, cell: Cell, gradient: Array) -> None:
        """Update ``cell`` in place."""
        lr, wd = self.lr_mult.get(cell.key, 1.0), self.wd_mult.get(cell.key, 1.0)
        self.optimizer.step(cell.value, gradient, cell.state, cell.updates, lr_mult=lr, wd_mult=wd)


class Table:
    """Values by slice id, update rules by store. Without a rule a round's reduction replaces the value, as in MXNet."""

    def __init__(self) -> None:
        self.cells: dict[int, Cell] = {}
        self.rules: dict[int, Rule] = {}
        self._scratch: dict[tuple[str, int], Array] = {}

    def create(self, slice_id: int, key: str, value: Array, store: int = 1) -> None:
        """Give a slice its first value; it is copied."""
        cell = Cell(key, store, np.array(value, order="C"))
        if store in self.rules:
            cell.state = self.rules[store].optimizer.init(cell.value)
        self.cells[slice_id] = cell

    def configure(
        self, optimizer: Optimizer, lr_mult: dict[str, float], wd_mult: dict[str, float], store: int = 1
    ) -> None:
        """Install the update rule of a store.

        Values stay. A rule of the same name and with the same kinds of state keeps the states and update counts, so
        that a new learning rate does not wipe the momentum; any other rule starts anew.

        Raises:
            DTypeError: a value is not a float; nothing is changed.
        """
        fresh = [(c, optimizer.init(c.value)) for c in self.cells.values() if c.store == store]
        before = self.rules.get(store)
        same = before is not None and before.optimizer.spec().name == optimizer.spec().name
        for cell, state in fresh:
            if not same or cell.state is None or cell.state.keys() != state.keys():
                cell.state, cell.updates = state, 0
        self.rules[store] = Rule(optimizer, lr_mult, wd_mult)

    def accumulate(self, slice_id: int, rank: int, value: Array) -> None:
        """Keep a contribution until `apply`."""
        self._cell(slice_id).parts[rank] = value

    def apply(self, slice_id: int, ranks: tuple[int, ...], reduce: str) -> None:
        """Reduce the contributions of ``ranks`` and update the value in place."""
        cell = self._cell(slice_id)
        parts = [cell.parts.pop(r) for r in ranks]
        total = reduce_in_order(parts, reduce, self._buffer(cell.value))
        cell.updates += 1
        rule = self.rules.get(cell.store)
        if rule is None:
            np.copyto(cell.value, total, casting="same_kind")
        else:
            rule.step(cell, total)

    def payload(self, slice_id: int) -> Payload:
        """The slice's value, uncopied."""
        return as_payload(self._cell(slice_id).value)

    def _cell(self, slice_id: int) -> Cell:
        if slice_id not in self.cells:
            raise KeyNotInitializedError(f"slice {slice_id} has no value yet: call init for its key first")
        return self.cells[slice_id]

    def _buffer(self, like: Array) -> Array:
        dtype = np.dtype(np.float32) if like.dtype == np.float16 else like.dtype
        key = (dtype.str, like.size)
        if key not in self._scratch:
            self._scratch[key] = np.empty(like.size, dtype)
        return self._scratch[key].reshape(like.shape)
