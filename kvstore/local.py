"""The store of a single process: the servers' table without servers, so that the arithmetic is the same."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore import functions
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array, wire_name
from shoal.kvstore.bundle import Bundle, batches, bundles
from shoal.kvstore.checks import (
    check_fit,
    check_mean,
    check_new,
    check_own,
    check_row_push,
    check_rows_kept,
    check_rule,
    cut_name,
    not_initialised,
    writable,
)
from shoal.kvstore.codecs import Compressor, Encoded, Encoding, Link, Plan, Spec, Switch, whole_rows
from shoal.kvstore.codecs import parse as parse_codec
from shoal.kvstore.control import altered_optimizer, check_clock, checked_settings
from shoal.kvstore.events import Contribution
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.given import Key, as_lists, chosen_keys, host_array, in_place, merge_devices, multipliers
from shoal.kvstore.placement import Placement
from shoal.kvstore.rows import RowSparse, merge_rows, wanted_rows
from shoal.kvstore.rules import Rule, parse
from shoal.kvstore.server.table import Table
from shoal.kvstore.snapshot import Cut, States
from shoal.kvstore.wire.messages import CallPart, Change, KeyLayout, KeySpec
from shoal.ops.optim import Optimizer

__all__ = ["LocalKVStore"]


class LocalKVStore(KVStore):
    """Keys in this process. Calls may come from several threads; one update at a time is carried out."""

    type = "local"

    def __init__(self, reduce: str = "mean") -> None:
        self.reduce = reduce
        self._table = Table()
        self._ids: dict[str, int] = {}
        self._pushes = self._bytes_in = self._bytes_out = 0
        self._placement = Placement(1)  # slices as a cluster would cut and number them
        self._layouts: dict[str, KeyLayout] = {}
        self._bundles: dict[str, Bundle] = {}
        self._versions: dict[str, int] = {}  # updates, by key
        self._optimizer: Optimizer | None = None
        self._compressor: Compressor | None = None
        self._switch: Switch | None = None  # once a codec has been changed at a clock
        self._changes: list[Change] = []
        self._waiting: dict[str, list[Change]] = {}  # by key, changes whose clock has not come
        self._hyper: dict[str, Any] = {}
        self._own: set[str] = set()  # keys that have an optimizer of their own
        self._absent: frozenset[str] = frozenset()
        self._lock = Lock()

    @property
    def rank(self) -> int:
        return 0

    @property
    def num_workers(self) -> int:
        return 1

    def init(
        self, key: Key | Sequence[Key], value: Any, *, fuse: bool = False, whole: bool = False, rows: bool = False
    ) -> None:
        names, (values,) = as_lists(key, value)
        check_new(names, self._ids)
        arrays = [host_array(v) for v in values]
        cut = cut_name(fuse, whole, rows, self._compressor is not None)
        if rows:
            check_rows_kept(names, arrays)
        specs = [
            KeySpec(key=n, dtype=wire_name(a.dtype), shape=a.shape, cut=cut) for n, a in zip(names, arrays, strict=True)
        ]
        with self._lock:
            for name, array, layout in zip(names, arrays, self._placement.add(specs), strict=True):
                self._table.create(len(self._ids), name, array, width=prod(array.shape[1:]) if rows else 0)
                self._layouts[name] = layout
                self._ids[name] = len(self._ids)
            self._bundles.update((k, b) for b in bundles([self._layouts[n] for n in names]) for k in b.names)

    def adopt(self, values: Mapping[str, Array]) -> None:
        """Keep keys in the caller's own memory: what is written there is their value from then on.

        Where that cannot be, because the memory is another than the last time, or has gaps, the values that are there
        now are taken over; not if pulls are compressed, whose numbers are not the store's.

        Args:
            values: by key, arrays of its shape and dtype; each has the key's value, or what shall be it.
        """
        lossy = self._compressor is not None and self._compressor.reply
        with self._lock:
            for name, array in values.items():
                cell = self._table.cells[self._ids[name]]
                if cell.value is array or lossy or not isinstance(array, np.ndarray):
                    continue
                plain = array.flags.c_contiguous and array.flags.writeable and array.dtype == cell.value.dtype
                if plain and cell.way is None and cell.view is None:  # no rule has looked at it yet
                    cell.value = array
                else:
                    np.copyto(cell.value, array, casting="no")

    def batches(self, nbytes: Mapping[str, int]) -> list[tuple[str, ...]]:
        return batches(nbytes, self._bundles.get)

    @contextmanager
    def leaving_out(self, keys: Iterable[str]) -> Iterator[None]:
        """Within this context pushes leave these keys as they are.

        In a cluster a round needs a contribution of everybody; here nobody waits for one. Keys that are fused are
        pushed together even so.
        """
        self._absent = frozenset(keys)
        try:
            yield
        finally:
            self._absent = frozenset()

    def _is_absent(self, name: str) -> bool:
        """Whether nothing that is pushed with this key counts."""
        bundle = self._bundles.get(name)
        return self._absent.issuperset((name,) if bundle is None else bundle.names)

    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> Future[None]:
        names, (values,) = as_lists(key, value)
        sparse = {n: r for n, v in zip(names, values, strict=True) if (r := merge_rows(v)) is not None}
        rows = {n: self._fitting_rows(n, r) for n, r in sparse.items()}
        dense = [(n, v) for n, v in zip(names, values, strict=True) if n not in rows and not self._is_absent(n)]
        arrays = [self._fitting(n, merge_devices(v)) for n, v in dense]
        received = [*self._received([n for n, _ in dense], arrays), *rows.items()]
        with self._lock:  # one call of push is one contribution
            for name, value in received:
                if name not in self._absent:
                    self._push(name, value)
        return _done(None)

    def _fitting_rows(self, name: str, rows: RowSparse) -> RowSparse:
        value = self._value(name)
        check_row_push("worker 0", name, rows, value.shape, value.dtype, self._layouts[name].cut)
        check_mean("worker 0", name, value.dtype, self.reduce)
        return rows.merged().flat()

    def _pull_rows(self, names: list[str], row_ids: list[Any], priority: int) -> list[RowSparse]:
        found = []
        for name, wanted in zip(names, row_ids, strict=True):
            value = self._value(name)
            if self._layouts[name].cut != "rows":
                raise ConfigError(f"key {name!r} is not kept by rows: kv.init({name!r}, value, rows=True)")
            ids = wanted_rows(name, wanted, value.shape)
            with self._lock:
                found.append(RowSparse(ids, value[ids], value.shape))
                self._table.was_read(self._ids[name], 0)
                self._bytes_out += found[-1].rows.nbytes
        return found

    def _fitting(self, name: str, array: Array) -> Array:
        value = self._value(name)
        check_fit("worker 0", "pushes", name, array, value.shape, value.dtype)
        check_mean("worker 0", name, value.dtype, self.reduce)
        return array

    def _received(self, names: list[str], arrays: list[Array]) -> list[tuple[str, Array]]:
        """What servers would receive: compression changes the numbers here as it does in a cluster."""
        found: list[tuple[str, Array]] = []
        fused: dict[int, tuple[Bundle, list[tuple[str, int]]]] = {}
        for i, (name, array) in enumerate(zip(names, arrays, strict=True)):
            bundle = self._bundles.get(name)
            if bundle is None:
                found.append((name, self._compressed(name, array)))
            else:
                fused.setdefault(bundle.id, (bundle, []))[1].append((name, i))
        for bundle, members in fused.values():
            ordered = [arrays[i] for i in bundle.order(members, {})]
            compressor = self._compressing(bundle.id, self._versions.get(bundle.names[0], 0))
            if compressor is not None and compressor.fits(bundle.dtype):
                flat = compressor.round_trip(bundle.id, bundle.gather([a.reshape(-1) for a in ordered]).read())
                ordered = [p.reshape(a.shape) for p, a in zip(bundle.cut(flat), ordered, strict=True)]
            found += zip(bundle.names, ordered, strict=True)
        return found

    def _compressed(self, name: str, array: Array) -> Array:
        clock, flat = self._versions.get(name, 0), np.ascontiguousarray(array).reshape(-1)
        parts = []
        for s in self._layouts[name].slices:
            compressor, part = self._compressing(s.id, clock), flat[s.start : s.stop]
            if compressor is None or not compressor.fits(array.dtype):
                return array
            parts.append(compressor.round_trip(s.id, part, whole_rows(array.shape, s.start, s.stop)))
        return np.concatenate(parts).reshape(array.shape)

    def encoding(self, key: Key) -> Encoding | None:
        (name,), _ = as_lists(key)
        dtype, slices = self._value(name).dtype, self._layouts[name].slices
        compressor = self._compressor if self._switch is None else self._switch.now(slices[0].id)
        if name in self._bundles or compressor is None or not compressor.fits(dtype):
            return None
        return compressor.encoding([(s.id, s.start, s.stop) for s in slices])

    def pushpull_encoded(self, key: Key, encoded: Encoded, out: Array, priority: int = 0) -> Future[Any]:
        (name,), _ = as_lists(key)
        value, clock = self._value(name), self._versions.get(name, 0)
        received = np.empty(value.size, value.dtype)
        for s, parts in zip(self._layouts[name].slices, encoded.parts, strict=True):
            compressor, part = self._compressing(s.id, clock), received[s.start : s.stop]
            if compressor is None or not compressor.fits(value.dtype):
                parse_codec(encoded.spec).decode(parts, part)
            else:
                compressor.codec.decode(compressor.take(s.id, encoded.spec, parts, part), part)
        with self._lock:
            self._push(name, received.reshape(value.shape))
        return self.pull_async(key, out, priority)

    def _compressing(self, slice_id: int, clock: int) -> Compressor | None:
        if self._switch is None:
            return self._compressor
        found = self._switch.at(slice_id, clock)
        self._compressor = self._switch.latest
        return found

    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        before = self._compressor if self._switch is None else None  # each slice may have another
        self._compressor = Compressor.of(compression_params, 0, self._optimizer, before)
        if self._switch is not None:
            self._switch.reset(self._compressor)

    @property
    def compression(self) -> str:
        return "" if self._compressor is None else self._compressor.plan.spec()

    def compression_report(self) -> dict[str, Any] | None:
        return None if self._compressor is None else self._compressor.report(Link(0, 0.0))

    def _push(self, name: str, array: Array | RowSparse) -> None:
        self._table.accumulate(self._ids[name], 0, array)
        failed = self._table.apply(self._ids[name], (Contribution(0, 0, 0),), self.reduce)
        self._versions[name] = self._versions.get(name, 0) + 1
        self._settle(name)
        self._pushes += 1
        self._bytes_in += array.nbytes
        if failed:
            raise failed[0][1]

    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> Future[Any]:
        names, (outs,) = as_lists(key, out)
        targets = [self._target(n, o) for n, o in zip(names, outs, strict=True)]
        for name, (_, memory) in zip(names, targets, strict=True):
            with self._lock:
                if not np.may_share_memory(memory, self._value(name)):  # see `adopt`
                    np.copyto(memory, self._seen(name))
                self._table.was_read(self._ids[name], 0)
                self._bytes_out += memory.nbytes
        results = [t for t, _ in targets]
        return _done(results[0] if isinstance(key, str | int) else results)

    def _snapshot(
        self, names: list[str], outs: list[Any], priority: int, timeout_s: float | None, states: States | None
    ) -> tuple[list[Any], Cut]:
        targets = [self._target(n, o) for n, o in zip(names, outs, strict=True)]
        with self._lock:
            for name, (_, memory) in zip(names, targets, strict=True):
                np.copyto(memory, self._value(name))
                self._bytes_out += memory.nbytes
            most = max((self._versions.get(n, 0) for n in names), default=0)
            if states is not None:
                cells = [self._table.cells[self._ids[n]] for n in names]
                copies = [{s: a.copy() for s, a in (c.state or {}).items()} for c in cells]
                states |= {n: (c.updates, kept) for n, c, kept in zip(names, cells, copies, strict=True)}
        return [t for t, _ in targets], Cut(clocks={0: most})

    def _seen(self, name: str) -> Array:
        """What a worker would read: compression of pulls changes the numbers here as it does in a cluster."""
        value, bundle = self._value(name), self._bundles.get(name)
        first = bundle.id if bundle is not None else self._layouts[name].slices[0].id
        compressor = self._compressor if self._switch is None else self._switch.now(first)
        if compressor is None or not compressor.reply or value.dtype.kind != "f":
            return value
        version = self._versions.get(name, 0)
        if bundle is not None:
            flat = compressor.seen(
                bundle.id, bundle.gather([self._value(n).reshape(-1) for n in bundle.names]).read(), version
            )
            return bundle.cut(flat)[bundle.names.index(name)].reshape(value.shape)
        flat = value.reshape(-1)
        parts = [compressor.seen(s.id, flat[s.start : s.stop], version) for s in self._layouts[name].slices]
        return np.concatenate(parts).reshape(value.shape)

    def _target(self, name: str, out: Any) -> tuple[Any, Array]:
        """Where a value is to go: the caller's object, and its memory."""
        value = self._value(name)
        target = np.empty_like(value) if out is None else out
        return target, writable("worker 0", name, target, value.shape, value.dtype)

    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Future[Any]:
        names, (values, outs) = as_lists(key, value, out)
        places = [in_place(v) if o is None else o for v, o in zip(values, outs, strict=True)]
        targets = [self._target(n, p)[0] for n, p in zip(names, places, strict=True)]
        self.push_async(key, value, priority)
        return self.pull_async(key, targets[0] if isinstance(key, str | int) else targets, priority)

    def set_optimizer(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float] | None = None,
        wd_mult: dict[str, float] | None = None,
        rule: str | Rule | None = None,
        keys: Key | Sequence[Key] | None = None,
    ) -> None:
        check_rule(optimizer)
        names = chosen_keys(keys)
        check_own([n for n in names if self._value(n) is not None and n in self._bundles])
        if self._compressor is not None:
            self._compressor.check(optimizer)
        self._optimizer = optimizer if not names else self._optimizer
        self._own = self._own | set(names) if names else set()
        self._hyper = self._hyper if names else {}
        with self._lock:
            self._table.configure(optimizer, multipliers(lr_mult), multipliers(wd_mult), rule=parse(rule), keys=names)

    def control(self, at_clock: int | None = None, **settings: Any) -> int:
        present = None if self._optimizer is None else altered_optimizer(self._optimizer, self._hyper)
        spec = None if present is None else present.spec()
        found = checked_settings(settings, parse_gate("bsp"), spec, self.gradients)
        clock = max(self._versions.values(), default=0) if at_clock is None else check_clock(at_clock)
        with self._lock:
            change = Change(number=len(self._changes) + 1, store=1, settings=found, at_clock=clock, by="worker 0")
            self._changes.append(change)
            if "codec" in found:
                self._switch = Switch(self._compressor) if self._switch is None else self._switch
                self._switch.add(clock, Compressor.of(Plan.of(found["codec"]), 0, present), change.number)
            self._hyper |= {n: v for n, v in found.items() if n != "codec"}
            for name in self._ids:
                self._waiting.setdefault(name, []).append(change)
                self._settle(name)
        return change.number

    def _settle(self, name: str) -> None:
        """Let a key take the changes whose clock has come."""
        waiting = self._waiting.get(name)
        if not waiting:
            return
        for change in [c for c in waiting if c.at_clock <= self._versions.get(name, 0)]:
            waiting.remove(change)
            hyper = {n: v for n, v in change.settings.items() if n != "codec"}
            if hyper and name not in self._own:
                self._table.alter(self._ids[name], change.number, hyper)

    @property
    def altered(self) -> dict[str, Any]:
        return dict(self._hyper)

    def call(self, function: str, key: Key | Sequence[Key] | None = None, /, **args: Any) -> list[Any]:
        found = functions.find(function)
        given = functions.plain(args, f"the arguments of {function!r}")
        names = self.keys() if key is None else as_lists(key)[0]
        results = []
        for name in names:
            self._value(name)
            cell, version = self._table.cells[self._ids[name]], self._versions.get(name, 0)
            for s in self._layouts[name].slices:
                part = CallPart(slice=s.id, key=name, start=s.start, stop=s.stop, offset=s.start)
                seen = {"version": version, "clock": version, "args": given}
                with self._lock:
                    results.append(functions.run(found, part, cell.value, cell.state or {}, **seen))
        return results

    def barrier(self) -> None:
        """Nobody to wait for."""

    def flush(self) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """Nothing to give back."""

    def keys(self) -> list[str]:
        return sorted(self._ids)

    def ledger(self) -> dict[str, int]:
        n = self._pushes
        counts = {"sent": n, "acknowledged": n, "retries": 0, "dropped": 0, "bytes_dense": self._bytes_in}
        return {**counts, "bytes_pushed": self._bytes_in, "bytes_pulled": self._bytes_out}

    def server_stats(self) -> list[dict[str, Any]]:
        n = self._pushes
        ledger = {"0": {"applied": n, "rejected": 0, "dropped": 0, "duplicate": 0}}
        traffic = {"bytes_in": self._bytes_in, "bytes_out": self._bytes_out, "malformed": 0}
        return [{"ledger": ledger, "staleness": {"0": {"0": n}}, "updates": n, "slices": len(self._ids), **traffic}]

    def optimizer_states(self) -> dict[str, tuple[int, Any]]:
        """Number of updates and state of the update rule, by key."""
        return {k: (self._table.cells[i].updates, self._table.cells[i].state) for k, i in self._ids.items()}

    def load_states(self, states: States) -> None:
        with self._lock:
            for name, (updates, arrays) in states.items():
                self._value(name)
                self._table.reinstate(self._ids[name], updates, {n: np.asarray(a) for n, a in arrays.items()})

    def restore(self, values: Mapping[str, Any], states: Mapping[str, tuple[int, Any]]) -> None:
        """Put back values, and what `optimizer_states` gave."""
        with self._lock:
            for name, value in values.items():
                cell = self._table.cells[self._ids[name]]
                np.copyto(cell.value, host_array(value), casting="no")
                cell.updates, cell.state = states.get(name, (0, cell.state))

    def _value(self, name: str) -> Array:
        if name not in self._ids:
            raise not_initialised(name)
        return self._table.cells[self._ids[name]].value


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
