"""Snapshots of a server while it serves: cut at once, copied slice by slice between messages, written by a thread.

A *cut* is the state between two messages. What the core knows is copied then; a slice is copied later, or at the last
moment before it changes. Slices that have not changed since the snapshot before are not copied at all. While nothing is
being cut a slice that has changed costs a push nothing.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from shoal.errors import CheckpointError, ConfigError
from shoal.kvstore.arrays import Array
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.server.arrivals import Arrivals
from shoal.kvstore.server.calls import Calls
from shoal.kvstore.server.core import Entry, ServerCore
from shoal.kvstore.server.freeze import freeze, thaw
from shoal.kvstore.server.image import Image, Part, draw, draw_stores, hang, hang_stores
from shoal.kvstore.server.statefiles import StateFiles
from shoal.kvstore.server.table import Cell, Table
from shoal.kvstore.wire.schema import Message

__all__ = ["Saver", "Saving", "parse_every"]

log = logging.getLogger("shoal.server")


@dataclass(frozen=True, slots=True)
class Saving:
    """Where a run's servers keep their snapshots, and how often they take one: see `parse_every`."""

    directory: str
    every: tuple[float, int] = (30.0, 0)


def parse_every(text: str) -> tuple[float, int]:
    """How often snapshots are taken: seconds, or updates of slices; the other is 0.

    >>> parse_every("30s"), parse_every("100u"), parse_every("2")
    ((30.0, 0), (0.0, 100), (2.0, 0))

    Raises:
        ConfigError: it is neither.
    """
    number, unit = (text[:-1], text[-1:]) if text[-1:] in ("s", "u") else (text, "s")
    try:
        value = float(number) if unit == "s" else int(number)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise ConfigError(f"snapshots are taken every so many seconds (30s) or updates (100u), got {text!r}")
    return (float(value), 0) if unit == "s" else (0.0, int(value))


