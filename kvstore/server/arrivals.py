"""Slices that have come from another server: taken in, and kept on the disk until a snapshot has them.

A server with snapshots confirms a slice when it cannot be lost any more. A snapshot holds everything that has changed,
which takes far longer than one slice; so the slice gets a file of its own, ``arrived-7.safetensors`` beside the
snapshots, as it came. The file goes when a snapshot has the slice, or when the slice leaves.
"""

import json
import logging
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import CheckpointError
from shoal.kvstore.arrays import Array
from shoal.kvstore.server.calls import Calls
from shoal.kvstore.server.core import Entry, ServerCore
from shoal.kvstore.server.freeze import thaw_slice
from shoal.kvstore.server.image import Image, hang, hang_store
from shoal.kvstore.server.moving import Moves
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.schema import Message
from shoal.ops.tensorfile import load_tensors, save_tensors

__all__ = ["Arrivals", "take_in"]

log = logging.getLogger("shoal.server")

_NAME = "arrived-{}.safetensors"


def take_in(
    core: ServerCore, table: Table, calls: Calls, slice_id: int, state: Mapping[str, Any], arrays: dict[str, Array]
) -> Entry:
    """Put a slice that has come into the table; its clocks, which are not the core's yet.

    Raises:
        CheckpointError: it cannot be understood; nothing is changed.
    """
    image, entry = Image(state["image"], arrays), state["entry"]
    if (image.meta["key"], image.meta["store"]) != (entry["key"], entry["store"]):
        raise CheckpointError("its clocks and its arrays are of different keys")
    try:
        hang(table, slice_id, image)
        staged = thaw_slice(core, state)
    except BaseException:
        table.cells.pop(slice_id, None)
        raise
    if state["update"] is not None and staged.store not in table.defaults:
        hang_store(table, staged.store, state["update"])
    calls.thaw(state["calls"])
    return staged


@dataclass(slots=True)
class Arrivals:
    """The files of one server.

    Args:
        directory: where they are.
        wake: called by the writing thread when it is done.
    """

    directory: Path
    wake: Callable[[], None]
    kept: set[int] = field(default_factory=set)  # slices with a file that is whole
    _writing: dict[int, threading.Thread] = field(default_factory=dict)
    _answers: dict[int, tuple[str, Message]] = field(default_factory=dict)
    _failed: dict[int, str] = field(default_factory=dict)

    def keep(
        self, slice_id: int, state: str, arrays: dict[str, Array], cluster: str, answer: tuple[str, Message]
    ) -> None:
        """Write a slice, on a thread of its own; ``answer`` is for `written` when it is on the disk."""
        self._join(slice_id)
        self._answers[slice_id] = answer
        self._failed.pop(slice_id, None)
        made = threading.Thread(
            target=self._write, args=(slice_id, state, arrays, cluster), name="shoal-arrival", daemon=True
        )
        self._writing[slice_id] = made
        made.start()

    def _write(self, slice_id: int, state: str, arrays: dict[str, Array], cluster: str) -> None:
        try:
            check = f"{zlib.crc32(state.encode()):08x}"
            save_tensors(self._path(slice_id), arrays, {"state": state, "cluster": cluster, "check": check})
        except Exception as e:  # the sender keeps the slice, and asks again
            self._failed[slice_id] = f"{type(e).__name__}: {e}"
        self.wake()

    def written(self) -> list[tuple[str, Message]]:
        """Answers that may go out now."""
        done = [i for i, thread in self._writing.items() if not thread.is_alive()]
        ready = []
        for slice_id in done:
            del self._writing[slice_id]
            answer = self._answers.pop(slice_id)
            if slice_id in self._failed:
                log.warning("slice %d, which has come, is not on the disk: %s", slice_id, self._failed.pop(slice_id))
            else:
                self.kept.add(slice_id)
                ready.append(answer)
        return ready

    def forget(self, slice_id: int) -> None:
        """A snapshot has the slice, or it is another server's."""
        self._join(slice_id)
        self._answers.pop(slice_id, None)
        self.kept.discard(slice_id)
        self._path(slice_id).unlink(missing_ok=True)

    def restore(self, core: ServerCore, table: Table, calls: Calls) -> None:
        """Stage what had come and is in no snapshot yet; the scheduler will say whose it is."""
        for path in sorted(self.directory.glob(_NAME.format("*"))):
            try:
                self._restore(path, core, table, calls)
            except (CheckpointError, ValueError, KeyError, TypeError) as e:
                log.warning("%s is damaged, and passed over: %s", path, e)

    def _restore(self, path: Path, core: ServerCore, table: Table, calls: Calls) -> None:
        slice_id = int(path.stem.removeprefix("arrived-"))
        arrays, meta = load_tensors(path)
        text = meta.get("state", "")
        if meta.get("cluster") != core.cluster or meta.get("check") != f"{zlib.crc32(text.encode()):08x}":
            return
        state = json.loads(text)
        here = core.entries.get(slice_id) or (core.moves.staged.get(slice_id) if core.moves is not None else None)
        if here is not None and _age(here.version, here.progress.counts(), here.left) >= _age_of(state["entry"]):
            return  # a snapshot that is newer has it
        if core.moves is None:
            core.moves = Moves(core)
        core.entries.pop(slice_id, None)
        self.kept.add(slice_id)
        core.moves.staged[slice_id] = take_in(core, table, calls, slice_id, state, dict(arrays))

    def close(self) -> None:
        """Wait for what is being written."""
        for slice_id in list(self._writing):
            self._join(slice_id)

    def _join(self, slice_id: int) -> None:
        thread = self._writing.pop(slice_id, None)
        if thread is not None:
            thread.join()

    def _path(self, slice_id: int) -> Path:
        return self.directory / _NAME.format(slice_id)


def _age(version: int, counts: Mapping[int, int], left: Mapping[int, int]) -> tuple[int, int]:
    """Which of two states of a slice is the later one."""
    return sum(counts.values()) + sum(left.values()), version


def _age_of(entry: Mapping[str, Any]) -> tuple[int, int]:
    skipped = sum(n for _, n in entry["skipped"])
    counted = sum(n for _, n in entry["clocks"]) - skipped + sum(n for _, n in entry["left"])
    return counted, entry["version"]
