"""A new replica is given what its primary has while that goes on serving: the state at one cut, slice by slice.

As for snapshots (`shoal.kvstore.server.saver`) a slice is copied between messages, or at the last moment before it
changes. Snapshots wait meanwhile.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from shoal.kvstore.arrays import Array
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.image import Image, Part, draw
from shoal.kvstore.server.table import Cell, Guard
from shoal.kvstore.server.whole import begin_whole

if TYPE_CHECKING:
    from shoal.kvstore.server.shell import ServerShell

__all__ = ["Filling"]


class Filling:
    """One cut of a server, and what of it is still to be copied.

    Args:
        shell: of the server; it must be `quiet`.
        give: is given each slice when it is copied.
    """

    def __init__(self, shell: "ServerShell", core: ServerCore, give: Callable[[int, Image], None]) -> None:
        self.text = begin_whole(shell, core)
        self._table, self._give = shell.table, give
        self._due: dict[int, tuple[set[Part], Guard | None]] = {}
        for slice_id, cell in self._table.cells.items():
            pending = core.entries[slice_id].pending.values()
            self._due[slice_id] = {(p.rank, p.clock) for parts in pending for p in parts}, cell.guard
            cell.guard = self._guard(slice_id, cell)
        self.slices = len(self._due)

    @property
    def over(self) -> bool:
        """Whether every slice has been copied."""
        return not self._due

    def turn(self) -> None:
        """Copy one slice."""
        if self._due:
            slice_id = next(iter(self._due))
            self._draw(slice_id, self._table.cells[slice_id].parts)

    def stop(self) -> None:
        """Nobody wants the rest."""
        for slice_id, (_, before) in self._due.items():
            self._table.cells[slice_id].guard = before
        self._due.clear()

    def _guard(self, slice_id: int, cell: Cell) -> Guard:
        def changes(taken: Mapping[Part, Array | RowSparse]) -> None:
            self._draw(slice_id, {**cell.parts, **taken})
            if cell.guard is not None:  # the one that was there before
                cell.guard(taken)

        return changes

    def _draw(self, slice_id: int, here: Mapping[Part, Array | RowSparse]) -> None:
        wanted, before = self._due.pop(slice_id)
        cell = self._table.cells[slice_id]
        cell.guard = before
        self._give(slice_id, draw(cell, {k: a for k, a in here.items() if k in wanted}))
