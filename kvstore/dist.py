"""The store of a cluster: keys sharded over servers."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from shoal.errors import ConfigError, KeyNotInitializedError, StoreTimeoutError, meant
from shoal.kvstore.api import Coordinator, KVStore
from shoal.kvstore.arrays import Array
from shoal.kvstore.bundle import Bundle, batches, bundles
from shoal.kvstore.checks import (
    check_fit,
    check_mean,
    check_new,
    check_own,
    check_row_push,
    check_rows_kept,
    check_rule,
    check_whole,
    cut_name,
    writable,
)
from shoal.kvstore.client.backlog import Backlog
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.exchange import STREAMED_BYTES, Alone, Entry, Exchange, Recent
from shoal.kvstore.client.initial import init_jobs, key_spec
from shoal.kvstore.client.reading import InPlace, ReadingGroup
from shoal.kvstore.client.rowjobs import pull_jobs, push_jobs, row_width
from shoal.kvstore.client.shell import Call, ClientShell, Group
from shoal.kvstore.codecs import Compressor, Encoded, Encoding, Link, Plan, Spec
from shoal.kvstore.eventlog import event
from shoal.kvstore.gates import check_workers, mode_label, parse_gate
from shoal.kvstore.given import Key, as_lists, chosen_keys, host_array, in_place, merge_devices, multipliers
from shoal.kvstore.handover import HandingKVStore
from shoal.kvstore.rows import RowSparse, merge_rows, wanted_rows
from shoal.kvstore.rules import Rule, parse
from shoal.kvstore.wire.interrupts import Held
from shoal.kvstore.wire.messages import KeyLayout, Retire, SetOptimizer, Stats, StatsReply
from shoal.kvstore.wire.schema import Message
from shoal.ops.native import stream
from shoal.ops.optim import Optimizer

__all__ = ["DistKVStore"]

log = logging.getLogger("shoal.kvstore")


class DistKVStore(HandingKVStore):
    """Keys on the servers of a run.

    A script may use several stores: the keys, the optimizer and the end of one do not touch another's. Stores are told
    apart by the order in which the script first calls `init` or `set_optimizer` on them, the same on every worker.
    Several threads may use them, but every worker must make its calls of `init`, `set_optimizer` and `barrier` in one
    order.

    Args:
        mode: canonical gate name, or "" for the run's own (synchronous if it has none).
        reduce: "mean" or "sum".
        coordinator: the cluster's membership.
        shell: the client of the I/O thread.
        timeout_s: deadline of every wait.
        private: the library made it for its own needs: it is not bound to the run's mode, nor to its compression.
        compression: the run's; the script may ask for no other.
    """

    def __init__(
        self,
        mode: str,
        reduce: str,
        coordinator: Coordinator,
        shell: ClientShell,
        timeout_s: float = 600.0,
        private: bool = False,
        compression: Spec | None = None,
    ) -> None:
        super().__init__()
        self._gate = parse_gate(mode or coordinator.mode or "bsp")
        self.type = {"bsp": "dist_sync", "asp": "dist_async"}.get(self._gate.name, f"dist_{self._gate.name}")
        if coordinator.mode and self._gate.name != coordinator.mode and not private:
            raise ConfigError(
                f"the script asks for kvstore {self.type!r}, but the run was started with --mode "
                f"{mode_label(coordinator.mode)}. Drop --mode, or ask for 'dist', which is whatever the run is."
            )
        check_workers(self._gate.name, coordinator.num_workers)
        self.reduce = reduce
        self._coordinator, self._shell, self._timeout_s = coordinator, shell, timeout_s
        self._private = private
        self._entries: dict[str, Entry] = {}
        self._called: dict[str, str] = {}  # from a key's name in the run to this store's name for it
        self._backlog = Backlog(timeout_s + 5.0)
        self._recent = Recent()
        self._number, self._lock = 0, Lock()
        self._bytes = 0  # of all its keys
        self._desk = -1  # the server that gives places in this store's rounds
        self._optimizer: Optimizer | None = None
        self._compressor: Compressor | None = None
        self._fixed = None if compression is None or private else Plan.of(compression)
        if self._fixed is not None:
            self._compressor = Compressor.of(self._fixed, self.rank)
        self._in_place = InPlace(shell.transport.sharing)
        self._needs_whole = False  # the optimizer does not take slices
        shell.rests.append(self.rest)

    @property
    def rank(self) -> int:
        return self._coordinator.rank

    @cached_property
    def _who(self) -> str:
        """This worker, for error texts; once, because checks are made for every key."""
        return f"worker {self.rank}"

    @property
    def num_workers(self) -> int:
        return self._coordinator.num_workers

    # --- keys ---------------------------------------------------------------------------------------------------------

    def init(
        self, key: Key | Sequence[Key], value: Any, *, fuse: bool = False, whole: bool = False, rows: bool = False
    ) -> None:
        names, (values,) = as_lists(key, value)
        check_new(names, self._entries)
        arrays = [np.ascontiguousarray(host_array(v)).reshape(np.shape(host_array(v))) for v in values]
        self._bytes += sum(a.nbytes for a in arrays)
        if self._bytes >= STREAMED_BYTES:
            stream.prepare()
        cut = cut_name(fuse, whole or self._needs_whole, rows, self._compressor is not None)
        if rows:
            check_rows_kept(names, arrays)
        specs = [key_spec(n, self._global(n), a, cut) for n, a in zip(names, arrays, strict=True)]
        layouts = self._coordinator.declare(
            self._gate.name, self.reduce, specs, self._timeout_s, store=self.number, private=self._private
        )
        shared = bundles(layouts)
        places = {k: (b, i) for b in shared for i, k in enumerate(b.names)}
        for name, layout, array in zip(names, layouts, arrays, strict=True):
            self._entries[name] = Entry(layout, array.shape, array.dtype, *places.get(layout.key, ()))
            self._called[layout.key] = name
        self._register(layouts)
        everywhere = f"init of store {self.number}"
        if self.rank == self._coordinator.chief and not self._coordinator.passed(everywhere):
            self._run(init_jobs(shared, layouts, arrays, (self.number, self._gate.name, self.reduce)), None).result()
        self._coordinator.barrier(everywhere, self._timeout_s)

    def batches(self, nbytes: Mapping[str, int]) -> list[tuple[str, ...]]:
        return batches(nbytes, lambda name: self._entry(name).bundle)

    def _register(self, layouts: Sequence[KeyLayout]) -> None:
        """Tell the client of new slices; the server of the store's first one gives places in its rounds."""
        slices = {s.id: None for layout in layouts for s in layout.slices}
        if self._desk < 0 and layouts:
            self._desk = layouts[0].slices[0].server
        elif self._gate.asks and self._pushed:
            raise ConfigError(
                f"under mode {self._gate.name} all keys are initialised before the first push, because a round belongs "
                "to all of them; call init for these keys earlier"
            )
        self._shell.register([(i, self._gate, self.number, self._desk) for i in slices])
        self._clocks |= self._shell.past_clocks(slices)

    @property
    def number(self) -> int:
        """Which of the script's stores this is, from 1, in the order of first use; asking is using."""
        with self._lock:
            if not self._number:
                self._number = self._shell.number_store()
            return self._number

    def _own_number(self) -> int:
        return self.number

    def _global(self, name: str) -> str:
        """The key's name among those of all stores of the run."""
        return name if self.number == 1 else f"{name} (store {self.number})"

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise KeyNotInitializedError(
                f"worker {self.rank}: key {name!r} is not initialised: "
                f"call kv.init({name!r}, value) on every worker first{meant(name, self._entries)}"
            )
        return entry

    def keys(self) -> list[str]:
        return sorted(self._entries)

    def slice_names(self) -> list[tuple[int, str]]:
        """Slices that messages name, and the keys that lie in them."""
        return [(s.id, key) for key, entry in list(self._entries.items()) for s in entry.layout.slices]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the keys that some worker has initialised, though this one may not have."""
        known = self._coordinator.layouts(self._gate.name, self.reduce, self.number, self._timeout_s)
        suffix = self._global("")
        return {k.key.removesuffix(suffix): tuple(k.shape) for k in known if k.key.endswith(suffix)}

    def layout(self, key: Key) -> KeyLayout:
        """Which server holds which part of a key."""
        return self._entry(as_lists(key)[0][0]).layout

    # --- push and pull ------------------------------------------------------------------------------------------------

    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> Future[None]:
        self._heed()
        jobs: list[Job] = []
        known = self._recent.find("push", key, value, None)
        if known is None:
            names, (values,) = as_lists(key, value)
            entries, arrays = [], []
            for name, v in zip(names, values, strict=True):
                entry, rows = self._entry(name), merge_rows(v)
                if rows is not None:
                    jobs += self._row_jobs(name, entry, rows, priority)
                    continue
                arrays.append(self._fitting(name, entry, v))
                entries.append(entry)
            known = Exchange(entries, arrays, None, [], self._called)
            if len(entries) == len(names):
                self._recent.keep("push", key, value, None, known)
        known = known.gathered(self._shell.lies_well)
        moved = known.copied_bytes(lambda a: a.array is not None and not self._shell.lies_well(a.array))
        self._backlog.make_room(moved)
        copied = known.copied(self._kept_copy)
        self._advise()
        jobs += self._jobs(copied, priority)
        with Held(self._shell.transport.wake):  # a push that is handed over is one that `flush` waits for
            call = self._run(jobs, None)
            self._backlog.keep(call, moved)
            return self._remember(call)

    def _kept_copy(self, a: Alone) -> Array | None:
        """What is pushed of an array that the caller may write to at once."""
        if a.array is None or self._shell.lies_well(a.array) or self._encodes(a.entry):
            return a.array
        return self._copy(a.array)

    def _row_jobs(self, name: str, entry: Entry, value: RowSparse, priority: int) -> list[Job]:
        who = f"worker {self.rank}"
        check_row_push(who, name, value, entry.shape, entry.dtype, entry.layout.cut)
        check_mean(who, name, entry.dtype, self.reduce)
        self._clocks.update(s.id for s in entry.layout.slices)
        return push_jobs(entry.layout, value, priority)

    def _pull_rows(self, names: list[str], row_ids: list[Any], priority: int) -> list[RowSparse]:
        jobs: list[Job] = []
        found: list[RowSparse] = []
        for name, wanted in zip(names, row_ids, strict=True):
            entry = self._entry(name)
            if not row_width(entry.layout):
                raise ConfigError(f"key {name!r} is not kept by rows: kv.init({name!r}, value, rows=True)")
            ids = wanted_rows(name, wanted, entry.shape)
            memory = np.empty((ids.size, row_width(entry.layout)), entry.dtype)
            jobs += pull_jobs(entry.layout, ids, memory, priority)
            found.append(RowSparse(ids, memory.reshape(ids.size, *entry.shape[1:]), entry.shape))
        self._run(jobs, None).result()
        return found

    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> Future[Any]:
        self._heed()
        known = None if out is None else self._recent.find("pull", key, None, out)
        if known is None:
            names, (outs,) = as_lists(key, out)
            known = self._reads(names, outs)
            if out is not None:
                self._recent.keep("pull", key, None, out, known)
        jobs = self._jobs(known, priority)
        return self._note_reading(self._run(jobs, _like(key, known.results), large=known.large))

    def _reads(self, names: list[str], outs: list[Any]) -> Exchange:
        entries = [self._entry(n) for n in names]
        targets = [self._target(n, e, o) for n, e, o in zip(names, entries, outs, strict=True)]
        return Exchange(entries, None, [flat for _, flat in targets], [t for t, _ in targets], self._called)

    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Future[Any]:
        return self._remember(self._pushpull(key, value, out, priority, waits=False))

    def pushpull(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Any:
        return self._awaited(self._pushpull(key, value, out, priority, waits=True))

    def encoding(self, key: Key) -> Encoding | None:
        entry = self._entry(as_lists(key)[0][0])
        compressor = self._reading(entry.layout.slices[0].id)
        if entry.bundle is not None or compressor is None or not compressor.fits(entry.dtype):
            return None
        return compressor.encoding([(s.id, s.start, s.stop) for s in entry.layout.slices])

    def pushpull_encoded(self, key: Key, encoded: Encoded, out: Array, priority: int = 0) -> Future[Any]:
        self._heed()
        name = as_lists(key)[0][0]
        entry = self._entry(name)
        _, flat = self._target(name, entry, out)
        self._advise()
        jobs = self._encoded_jobs(entry, encoded, flat, priority)
        return self._remember(self._submit(jobs, Group(len(jobs), out)))

    def _pushpull(self, key: Key | Sequence[Key], value: Any, out: Any, priority: int, waits: bool) -> Call:
        self._heed()
        known = self._recent.find("pushpull", key, value, out)
        if known is None:
            names, (values, outs) = as_lists(key, value, out)
            entries = [self._entry(n) for n in names]
            arrays = [self._fitting(n, e, v) for n, e, v in zip(names, entries, values, strict=True)]
            places = [in_place(v) if o is None else o for v, o in zip(values, outs, strict=True)]
            targets = [self._target(n, e, p) for n, e, p in zip(names, entries, places, strict=True)]
            flats, results = [flat for _, flat in targets], [t for t, _ in targets]
            known = Exchange(entries, arrays, flats, results, self._called)
            self._recent.keep("pushpull", key, value, out, known)
        moving, copied = known, 0
        if any(a.overlaps for a in known.alone):
            copied = known.copied_bytes(lambda a: a.overlaps)
            self._backlog.make_room(copied)
            moving = known.copied(self._apart)
        self._advise()
        group = Group(known.slices, _like(key, known.results), large=known.large)
        call = self._begin(moving, priority, group, waits)
        self._backlog.keep(call, copied)
        return call

    def _apart(self, a: Alone) -> Array | None:
        """What is pushed where the answer would be written over the question."""
        return self._copy(a.array) if a.overlaps and a.array is not None else a.array

    def view_async(self, key: Key | Sequence[Key], value: Any = None, priority: int = 0) -> Future[Any]:
        call = self._view(key, value, priority, waits=False)
        return self._note_reading(call) if value is None else self._remember(call)

    def view(self, key: Key | Sequence[Key], value: Any = None, priority: int = 0) -> Any:
        return self._awaited(self._view(key, value, priority, waits=True))

    def _view(self, key: Key | Sequence[Key], value: Any, priority: int, waits: bool) -> Call:
        self._heed()
        known = self._recent.find("view", key, value, None)
        if known is None:
            names, (values,) = as_lists(key, value)
            entries = [self._entry(n) for n in names]
            arrays = None
            if value is not None:
                arrays = [self._fitting(n, e, v) for n, e, v in zip(names, entries, values, strict=True)]
            known = Exchange(entries, arrays, None, [], self._called)
            if arrays is not None:
                self._recent.keep("view", key, value, None, known)
        group = ReadingGroup(self._in_place, known, isinstance(key, str | int))
        return self._begin(group.call, priority, group, waits)

    def alloc(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Array:
        array = self._shell.transport.sharing.arena.array((shape,) if isinstance(shape, int) else shape, dtype)
        if array is None:
            return super().alloc(shape, dtype)
        array[...] = 0
        return array

    def alloc_like(self, key: Key | Sequence[Key], value: Any) -> Any:
        names, (values,) = as_lists(key, value)
        made: list[Any] = [None] * len(names)
        shared: dict[int, tuple[Bundle, list[tuple[str, int]]]] = {}
        for i, (name, v) in enumerate(zip(names, values, strict=True)):
            entry = self._entry(name)
            check_fit(self._who, "asks for memory for pushes of", name, merge_devices(v), entry.shape, entry.dtype)
            if entry.bundle is None:
                made[i] = self.alloc(entry.shape, entry.dtype)
            else:
                shared.setdefault(entry.bundle.id, (entry.bundle, []))[1].append((entry.layout.key, i))
        for bundle, members in shared.values():
            parts = bundle.cut(self.alloc(bundle.size, bundle.dtype))
            for i, part in zip(bundle.order(members, self._called), parts, strict=True):
                made[i] = part.reshape(self._entry(names[i]).shape)
        return made[0] if isinstance(key, str | int) else made

    def _encodes(self, entry: Entry) -> bool:
        """Whether a push of this key is done with the caller's array when the call returns."""
        first = entry.layout.slices[0].id
        compressor = self._compressing(first, self._clocks[first])
        return compressor is not None and compressor.fits(entry.dtype)

    def _copy(self, array: Array) -> Array:
        """A copy that need not be copied again to be sent."""
        copy = self._shell.room(array.shape, array.dtype)
        np.copyto(copy, array)
        return copy

    def _fitting(self, name: str, entry: Entry, value: Any) -> Array:
        if type(value) is not np.ndarray:
            value = merge_devices(value)
        if value.shape != entry.shape or value.dtype != entry.dtype:
            value = host_array(value)  # it may only be of another byte order
            check_fit(self._who, "pushes", name, value, entry.shape, entry.dtype)
        if entry.dtype.kind != "f":
            check_mean(self._who, name, entry.dtype, self.reduce)
        return value if value.flags.c_contiguous else np.ascontiguousarray(value)

    def _target(self, name: str, entry: Entry, out: Any) -> tuple[Any, Array]:
        """Where a value is to go: the caller's object, and its memory, flat."""
        if out is None:
            out = np.empty(entry.shape, entry.dtype)
        memory = writable(self._who, name, out, entry.shape, entry.dtype)
        return out, memory.reshape(-1)

    def _advise(self) -> None:
        """Say once that compression does not pay, if that has become clear."""
        advice = "" if self._compressor is None else self._compressor.advice(self._link())
        if advice:
            log.warning("worker %d: %s", self.rank, advice, extra=event("compression does not pay", advice))

    def _link(self) -> Link:
        c = self._shell.core.counters
        return Link(c.bytes_acknowledged, c.pushing_s)

    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        plan = Plan.of(compression_params)
        if self._fixed is not None and plan.spec() != self._fixed.spec():
            raise ConfigError(
                f"the script asks for compression {plan.spec()!r}, but the run was started with --compression "
                f"{self._fixed.spec()}. Drop one of them."
            )
        self.flush()
        before = self._compressor if self._switch is None else None  # each slice may have another
        self._compress(Compressor.of(plan, self.rank, self._optimizer, before))

    @property
    def compression(self) -> str:
        return "" if self._compressor is None else self._compressor.plan.spec()

    def compression_report(self) -> dict[str, Any] | None:
        return None if self._compressor is None else self._compressor.report(self._link())

    # --- the rest -----------------------------------------------------------------------------------------------------

    def set_optimizer(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float] | None = None,
        wd_mult: dict[str, float] | None = None,
        rule: str | Rule | None = None,
        keys: Key | Sequence[Key] | None = None,
    ) -> None:
        check_rule(optimizer)
        names = self._own_keys(keys)
        check_whole(optimizer, [n for n in names or self._entries if len(self._entries[n].layout.slices) > 1])
        self._needs_whole = optimizer.whole if not names else self._needs_whole
        if self._compressor is not None:
            self._compressor.check(optimizer)
        self._optimizer = optimizer
        corrects, lr, wd = parse(rule), multipliers(lr_mult), multipliers(wd_mult)
        self._meet(f"before set_optimizer of store {self.number}")
        installed = f"set_optimizer of store {self.number}"
        if self.rank == self._coordinator.chief and not self._coordinator.passed(installed):
            spec = optimizer.spec()
            request = SetOptimizer(
                worker=0,
                incarnation=0,
                seq=0,
                store=self.number,
                name=spec.name,
                params=spec.params,
                rule="" if corrects is None else corrects.spec(),
                keys=tuple(map(self._global, names)),
                lr_mult={self._global(k): v for k, v in lr.items()},
                wd_mult={self._global(k): v for k, v in wd.items()},
            )
            self._ask_all(request)
            if not names:
                self._settled(optimizer)
        self._hyper = self._hyper if names else {}
        self._coordinator.barrier(installed, self._timeout_s)

    def _own_keys(self, keys: Key | Sequence[Key] | None) -> list[str]:
        """The keys that are to have an optimizer of their own; none for all."""
        names = chosen_keys(keys)
        check_own([n for n in names if self._entry(n).bundle is not None])
        return names

    def flush(self) -> None:
        self._recall()
        errors = [e for call in list(self._under_way) if (e := self._outcome(call)) is not None]
        if errors:
            raise errors[0]

    def _outcome(self, call: Call) -> BaseException | None:
        """Wait for a push; its error, unless somebody has it already."""
        try:
            error = call.peek(self._timeout_s + 5.0)
        except TimeoutError as e:
            raise StoreTimeoutError(f"worker {self.rank}: the I/O thread does not answer") from e
        self._under_way.pop(call, None)
        return None if call.taken else error

    def _awaited(self, call: Call) -> Any:
        """Wait for a push at once. One whose wait is interrupted is under way like any other."""
        try:
            return call.result()
        except BaseException:
            if not call.done():
                self._remember(call)
            raise
        finally:
            self._taken_up(call)

    def close(self) -> None:
        """Flush, and tell the servers that nobody need wait for this worker; it may still read, and what it reads from
        now on (the run's result) is not compressed."""
        self.flush()
        self._closed = True
        if self._number:
            self._ask_all(Retire(worker=0, incarnation=0, seq=0, store=self._number))

    def private(self, mode: str, reduce: str) -> KVStore:
        return DistKVStore(mode, reduce, self._coordinator, self._shell, self._timeout_s, private=True)

    def note_read(self) -> None:
        lanes = self._shell.core.lanes
        versions = {lanes[s.id].pulled for e in self._entries.values() for s in e.layout.slices if s.id in lanes}
        if versions:
            self._shell.core.counters.skew[max(versions) - min(versions)] += 1

    def ledger(self) -> dict[str, int]:
        c = self._shell.core.counters
        counts = {"sent": c.sent, "acknowledged": c.acknowledged, "retries": c.retries, "dropped": c.dropped}
        counts["bytes_shared"] = self._shell.transport.sharing.spared_bytes
        return {**counts, "bytes_pushed": c.bytes_pushed, "bytes_dense": c.bytes_dense, "bytes_pulled": c.bytes_pulled}

    def server_stats(self) -> list[dict[str, Any]]:
        replies = self._ask_all(Stats(seq=0)).replies
        return [reply.data for reply in replies if isinstance(reply, StatsReply)]

    def _ask_all(self, request: Message) -> Group:
        """Ask every server the same, and wait for the answers."""
        jobs = [Job(server=s, request=request) for s in self._shell.core.links]
        group = Group(len(jobs))
        self._submit(jobs, group).result()
        return group


def _like(key: Key | Sequence[Key], results: list[Any]) -> Any:
    """One result for one key, a list for a list: a new one, for the caller."""
    return results[0] if isinstance(key, str | int) else list(results)
