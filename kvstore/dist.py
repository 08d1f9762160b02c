"""The store of a cluster: keys sharded over servers."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from shoal.errors import ConfigError, KeyNotInitializedError, StoreTimeoutError
from shoal.kvstore.api import Coordinator, Key, KVStore, as_lists, host_array, in_place, merge_devices, multipliers
from shoal.kvstore.arrays import Array, as_payload
from shoal.kvstore.checks import check_fit, check_mean, check_new, check_rule, writable
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.shell import Call, ClientShell, Group
from shoal.kvstore.codecs import Compressor, Spec, whole_rows
from shoal.kvstore.gates import mode_label, parse_gate
from shoal.kvstore.wire.messages import Init, KeyLayout, KeySpec, Retire, SetOptimizer, Stats, StatsReply
from shoal.kvstore.wire.schema import ITEM_BYTES, Message
from shoal.ops.optim import Optimizer

__all__ = ["DistKVStore"]


@dataclass(frozen=True)
class _Entry:
    layout: KeyLayout
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class DistKVStore(KVStore):
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
    """

    def __init__(
        self, mode: str, reduce: str, coordinator: Coordinator, shell: ClientShell, timeout_s: float = 600.0
    ) -> None:
        self._gate = parse_gate(mode or coordinator.mode or "bsp")
        self.type = {"bsp": "dist_sync", "asp": "dist_async"}.get(self._gate.name, f"dist_{self._gate.name}")
        if coordinator.mode and self._gate.name != coordinator.mode:
            raise ConfigError(
                f"the script asks for kvstore {self.type!r}, but the run was started with --mode "
                f"{mode_label(coordinator.mode)}. Drop --mode, or ask for 'dist', which is whatever the run is."
            )
        self.reduce = reduce
        self._coordinator, self._shell, self._timeout_s = coordinator, shell, timeout_s
        self._entries: dict[str, _Entry] = {}
        self._under_way: dict[Call, None] = {}  # pushes not yet counted, and those whose error nobody has seen
        self._number, self._lock = 0, Lock()
        self._compressor: Compressor | None = None

    @property
    def rank(self) -> int:
        return self._coordinator.rank

    @property
    def num_workers(self) -> int:
        return self._coordinator.num_workers

    # --- keys ---------------------------------------------------------------------------------------------------------

    def init(self, key: Key | Sequence[Key], value: Any) -> None:
        names, (values,) = as_lists(key, value)
        check_new(names, self._entries)
        arrays = [np.ascontiguousarray(host_array(v)).reshape(np.shape(host_array(v))) for v in values]
        specs = [self._spec(n, a) for n, a in zip(names, arrays, strict=True)]
        layouts = self._coordinator.declare(self._gate.name, self.reduce, specs, self._timeout_s)
        for name, layout, array in zip(names, layouts, arrays, strict=True):
            self._entries[name] = _Entry(layout, array.shape, array.dtype)
        self._shell.register([(s.id, self._gate) for layout in layouts for s in layout.slices])
        if self.rank == 0:
            jobs = [j for layout, a in zip(layouts, arrays, strict=True) for j in self._init_jobs(layout, a)]
            self._run(jobs, None).result()
        self._coordinator.barrier(f"init of store {self.number}", self._timeout_s)

    @property
    def number(self) -> int:
        """Which of the script's stores this is, from 1, in the order of first use; asking is using."""
        with self._lock:
            if not self._number:
                self._number = self._shell.number_store()
            return self._number

    def _global(self, name: str) -> str:
        """The key's name among those of all stores of the run."""
        return name if self.number == 1 else f"{name} (store {self.number})"

    def _spec(self, name: str, array: Array) -> KeySpec:
        if array.dtype.str not in ITEM_BYTES:
            raise ConfigError(f"key {name!r}: dtype {array.dtype} cannot travel; known: {' '.join(ITEM_BYTES)}")
        return KeySpec(key=self._global(name), dtype=array.dtype.str, shape=array.shape)

    def _init_jobs(self, layout: KeyLayout, array: Array) -> list[Job]:
        flat = array.reshape(-1)
        return [
            Job(
                server=s.server,
                key=layout.key,
                request=Init(
                    seq=0,
                    store=self.number,
                    slice=s.id,
                    key=layout.key,
                    gate=self._gate.name,
                    reduce=self.reduce,
                    value=as_payload(flat[s.start : s.stop]),
                ),
            )
            for s in layout.slices
        ]

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise KeyNotInitializedError(
                f"worker {self.rank}: key {name!r} is not initialised: "
                f"call kv.init({name!r}, value) on every worker first"
            )
        return entry

    def keys(self) -> list[str]:
        return sorted(self._entries)

    def layout(self, key: Key) -> KeyLayout:
        """Which server holds which part of a key."""
        return self._entry(as_lists(key)[0][0]).layout

    # --- push and pull ------------------------------------------------------------------------------------------------

    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> Future[None]:
        names, (values,) = as_lists(key, value)
        arrays = [self._fitting(n, merge_devices(v)).copy() for n, v in zip(names, values, strict=True)]
        jobs = [j for n, a in zip(names, arrays, strict=True) for j in self._jobs(n, a, None, priority)]
        return self._remember(self._run(jobs, None))

    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> Future[Any]:
        names, (outs,) = as_lists(key, out)
        targets = [self._target(n, o) for n, o in zip(names, outs, strict=True)]
        jobs = [j for n, (_, flat) in zip(names, targets, strict=True) for j in self._jobs(n, None, flat, priority)]
        return self._run(jobs, _like(key, [t for t, _ in targets]))

    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Future[Any]:
        names, (values, outs) = as_lists(key, value, out)
        jobs, results = [], []
        for name, v, o in zip(names, values, outs, strict=True):
            array = self._fitting(name, merge_devices(v))
            target, flat = self._target(name, in_place(v) if o is None else o)
            if np.may_share_memory(array, flat):
                array = array.copy()  # the answer is written where the question still lies
            jobs += self._jobs(name, array, flat, priority)
            results.append(target)
        return self._remember(self._run(jobs, _like(key, results)))

    def _fitting(self, name: str, array: Array) -> Array:
        entry = self._entry(name)
        check_fit(f"worker {self.rank}", "pushes", name, array, entry.shape, entry.dtype)
        check_mean(f"worker {self.rank}", name, entry.dtype, self.reduce)
        return np.ascontiguousarray(array)

    def _target(self, name: str, out: Any) -> tuple[Any, Array]:
        """Where a value is to go: the caller's object, and its memory, flat."""
        entry = self._entry(name)
        target = np.empty(entry.shape, entry.dtype) if out is None else out
        return target, writable(f"worker {self.rank}", name, target, entry.shape, entry.dtype).reshape(-1)

    def _jobs(self, name: str, array: Array | None, out: Array | None, priority: int) -> list[Job]:
        """One job a slice: a push if there is an ``array``, a read if there is an ``out``."""
        flat = None if array is None else array.reshape(-1)
        jobs, layout = [], self._entry(name).layout
        for s in layout.slices:
            job = Job(server=s.server, slice=s.id, key=layout.key, priority=priority, want=out is not None)
            if flat is not None:
                self._load(job, flat[s.start : s.stop], whole_rows(layout.shape, s.start, s.stop))
            job.token = None if out is None else out[s.start : s.stop]
            jobs.append(job)
        return jobs

    def _load(self, job: Job, part: Array, columns: int) -> None:
        """Make the job a push of ``part``, compressed if the store compresses."""
        compressor = self._compressor
        if compressor is None or not compressor.fits(part.dtype):
            job.payload, job.payload_bytes = as_payload(part), part.nbytes
            return
        parts = compressor.encode(job.slice, part, columns)
        job.payload, *more = [as_payload(p) for p in parts]
        job.codec, job.more = compressor.spec, tuple(more)
        job.payload_bytes, job.dense_bytes = sum(p.nbytes for p in parts), part.nbytes
        job.undo = lambda: compressor.give_back(job.slice, parts)

    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        self.flush()
        self._compressor = Compressor.of(compression_params, self.rank)

    def _run(self, jobs: list[Job], result: Any) -> Call:
        return self._submit(jobs, Group(len(jobs), result))

    def _submit(self, jobs: list[Job], group: Group) -> Call:
        for job in jobs:
            job.token = (group, job.token)
        self._shell.submit(jobs)
        return group.future

    # --- the rest -----------------------------------------------------------------------------------------------------

    def set_optimizer(
        self, optimizer: Optimizer, lr_mult: dict[str, float] | None = None, wd_mult: dict[str, float] | None = None
    ) -> None:
        check_rule(optimizer)
        self.flush()
        self._coordinator.barrier(f"before set_optimizer of store {self.number}", self._timeout_s)
        if self.rank == 0:
            spec = optimizer.spec()
            request = SetOptimizer(
                worker=0,
                incarnation=0,
                seq=0,
                store=self.number,
                name=spec.name,
                params=spec.params,
                lr_mult={self._global(k): v for k, v in multipliers(lr_mult).items()},
                wd_mult={self._global(k): v for k, v in multipliers(wd_mult).items()},
            )
            self._ask_all(request)
        self._coordinator.barrier(f"set_optimizer of store {self.number}", self._timeout_s)

    def barrier(self) -> None:
        self.flush()
        self._coordinator.barrier("user", self._timeout_s)

    def flush(self) -> None:
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

    def _remember(self, call: Call) -> Call:
        self._under_way[call] = None
        call.add_done_callback(self._forget)
        return call

    def _forget(self, call: Future[Any]) -> None:
        """On the I/O thread. A push that failed is kept until somebody hears of it."""
        if isinstance(call, Call) and call.peek() is None:
            self._under_way.pop(call, None)

    def close(self) -> None:
        """Flush, and tell the servers that nobody need wait for this worker; it may still read."""
        self.flush()
        if self._number:
            self._ask_all(Retire(worker=0, incarnation=0, seq=0, store=self._number))

    def ledger(self) -> dict[str, int]:
        c = self._shell.core.counters
        counts = {"sent": c.sent, "acknowledged": c.acknowledged, "retries": c.retries}
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
    """One result for one key, a list for a list."""
    return results[0] if isinstance(key, str | int) else results