class Saver:
    """The snapshots of one server; everything but the writing is done by the thread that drives the server.

    Args:
        files: where they go.
        table: the server's arrays.
        calls: results of functions that have written.
        every: see `parse_every`.
        wake: called by the writing thread when it is done.
    """

    def __init__(
        self, files: StateFiles, table: Table, calls: Calls, every: tuple[float, int], wake: Callable[[], None]
    ) -> None:
        self._files, self._table, self._calls, self._every, self._wake = files, table, calls, every, wake
        self.arrivals = Arrivals(files.directory, wake)
        self._arrived: list[int] = []  # slices that were staged before the cut, and have files of their own
        self._due: dict[int, set[Part]] = {}  # slices that are still to be copied, with what waited in them at the cut
        self._images: dict[int, Image] = {}
        self._state: dict[str, Any] = {}
        self._stores: list[Any] = []
        self._cutting = self._written = False
        self._thread: threading.Thread | None = None
        self._error = ""
        self._held: list[tuple[str, Message]] = []  # answers that go out when they cannot be lost any more ...
        self._covered: list[tuple[str, Message]] = []  # ... those that the snapshot under way covers
        self._wanted = False
        self._last, self._updates = -1.0, 0
        self._failing = False
        self.counts: dict[str, float] = {"snapshots": 0, "bytes": 0, "longest_pause_s": 0.0, "failed": 0}

    def restore(self, rank: int, incarnation: int, cluster: str) -> ServerCore:
        """The newest good snapshot of this run, as a core and in the table; an empty one if there is none.

        Raises:
            CheckpointError: it cannot be understood.
            ConfigError: a store's gate cannot be gone on with.
        """
        began, saved = perf_counter(), self._files.read(cluster)
        if saved is None:
            core = ServerCore(rank, incarnation, cluster)
        else:
            core = thaw(saved.state, incarnation)
            stores, calls = saved.stores
            hang_stores(self._table, stores)
            staged = core.moves.staged if core.moves is not None else {}
            for slice_id, image in saved.images.items():
                if slice_id in core.entries or slice_id in staged:
                    hang(self._table, slice_id, image)
            self._calls.thaw(calls)
            text = "server %d goes on with snapshot %d: %d slices, read in %.2f s"
            log.warning(text, rank, saved.number, len(saved.images), perf_counter() - began)
        self.arrivals.restore(core, self._table, self._calls)
        core.recover()
        return core

    def hold(self, to: str, message: Message) -> None:
        """Send this answer when what it says is on the disk."""
        self._held.append((to, message))
        self._wanted = True

    def turn(self, core: ServerCore, now: float) -> list[tuple[str, Message]]:
        """Do a little; answers that may go out now. To be called often, between messages."""
        began = perf_counter()
        ready: list[tuple[str, Message]] = []
        if self._thread is not None:
            if not self._written:
                return ready
            ready = self._finish()
        if self._cutting:
            self._copy()
        elif self._is_due(core, now):
            self._cut(core, now)
        self._note(perf_counter() - began)
        return ready

    @property
    def idle(self) -> bool:
        """Whether no snapshot is being cut or written."""
        return not self._cutting and self._thread is None

    @property
    def directory(self) -> Path:
        """Where the snapshots are."""
        return self._files.directory

    @property
    def busy(self) -> bool:
        """Whether there is something to be done at once."""
        return self._cutting or (self._wanted and self._thread is None)

    def wake_at(self, now: float) -> float:
        """When to be called again if nothing happens before."""
        if self.busy:
            return now
        return self._last + self._every[0] if self._every[0] and self._last >= 0 else now + 1.0

    def close(self) -> None:
        """Wait for the writing threads."""
        self.arrivals.close()
        if self._thread is not None:
            self._thread.join()

    def _is_due(self, core: ServerCore, now: float) -> bool:
        if self._last < 0:
            self._last = now
        seconds, updates = self._every
        if self._wanted or (seconds and now - self._last >= seconds and core.entries):
            return core.recovery is None
        return bool(updates) and core.updates - self._updates >= updates and core.recovery is None

    def _cut(self, core: ServerCore, now: float) -> None:
        """Fix the state; from now on no slice changes before it is copied."""
        self._last, self._updates, self._wanted = now, core.updates, False
        self._covered, self._held = self._held, []
        self._state, self._images = freeze(core), {}
        self._stores = [draw_stores(self._table), self._calls.freeze()]
        everything = self._files.full
        self._arrived = [i for i in self.arrivals.kept if i in self._table.cells]
        for slice_id, cell in self._table.cells.items():
            if everything or cell.guard is None or not self._files.knows(slice_id):
                pending = _entry(core, slice_id).pending.values()
                self._due[slice_id] = {(p.rank, p.clock) for parts in pending for p in parts}
                cell.guard = self._guard(slice_id, cell)
        self._cutting = True
        self._copy()

    def _guard(self, slice_id: int, cell: Cell) -> Callable[[Mapping[Part, Array | RowSparse]], None]:
        def changes(taken: Mapping[Part, Array | RowSparse]) -> None:
            began = perf_counter()
            if slice_id in self._due:
                self._draw(slice_id, {**cell.parts, **taken})
            cell.guard = None
            self._note(perf_counter() - began)

        return changes

    def _draw(self, slice_id: int, here: Mapping[Part, Array | RowSparse]) -> None:
        wanted = self._due.pop(slice_id)
        self._images[slice_id] = draw(self._table.cells[slice_id], {k: a for k, a in here.items() if k in wanted})

    def _copy(self) -> None:
        """The next slice; after the last one the thread may write."""
        if self._due:
            slice_id = next(iter(self._due))
            self._draw(slice_id, self._table.cells[slice_id].parts)
        if not self._due:
            self._cutting, self._written = False, False
            self._thread = threading.Thread(target=self._write, name="shoal-state", daemon=True)
            self._thread.start()

    def _write(self) -> None:
        try:
            self.counts["bytes"] += self._files.write(self._state, self._stores, self._images)
            self._error = ""
        except CheckpointError as e:
            self._error = str(e)
        except Exception as e:
            self._error = f"{type(e).__name__}: {e}"
        self._written = True
        self._wake()

    def _finish(self) -> list[tuple[str, Message]]:
        """The snapshot is written, or could not be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error:
            self.counts["failed"] += 1
            if not self._failing:
                log.warning("no snapshot: %s; should this server die, more is lost, or the run ends", self._error)
            for slice_id in self._images.keys() & self._table.cells.keys():  # others have moved away
                self._table.cells[slice_id].guard = None
        else:
            self.counts["snapshots"] += 1
            for slice_id in self._arrived:
                self.arrivals.forget(slice_id)
        self._failing = bool(self._error)
        covered, self._covered, self._images = self._covered, [], {}
        return covered

    def _note(self, seconds: float) -> None:
        self.counts["longest_pause_s"] = max(self.counts["longest_pause_s"], seconds)


def _entry(core: ServerCore, slice_id: int) -> Entry:
    """Of a slice that has arrays here, also if it is not this server's yet."""
    entry = core.entries.get(slice_id)
    if entry is None and core.moves is not None:
        staged: Entry = core.moves.staged[slice_id]
        return staged
    return core.entries[slice_id] if entry is None else entry
