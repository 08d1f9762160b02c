"""The all-reduce store: workers reduce among themselves, without servers."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from shoal.errors import ConfigError, KeyNotInitializedError, StoreTimeoutError
from shoal.kvstore.api import Coordinator
from shoal.kvstore.arrays import Array, is_float, wire_name
from shoal.kvstore.base import ReducingKVStore
from shoal.kvstore.checks import check_fit, check_mean, check_new, writable
from shoal.kvstore.client.shell import Call
from shoal.kvstore.given import Key, as_lists, host_array, in_place, merge_devices
from shoal.kvstore.ring.arithmetic import Arrays
from shoal.kvstore.ring.buckets import Bucket, Item, buckets
from shoal.kvstore.ring.events import Collective
from shoal.kvstore.ring.schedule import Block, broadcast, reduction
from shoal.kvstore.ring.shell import RingShell
from shoal.kvstore.wire.messages import KeySpec
from shoal.kvstore.wire.schema import ITEM_BYTES

__all__ = ["AllReduceKVStore"]


@dataclass(slots=True)
class _Key:
    """What a worker knows of one key.

    ``value`` is what a pull reads: the first value, or the result of the last push; None after a pushpull.
    """

    number: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    value: Array | None = None
    pending: "Future[Any] | None" = None  # the last push
    turn: int = 0  # pushes and pushpulls so far


class AllReduceKVStore(ReducingKVStore):
    """Keys that the workers reduce among themselves.

    ``pushpull`` is the all-reduce. ``push`` reduces into this worker's own copy of the key, which ``pull`` reads, as
    with a synchronous store of a cluster; ``pushpull`` keeps no copy, so that a ``pull`` after it is refused.

    Every worker must make the same calls: the same keys in one list. The order of calls may differ. A result has the
    same bits on every worker, and in every repetition of the run; from a store with servers, which adds in rank order,
    it differs by rounding. Half precision is added, and sent, in float32.

    Args:
        reduce: "mean" or "sum".
        coordinator: the cluster's membership.
        shell: the worker's end of collectives.
        number_store: gives the number of one more store of the script, the same on every worker.
        timeout_s: deadline of every wait.
        algorithm: "auto", or one of `shoal.kvstore.ring.schedule`; may be set later, on every worker.
    """

    type = "allreduce"

    def __init__(
        self,
        reduce: str,
        coordinator: Coordinator,
        shell: RingShell,
        number_store: Callable[[], int],
        timeout_s: float = 600.0,
        algorithm: str = "auto",
    ) -> None:
        self.reduce = reduce
        self._coordinator, self._shell, self._timeout_s, self.algorithm = coordinator, shell, timeout_s, algorithm
        self._keys: dict[str, _Key] = {}
        self._under_way: dict[Call, None] = {}
        self._lock = Lock()
        self._number, self._number_store = 0, number_store
        self._rank, self._workers, self._who = coordinator.rank, coordinator.num_workers, f"worker {coordinator.rank}"

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def num_workers(self) -> int:
        return self._workers

    # --- keys ---------------------------------------------------------------------------------------------------------

    def init(
        self, key: Key | Sequence[Key], value: Any, *, fuse: bool = False, whole: bool = False, rows: bool = False
    ) -> None:
        names, (values,) = as_lists(key, value)
        check_new(names, self._keys)
        self._refuse_rows(rows)
        copies = [np.array(host_array(v), order="C") for v in values]
        self._declare(names, copies)
        self._broadcast(names, copies).result()
        for name, copy in zip(names, copies, strict=True):
            self._keys[name].value = copy

    def _declare(self, names: list[str], arrays: list[Array]) -> None:
        """Agree with the other workers on the keys; their numbers come from the scheduler."""
        specs = [
            KeySpec(key=self._global(n), dtype=self._wire(n, a), shape=a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        layouts = self._coordinator.declare("allreduce", self.reduce, specs, self._timeout_s, store=self.number)
        for name, layout, array in zip(names, layouts, arrays, strict=True):
            self._keys[name] = _Key(layout.slices[0].id, array.shape, array.dtype)

    @property
    def number(self) -> int:
        """Which of the script's stores this is, from 1, in the order of first use; asking is using."""
        with self._lock:
            self._number = self._number or self._number_store()
            return self._number

    def _global(self, name: str) -> str:
        return name if self.number == 1 else f"{name} (store {self.number})"

    @staticmethod
    def _wire(name: str, array: Array) -> str:
        dtype = wire_name(array.dtype)
        if dtype not in ITEM_BYTES:
            raise ConfigError(f"key {name!r}: dtype {array.dtype} cannot travel; known: {' '.join(ITEM_BYTES)}")
        return dtype

    def _entry(self, name: str) -> _Key:
        entry = self._keys.get(name)
        if entry is None:
            raise KeyNotInitializedError(
                f"worker {self.rank}: key {name!r} is not initialised: "
                f"call kv.init({name!r}, value) on every worker first"
            )
        return entry

    def keys(self) -> list[str]:
        return sorted(self._keys)

    def slice_names(self) -> list[tuple[int, str]]:
        """Numbers that messages name, and the keys that they stand for."""
        return [(k.number, name) for name, k in self._keys.items()]

    def held(self) -> dict[str, Array]:
        """Copies of the values that a pull may read, by the names that tell the stores of a run apart."""
        names = [n for n in self.keys() if self._keys[n].value is not None or self._keys[n].pending is not None]
        return dict(zip(map(self._global, names), self.pull(names), strict=True)) if names else {}

    # --- collectives --------------------------------------------------------------------------------------------------

    def broadcast(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Any:
        """`init`, unless the keys exist, and worker 0's value in ``out`` (in ``value`` itself if there is none)."""
        names, (values, outs) = as_lists(key, value, out)
        places = [v if o is None else o for v, o in zip(values, outs, strict=True)]
        if any(n not in self._keys for n in names):
            self.init(names, values)
            self.pull(names, places)
            return _like(key, places)
        targets = [self._memory(n, self._entry(n), p) for n, p in zip(names, places, strict=True)]
        for target, v in zip(targets, values, strict=True):
            np.copyto(target, host_array(v), casting="no")
        self._broadcast(names, targets).result()
        return _like(key, places)

    def _broadcast(self, names: list[str], arrays: list[Array]) -> Call:
        """Worker 0's arrays, in place."""
        n, rank = self.num_workers, self.rank

        def start(item: Item, call: Call) -> "Future[None]":
            blocks = broadcast(item[2].size, item[2].itemsize, n, rank)
            return self._start(item, blocks, 0, 1, call)

        return self._run([(k, a.reshape(-1), a.reshape(-1)) for k, a in zip(names, arrays, strict=True)], start, None)

    def _reduce(self, items: list[Item], priority: int, result: Any) -> Call:
        n, rank = self.num_workers, self.rank

        def start(item: Item, call: Call) -> "Future[None]":
            name, own, _ = item
            turn = self._keys[name].number
            blocks = reduction(own.size, own.itemsize, n, rank, turn, self.algorithm)
            mean = self.reduce == "mean" and is_float(own.dtype)
            return self._start(item, blocks, priority, n if mean else 1, call)

        return self._run(items, start, result)

    def _start(self, item: Item, blocks: list[Block], priority: int, divisor: int, call: Call) -> "Future[None]":
        name, own, total = item
        op = Collective(
            key=self._keys[name].number,
            about=repr(name),
            size=own.size,
            dtype=wire_name(own.dtype),
            item_bytes=own.itemsize,
            blocks=blocks,
            priority=priority,
        )
        return self._shell.submit(op, Arrays(own, total, divisor), call)

    def _run(self, items: list[Item], start: Callable[[Item, Call], "Future[None]"], result: Any) -> Call:
        """Start the collectives of one call; its future gives ``result``."""
        call = self._call()
        planned = buckets(items, self._workers)
        group = _Group(call, len(planned), result)
        with self._lock:
            self._under_way[call] = None
        call.add_done_callback(self._forget)
        for some in planned:
            bucket = Bucket(some)
            group.follow(start(bucket.item, call), bucket)
            self._shell.launch(bucket.item[1].nbytes)  # while the next one is copied together
        return call

    def _call(self) -> Call:
        """A future under way; who waits for it helps."""
        call = Call()
        call.attend = self._shell.attend
        call.set_running_or_notify_cancel()
        return call

    def _forget(self, call: "Future[Any]") -> None:
        if isinstance(call, Call) and call.peek() is None:
            with self._lock:
                self._under_way.pop(call, None)

    # --- push and pull ------------------------------------------------------------------------------------------------

    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> "Future[Any]":
        names, (values, outs) = as_lists(key, value, out)
        items, results = [], []
        entries = [self._entry(n) for n in names]
        for name, entry, v, o in zip(names, entries, values, outs, strict=True):
            own = self._fitting(name, entry, v)
            target = in_place(v) if o is None else o
            if target is None:
                target = np.empty(entry.shape, entry.dtype)
            items.append((name, own.reshape(-1), self._memory(name, entry, target).reshape(-1)))
            results.append(target)
        for entry in entries:
            entry.turn, entry.pending, entry.value = entry.turn + 1, None, None
        return self._reduce(items, priority, _like(key, results))

    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> "Future[None]":
        names, (values,) = as_lists(key, value)
        copies = [self._fitting(n, self._entry(n), v).copy() for n, v in zip(names, values, strict=True)]
        entries = [self._turn(n) for n in names]
        turns = [e.turn for e in entries]
        call = self._reduce(
            [(n, c.reshape(-1), c.reshape(-1)) for n, c in zip(names, copies, strict=True)], priority, None
        )

        def keep(finished: "Future[Any]") -> None:
            for entry, turn, copy in zip(entries, turns, copies, strict=True):
                if entry.turn == turn and isinstance(finished, Call) and finished.peek() is None:
                    entry.value = copy

        call.add_done_callback(keep)
        for entry in entries:
            entry.pending = call
        return call

    def _turn(self, name: str) -> _Key:
        """The key is about to be reduced: what was before is no longer what a pull reads."""
        entry = self._entry(name)
        entry.turn += 1
        entry.pending = None
        return entry

    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> "Future[Any]":
        names, (outs,) = as_lists(key, out)
        entries = [self._entry(n) for n in names]
        targets = [np.empty(e.shape, e.dtype) if o is None else o for e, o in zip(entries, outs, strict=True)]
        memory = [self._memory(n, e, t) for n, e, t in zip(names, entries, targets, strict=True)]
        call = self._call()
        pending = [e.pending for e in entries if e.pending is not None]
        group = _Group(call, 1 + len(pending), _like(key, targets), lambda: self._copy(names, memory))
        for push in pending:
            group.follow(push)
        group.one_done(None)
        return call

    def _copy(self, names: list[str], memory: list[Array]) -> None:
        for name, target in zip(names, memory, strict=True):
            value = self._keys[name].value
            if value is None:
                raise ConfigError(
                    f"pull of {name!r}: its last reduction was a pushpull, whose result is where pushpull put it, and "
                    "nowhere else. Keep that, or reduce with push, which an all-reduce store keeps for pull."
                )
            np.copyto(target, value)

    def _fitting(self, name: str, entry: _Key, value: Any) -> Array:
        """This worker's contribution, checked: on the way of every key, so that what is right is found quickly."""
        array = value if type(value) is np.ndarray else merge_devices(value)
        if array.shape != entry.shape or array.dtype != entry.dtype:
            check_fit(self._who, "pushes", name, array, entry.shape, entry.dtype)
        if entry.dtype.kind != "f":
            check_mean(self._who, name, entry.dtype, self.reduce)
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def _memory(self, name: str, entry: _Key, out: Any) -> Array:
        return writable(self._who, name, out, entry.shape, entry.dtype)

    # --- the rest -----------------------------------------------------------------------------------------------------

    def alloc(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array of zeros that workers on this host read where it is: reducing it copies nothing on its way."""
        array = self._shell.alloc((shape,) if isinstance(shape, int) else shape, dtype)
        return super().alloc(shape, dtype) if array is None else array

    def barrier(self) -> None:
        """Wait until every worker has come here, and every reduction before it is done."""
        self.flush()
        self._coordinator.barrier("user", self._timeout_s)

    def flush(self) -> None:
        """Wait until every reduction of this worker is done, and what it sent has been taken."""
        with self._lock:
            calls = list(self._under_way)
        errors = [e for call in calls if (e := self._outcome(call)) is not None]
        if errors:
            raise errors[0]
        if not self._shell.wait_idle(self._timeout_s):
            raise StoreTimeoutError(f"worker {self.rank}: {self._shell.late()}")

    def _outcome(self, call: Call) -> BaseException | None:
        """Wait for a reduction; its error, unless somebody has it already."""
        try:
            error = call.peek(self._timeout_s + 5.0)
        except TimeoutError as e:
            raise StoreTimeoutError(f"worker {self.rank}: the I/O thread of all-reduce does not answer") from e
        with self._lock:
            self._under_way.pop(call, None)
        return None if call.taken else error

    def close(self) -> None:
        """Flush, and tell the peers that this worker reduces no more."""
        self.flush()
        self._shell.close_keys([k.number for k in self._keys.values()])

    def ledger(self) -> dict[str, int]:
        return self._shell.ledger()


class _Group:
    """Futures that together make one call; ``then`` is carried out before its result is set."""

    def __init__(self, call: Call, parts: int, result: Any, then: Callable[[], None] = lambda: None) -> None:
        self._call, self._left, self._result, self._then = call, parts, result, then
        self._lock = Lock()
        if parts == 0:
            call.set_result(result)

    def follow(self, part: "Future[Any]", bucket: Bucket | None = None) -> None:
        part.add_done_callback(lambda f: self._finished(f, bucket))

    def _finished(self, part: "Future[Any]", bucket: Bucket | None) -> None:
        error = part.peek() if isinstance(part, Call) else part.exception()
        if error is None and bucket is not None:
            bucket.unpack()
        self.one_done(error)

    def one_done(self, error: BaseException | None) -> None:
        """A part is done, or has failed."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
            over = self._call.done()
        if over:
            return
        if error is None and last:
            try:
                self._then()
            except ConfigError as e:
                error = e
        if error is not None:
            self._call.set_exception(error)
        elif last:
            self._call.set_result(self._result)


def _like(key: Key | Sequence[Key], results: Iterable[Any]) -> Any:
    """One result for one key, a list for a list."""
    made = list(results)
    return made[0] if isinstance(key, str | int) else made
