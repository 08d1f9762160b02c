"""A store for the threads of one process: they update shared arrays in place (Hogwild!: Recht et al., NIPS 2011).

Nobody waits for anybody. Without locks two threads that update the same element at the same time may lose one of the
updates, which is rare where gradients are sparse; with ``atomic=True`` every slice has a lock, and no update is lost.
NumPy lets other threads run only inside its loops over larger arrays, so that small ones never collide.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from shoal.errors import ConfigError, StoreTimeoutError
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array
from shoal.kvstore.base import done
from shoal.kvstore.checks import (
    check_fit,
    check_mean,
    check_new,
    check_row_push,
    check_rows_kept,
    check_rule,
    not_initialised,
    writable,
)
from shoal.kvstore.codecs import Spec
from shoal.kvstore.given import Key, as_lists, host_array, in_place, merge_devices, multipliers
from shoal.kvstore.placement import cut
from shoal.kvstore.rows import RowSparse, merge_rows, wanted_rows
from shoal.kvstore.rules import Rule
from shoal.kvstore.server.table import Cell, Update
from shoal.ops.optim import Optimizer

__all__ = ["HogwildKVStore", "hogwild"]

TIMEOUT_S = 600.0


@dataclass(slots=True)
class _Piece:
    """A slice of one key: updated under its own lock, or under none."""

    cell: Cell
    start: int
    stop: int
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Key:
    """One key: the array that all threads share, whole, and its slices."""

    value: Array
    width: int  # of a row, if it is kept by rows
    pieces: list[_Piece] = field(default_factory=list)


class _Shared:
    """What the handles of one store have in common."""

    def __init__(self, workers: int, atomic: bool, timeout_s: float) -> None:
        self.workers, self.atomic, self.timeout_s = workers, atomic, timeout_s
        self.keys: dict[str, _Key] = {}
        self.update: Update | None = None
        self.configured = 0  # calls of set_optimizer by worker 0
        self.changed = threading.Condition()
        self.arrived: dict[int, int] = dict.fromkeys(range(workers), 0)  # barriers that each worker has come to

    def wait(self, ready: Callable[[], bool], late: Callable[[], str]) -> None:
        """Wait, with `changed` held, until ``ready``.

        Raises:
            StoreTimeoutError: it did not become so; the text is ``late``'s.
        """
        until = time.monotonic() + self.timeout_s
        while not ready():
            if not self.changed.wait(max(0.0, until - time.monotonic())) and not ready():
                raise StoreTimeoutError(f"{late()} for {self.timeout_s:g} s")

    def create(self, name: str, array: Array, rows: bool) -> None:
        key = _Key(np.array(array, order="C"), prod(array.shape[1:]) if rows else 0)
        self.slice(name, key)
        self.keys[name] = key

    def slice(self, name: str, key: _Key) -> None:
        """Cut a key: not at all, where the optimizer or rows need it whole."""
        flat = key.value.reshape(-1)
        whole = key.width or (self.update is not None and self.update.optimizer.whole)
        ranges = [(0, flat.size)] if whole else cut(flat.size, flat.itemsize)
        key.pieces = [_Piece(Cell(name, 1, flat[a:b], width=key.width), a, b) for a, b in ranges]
        if self.update is not None:
            for piece in key.pieces:
                piece.cell.state = self.update.optimizer.init(piece.cell.value)

    def configure(self, update: Update) -> None:
        """Install an optimizer; one of the same name and kind keeps the states."""
        before, self.update = self.update, update
        optimizer = update.optimizer
        same = before is not None and before.optimizer.spec().name == optimizer.spec().name
        for name, key in self.keys.items():
            if not same or before is None or before.optimizer.whole != optimizer.whole:
                self.slice(name, key)

    def lock(self, piece: _Piece) -> "AbstractContextManager[Any]":
        return piece.lock if self.atomic else nullcontext()

    def apply(self, name: str, gradient: Array) -> None:
        """One contribution, in place; slice by slice."""
        flat = gradient.reshape(-1)
        for piece in self.keys[name].pieces:
            with self.lock(piece):
                piece.cell.updates += 1
                if self.update is None:
                    np.copyto(piece.cell.value, flat[piece.start : piece.stop], casting="no")
                else:
                    self.update.step(piece.cell, flat[piece.start : piece.stop])

    def apply_rows(self, name: str, gradient: RowSparse) -> None:
        (piece,) = self.keys[name].pieces
        with self.lock(piece):
            piece.cell.updates += 1
            if self.update is None:
                piece.cell.value.reshape(gradient.shape)[gradient.ids] = gradient.rows
            elif self.update.lazy:
                self.update.step_rows(piece.cell, gradient)
            else:
                self.update.step(piece.cell, gradient.dense().reshape(-1))


class HogwildKVStore(KVStore):
    """One worker thread's handle of a store that threads share; `worker` gives the others'.

    The calls are those of every store. ``init`` and ``set_optimizer`` count on worker 0's handle; on another they wait
    until worker 0 has called them, so that threads may run the same code.
    """

    type = "hogwild"

    def __init__(self, shared: _Shared, rank: int, reduce: str) -> None:
        self._shared, self._rank, self.reduce = shared, rank, reduce
        self._known: set[str] = set()
        self._configured = 0
        self._bytes_in = self._bytes_out = self._pushes = 0

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def num_workers(self) -> int:
        return self._shared.workers

    def worker(self, rank: int) -> "HogwildKVStore":
        """The handle of worker ``rank``, for a thread of its own.

        Raises:
            ConfigError: the store has no such worker.
        """
        if not 0 <= rank < self.num_workers:
            raise ConfigError(
                f"this store has {self.num_workers} workers, 0 to {self.num_workers - 1}; there is no worker {rank}. "
                f"Create it with workers={rank + 1}, or more."
            )
        return HogwildKVStore(self._shared, rank, self.reduce)

    def shared(self, key: Key) -> Array:
        """The array itself: every thread's updates appear in it as they are made."""
        return self._key(as_lists(key)[0][0]).value

    # --- keys ---------------------------------------------------------------------------------------------------------

    def init(
        self, key: Key | Sequence[Key], value: Any, *, fuse: bool = False, whole: bool = False, rows: bool = False
    ) -> None:
        """As `KVStore.init`; nothing is sent, so that ``fuse`` and ``whole`` change nothing."""
        names, (values,) = as_lists(key, value)
        arrays = [host_array(v) for v in values]
        check_new(names, self._known)
        if rows:
            check_rows_kept(names, arrays)
        shared = self._shared
        with shared.changed:
            if self._rank == 0:
                check_new(names, shared.keys)
                for name, array in zip(names, arrays, strict=True):
                    shared.create(name, array, rows)
                shared.changed.notify_all()
            else:
                missing = ", ".join(repr(n) for n in names)
                late = f"worker {self._rank} has waited for worker 0 to call init for {missing}"
                shared.wait(lambda: all(n in shared.keys for n in names), lambda: late)
        for name, array in zip(names, arrays, strict=True):
            there = shared.keys[name].value
            check_fit(f"worker {self._rank}", "initialises", name, array, there.shape, there.dtype)
        self._known.update(names)

    def _key(self, name: str) -> _Key:
        key = self._shared.keys.get(name)
        if key is None:
            raise not_initialised(name)
        return key

    def keys(self) -> list[str]:
        return sorted(self._shared.keys)

    # --- push and pull ------------------------------------------------------------------------------------------------

    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> "Future[None]":
        names, (values,) = as_lists(key, value)
        parts = [self._fitting(n, v) for n, v in zip(names, values, strict=True)]
        for name, part in zip(names, parts, strict=True):
            if isinstance(part, RowSparse):
                self._shared.apply_rows(name, part)
            else:
                self._shared.apply(name, part)
            self._pushes += 1
            self._bytes_in += part.nbytes
        return done(None)

    def _fitting(self, name: str, value: Any) -> Array | RowSparse:
        key, who = self._key(name), f"worker {self._rank}"
        check_mean(who, name, key.value.dtype, self.reduce)
        rows = merge_rows(value)
        if rows is not None:
            check_row_push(who, name, rows, key.value.shape, key.value.dtype, "rows" if key.width else "")
            return rows.merged().flat()
        array = np.ascontiguousarray(merge_devices(value))
        check_fit(who, "pushes", name, array, key.value.shape, key.value.dtype)
        return array

    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> "Future[Any]":
        names, (outs,) = as_lists(key, out)
        results = [self._read(n, o) for n, o in zip(names, outs, strict=True)]
        return done(results[0] if isinstance(key, str | int) else results)

    def _read(self, name: str, out: Any) -> Any:
        """A copy, slice by slice: another thread may be half way through an update, unless the store is atomic."""
        key = self._key(name)
        target = np.empty_like(key.value) if out is None else out
        memory = writable(f"worker {self._rank}", name, target, key.value.shape, key.value.dtype).reshape(-1)
        for piece in key.pieces:
            with self._shared.lock(piece):
                np.copyto(memory[piece.start : piece.stop], piece.cell.value)
        self._bytes_out += memory.nbytes
        return target

    def _pull_rows(self, names: list[str], row_ids: list[Any], priority: int) -> list[RowSparse]:
        found = []
        for name, wanted in zip(names, row_ids, strict=True):
            key = self._key(name)
            if not key.width:
                raise ConfigError(f"key {name!r} is not kept by rows: kv.init({name!r}, value, rows=True)")
            ids = wanted_rows(name, wanted, key.value.shape)
            with self._shared.lock(key.pieces[0]):
                found.append(RowSparse(ids, key.value[ids], key.value.shape))
            self._bytes_out += found[-1].rows.nbytes
        return found

    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> "Future[Any]":
        names, (values, outs) = as_lists(key, value, out)
        places = [in_place(v) if o is None else o for v, o in zip(values, outs, strict=True)]
        self.push_async(key, value, priority)
        results = [self._read(n, p) for n, p in zip(names, places, strict=True)]
        return done(results[0] if isinstance(key, str | int) else results)

    def set_optimizer(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float] | None = None,
        wd_mult: dict[str, float] | None = None,
        rule: str | Rule | None = None,
        keys: Key | Sequence[Key] | None = None,
    ) -> None:
        check_rule(optimizer)
        if keys is not None:
            raise ConfigError("set_optimizer(keys=...): all keys of a hogwild store have one optimizer; use 'local'")
        if rule is not None:
            raise ConfigError(
                f"rule {rule!r}: a hogwild store counts no versions, so that nothing is known of a contribution's age; "
                "use 'local', or servers (shoal run --mode async)"
            )
        shared = self._shared
        with shared.changed:
            self._configured += 1
            if self._rank == 0:
                shared.configure(Update(optimizer, multipliers(lr_mult), multipliers(wd_mult)))
                shared.configured += 1
                shared.changed.notify_all()
            else:
                late = f"worker {self._rank} has waited for worker 0 to call set_optimizer"
                shared.wait(lambda: shared.configured >= self._configured, lambda: late)

    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        if compression_params is not None:
            raise ConfigError("gradient compression: a hogwild store sends nothing that could be made smaller")

    # --- the rest -----------------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Wait until every worker's handle has come here."""
        shared = self._shared
        with shared.changed:
            shared.arrived[self._rank] += 1
            turn = shared.arrived[self._rank]
            shared.changed.notify_all()
            shared.wait(lambda: min(shared.arrived.values()) >= turn, lambda: self._late(turn))

    def _late(self, turn: int) -> str:
        late = ", ".join(f"worker {r}" for r, n in self._shared.arrived.items() if n < turn)
        return f"worker {self._rank} has waited for {late} at a barrier"

    def flush(self) -> None:
        """A push is carried out before it returns."""

    def close(self) -> None:
        """Nothing to give back."""

    def ledger(self) -> dict[str, int]:
        n = self._pushes
        counts = {"sent": n, "acknowledged": n, "retries": 0, "bytes_dense": self._bytes_in}
        return {**counts, "bytes_pushed": self._bytes_in, "bytes_pulled": self._bytes_out}

    def server_stats(self) -> list[dict[str, Any]]:
        """There are no servers."""
        return []


def hogwild(
    *, reduce: str = "mean", workers: int = 1, atomic: bool = False, timeout_s: float = TIMEOUT_S
) -> HogwildKVStore:
    """Worker 0's handle of a new store for the threads of this process.

    Args:
        reduce: of integers only a sum can be made; every contribution is applied alone, so that nothing else depends
            on it.
        workers: how many threads train; ``kv.worker(3)`` is the handle of the fourth.
        atomic: a lock for each slice of 1 MB: no update is lost.
        timeout_s: deadline of every wait.
    Raises:
        ConfigError: there is no worker.
    """
    if workers < 1:
        raise ConfigError(f"a store needs at least 1 worker, got {workers}")
    return HogwildKVStore(_Shared(workers, atomic, timeout_s), 0, reduce)
