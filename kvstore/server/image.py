"""The arrays of a server and what belongs to them, as named arrays and plain data, and back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.errors import CheckpointError, ShoalError
from shoal.kvstore import rules
from shoal.kvstore.arrays import Array, dtype_named, wire_name
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.rules import CellView
from shoal.kvstore.server.table import Cell, Table, Update
from shoal.kvstore.wire.messages import Segment
from shoal.ops import optim

__all__ = ["Image", "draw", "draw_store", "draw_stores", "hang", "hang_store", "hang_stores"]

Part = tuple[int, int]
"""Rank and clock of a contribution that waits."""


@dataclass(slots=True)
class Image:
    """One slice: plain data, and copies of its arrays by name."""

    meta: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)


def draw(cell: Cell, parts: Mapping[Part, Array | RowSparse]) -> Image:
    """A copy of a slice, with the contributions that wait."""
    image = Image(
        {
            "key": cell.key,
            "store": cell.store,
            "segments": [[s.key, s.start, s.stop] for s in cell.segments],
            "width": cell.width,
            "updates": cell.updates,
            "update": None if cell.update is None else _draw_update(cell.update),
            "state": None if cell.state is None else list(cell.state),
            "view": None if cell.view is None else list(cell.view.state),
            "parts": [[rank, clock, isinstance(a, RowSparse)] for (rank, clock), a in parts.items()],
            "arrays": {},
        }
    )
    _add(image, "value", cell.value)
    for i, name in enumerate(cell.state or ()):
        _add(image, f"state{i}", cell.state[name])
    for i, array in enumerate(cell.view.state.values() if cell.view is not None else ()):
        _add(image, f"view{i}", array)
    for i, part in enumerate(parts.values()):
        if isinstance(part, RowSparse):
            _add(image, f"ids{i}", part.ids)
        _add(image, f"part{i}", part.rows if isinstance(part, RowSparse) else part)
    return image


def _add(image: Image, name: str, array: Array) -> None:
    """Bytes, so that no dtype is one too many for a file."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    image.meta["arrays"][name] = [wire_name(array.dtype), list(array.shape)]
    image.arrays[name] = flat.copy()


def _array(image: Image, name: str) -> Array:
    dtype, shape = image.meta["arrays"][name]
    found: Array = image.arrays[name].view(dtype_named(dtype)).reshape(shape)
    return found


def hang(table: Table, slice_id: int, image: Image) -> None:
    """Give a table the slice that was drawn.

    Raises:
        CheckpointError: it is not what `draw` made, or an optimizer or a rule in it is not known here.
    """
    m = image.meta
    try:
        segments = tuple(Segment(key=k, start=a, stop=b) for k, a, b in m["segments"])
        table.create(slice_id, m["key"], _array(image, "value"), m["store"], segments, m["width"])
        cell = table.cells[slice_id]
        cell.updates = m["updates"]
        cell.update = None if m["update"] is None else _hang_update(table, m["store"], m["update"])
        cell.state = None if m["state"] is None else {n: _array(image, f"state{i}") for i, n in enumerate(m["state"])}
        if m["view"] is not None:
            cell.view = CellView(cell.value, {n: _array(image, f"view{i}") for i, n in enumerate(m["view"])})
        for i, (rank, clock, sparse) in enumerate(m["parts"]):
            part: Array | RowSparse = _array(image, f"part{i}")
            if sparse:
                part = table.row_sparse(slice_id, _array(image, f"ids{i}"), _array(image, f"part{i}"))
            cell.parts[rank, clock] = part
    except (KeyError, ValueError, TypeError, IndexError, ShoalError) as e:
        raise CheckpointError(f"slice {slice_id} of a server's state cannot be read: {type(e).__name__}: {e}") from e


def draw_stores(table: Table) -> list[Any]:
    """How the stores' later keys are updated, as plain data."""
    return [[store, _draw_update(update)] for store, update in table.defaults.items()]


def hang_stores(table: Table, data: Iterable[Any]) -> None:
    """Give a table what `draw_stores` drew.

    Raises:
        CheckpointError: it is not that, or an optimizer or a rule in it is not known here.
    """
    try:
        for store, update in data:
            table.defaults[store] = _hang_update(table, store, update)
    except (KeyError, ValueError, TypeError, ShoalError) as e:
        raise CheckpointError(f"the optimizers of a server's state cannot be read: {type(e).__name__}: {e}") from e


def draw_store(table: Table, store: int) -> dict[str, Any] | None:
    """How later keys of one store are updated, as plain data; None if nothing has been said."""
    update = table.defaults.get(store)
    return None if update is None else _draw_update(update)


def hang_store(table: Table, store: int, data: Mapping[str, Any]) -> None:
    """Give a table what `draw_store` drew.

    Raises:
        CheckpointError: as `hang_stores`.
    """
    hang_stores(table, [(store, data)])


def _draw_update(update: Update) -> dict[str, Any]:
    spec = update.optimizer.spec()
    rule = "" if update.rule is None else update.rule.spec()
    mults = [dict(update.lr_mult), dict(update.wd_mult)]
    return {"name": spec.name, "params": dict(spec.params), "mults": mults, "rule": rule, "own": update.own}


def _hang_update(table: Table, store: int, data: Mapping[str, Any]) -> Update:
    """Slices of a store that were updated alike share their update again."""
    lr_mult, wd_mult = data["mults"]
    optimizer = optim.from_spec(optim.OptimizerSpec(data["name"], data["params"]))
    made = Update(optimizer, lr_mult, wd_mult, rules.parse(data["rule"]), data["own"])
    others = [c.update for c in table.cells.values() if c.store == store and c.update is not None]
    return next((u for u in (*others, *filter(None, [table.defaults.get(store)])) if u == made), made)
