"""What users hold: `create` and the `KVStore` interface."""

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array
from shoal.kvstore.checks import not_initialised
from shoal.kvstore.codecs import Encoded, Encoding, Spec
from shoal.kvstore.coordinator import Coordinator
from shoal.kvstore.gates import canonical_mode, gate_names
from shoal.kvstore.given import Key, as_lists, chosen_keys, merge_devices
from shoal.kvstore.group import GROUPED
from shoal.kvstore.placement import FUSE_BYTES
from shoal.kvstore.rows import RowSparse, each_out, into_rows
from shoal.kvstore.rules import Rule
from shoal.kvstore.snapshot import Cut, Snapshot, States
from shoal.ops.optim import Optimizer

__all__ = ["Coordinator", "KVStore", "attach", "attached", "create"]


class KVStore(ABC):
    """Named arrays shared by the workers of a run: MXNet's interface.

    ``key`` and ``value`` may be lists of the same length. The value of one key may itself be a list of arrays, one from
    each device: they are summed first. Values are Tensors or NumPy arrays.

    Without an optimizer a push replaces the value by the reduction of the workers' contributions; with one, the
    reduction is the gradient of an update. The reduction is the mean, unless the store was created with
    ``reduce="sum"``.
    """

    type: str
    reduce: str
    gradients = True
    """Whether gradients are pushed; a strategy that pushes differences of weights says False."""

    def __repr__(self) -> str:
        return f"<kvstore {self.type!r}, worker {self.rank} of {self.num_workers}, reduce {self.reduce!r}>"

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of this worker, from 0."""

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """How many workers the run has."""

    @abstractmethod
    def init(
        self, key: Key | Sequence[Key], value: Any, *, fuse: bool = False, whole: bool = False, rows: bool = False
    ) -> None:
        """Create keys. Every worker calls it; the value of worker 0 counts. Returns when all may use the keys.

        Args:
            fuse: small keys share messages and updates, many times faster than one by one: keys of less than 64 KB, or
                1 MB if those of the call are 16 MB and more, and neither compressed nor ``whole``. They must then
                always be pushed together, in one call, or as `batches` has them; they may be pulled singly.
            whole: never slice a key over servers: for optimizers that need a norm over the whole array
                (``optimizer.whole``). After `set_optimizer` with such an optimizer keys are whole without being asked.
            rows: slice keys between their rows only, so that rows can be pushed and pulled singly: for embeddings.
        Raises:
            ShapeError, DTypeError: another worker declares the key differently; the message names both.
            ConfigError: the key exists already.
        """

    @abstractmethod
    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> Future[None]:
        """`push` as a future; the value is copied before this returns."""

    @abstractmethod
    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> Future[Any]:
        """`pull` as a future of ``out``."""

    @abstractmethod
    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Future[Any]:
        """`pushpull` as a future; do not write to ``value`` before it is done."""

    def view_async(self, key: Key | Sequence[Key], value: Any = None, priority: int = 0) -> Future[Any]:
        """`view` as a future; do not write to ``value`` before it is done."""
        if value is None:
            return _read_only(self.pull_async(key, None, priority))
        _, (values,) = as_lists(key, value)
        outs = [np.empty_like(merge_devices(v)) for v in values]
        return _read_only(self.pushpull_async(key, value, outs[0] if isinstance(key, str | int) else outs, priority))

    @abstractmethod
    def set_optimizer(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float] | None = None,
        wd_mult: dict[str, float] | None = None,
        rule: str | Rule | None = None,
        keys: Key | Sequence[Key] | None = None,
    ) -> None:
        """Let the store update its values with this optimizer. Every worker calls it; worker 0's counts.

        An optimizer of the same name as the present one keeps the state of every key (momentum and the like).

        Args:
            lr_mult, wd_mult: factors by key name, for keys where they are not 1.
            rule: corrects each contribution first, such as ``"dcasgd:lam=0.04"`` or ``"stale"``.
            keys: these keys only; every other keeps its optimizer and its state. None: all keys, also later ones.
        Raises:
            ConfigError: it is no optimizer, but its name, say; or the rule or one of its parameters is unknown.
        """

    @abstractmethod
    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        """Compress what this worker pushes from now on, and what it pulls if asked to; every worker calls it.

        Args:
            compression_params: ``"2bit:threshold=0.5"``, MXNet's ``{"type": "2bit", "threshold": 0.5}``, or None for no
                compression. ``"topk:ratio=0.01/bf16"``, or the key ``"pull"``, compresses pulls too: weights come
                rounded, and the servers keep them in full. ``docs/codecs.md`` lists the codecs. Integers travel as
                they are. What a codec holds back (its residual) is kept until the next push, also of another codec;
                None drops it.
        Raises:
            ConfigError: the codec or a parameter is unknown (the known ones are listed), or out of its range; or the
                codec is unsound on weights, or with the store's update rule; says why.
        """

    @property
    def compression(self) -> str:
        """What compresses pushes and pulls, such as ``"2bit:threshold=0.5/bf16"``; "" for nothing."""
        return ""

    def compression_report(self) -> dict[str, Any] | None:
        """What compression has cost this worker and saved; None without it.

        Returns:
            codec; encode_s, decode_s: seconds; bytes_saved; time_saved_s: what sending those would have taken at the
            throughput of this worker's pushes, None if unknown; pays: whether that is more than it cost, None if it is
            too soon to say.
        """
        return None

    def encoding(self, key: Key) -> Encoding | None:
        """How the next push of a key is encoded, for `pushpull_encoded`; None if it is not, or not by slices."""
        return None

    def pushpull_encoded(self, key: Key, encoded: Encoded, out: Array, priority: int = 0) -> Future[Any]:
        """`pushpull_async` of what was encoded elsewhere, as `encoding` says; the new value comes to ``out``.

        The parts are copied, and travel as they are: or encoded anew, if the store's codec has been changed meanwhile.
        """
        raise ConfigError(f"a store of type {self.type!r} takes no encoded gradients")

    def control(self, at_clock: int | None = None, **settings: Any) -> int:
        """Change settings while the store is in use: ``kv.control(lr=0.01, at_clock=500)``. See ``docs/control.md``.

        One worker calls it, or every worker does, in the same way: that is one change. It returns when every process
        has heard of the change, which is in force later, at its clock.

        Args:
            at_clock: each slice takes the change when it has had so many updates (a codec: when it has been pushed so
                often by the worker); if it has had more, at once. None is as soon as possible: in a synchronous run
                from the next step of the calling worker on, so that all slices take it together.
            settings: ``lr``, or any hyper-parameter of the present optimizer; ``s`` or ``max``, of the gate; ``codec``.
        Returns:
            The number of the change, from 1.
        Raises:
            ConfigError: the store cannot take such a setting or such a value; lists what it knows.
        """
        raise ConfigError(f"a store of type {self.type!r} takes no changes of settings while it is in use")

    @property
    def altered(self) -> dict[str, Any]:
        """Hyper-parameters that were changed since `set_optimizer`, as far as this worker has heard."""
        return {}

    def call(self, function: str, key: Key | Sequence[Key] | None = None, /, **args: Any) -> list[Any]:
        """Run a function that was registered with `shoal.kv.server_function` where the values are.

        Args:
            function: its name. If it writes, every worker makes the call; it is run once, after every push before it.
            key: the keys that it is run on; None for all.
            args: plain data: None, numbers, text, lists and dictionaries of them.
        Returns:
            What it returned, for one slice after another: of the first key, then of the next.
        Raises:
            ConfigError: no such function is registered here, or on a server; says which are.
            RemoteError: it failed; the text ends with the server's traceback.
        """
        raise ConfigError(f"a store of type {self.type!r} runs no server functions")

    @abstractmethod
    def barrier(self) -> None:
        """Wait until every worker has come here, and every push before it is counted.

        Nobody is waited for who waits here: whoever has more to push before the barrier pushes it alone.
        """

    @abstractmethod
    def flush(self) -> None:
        """Wait until every push of this worker is counted; raises what went wrong with any of them."""

    @abstractmethod
    def close(self) -> None:
        """Flush, and use the store no more."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Names of the keys that exist, sorted."""

    def note_read(self) -> None:  # noqa: B027  # where there are no servers, there is nothing to note
        """The values of all keys are about to be used together: take down how unlike their versions are."""

    @abstractmethod
    def ledger(self) -> dict[str, int]:
        """This worker's counts; slices count singly.

        sent, acknowledged, retries, bytes_pushed, bytes_dense (bytes_pushed without compression), bytes_pulled; a store
        with servers also says how many of these bytes it did not send, because memory is shared: bytes_shared.
        """

    @abstractmethod
    def server_stats(self) -> list[dict[str, Any]]:
        """The counters of each server: ledger and staleness by worker, updates, traffic in bytes."""

    def push(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> Future[None]:
        """Contribute to keys, without waiting; the value is copied before this returns.

        A key that occurs twice in ``key`` is pushed twice: two contributions, two updates. To add values up first, as
        MXNet does with repeated keys, give them as a list, which is the value of one key.

        Args:
            value: arrays or Tensors; for a key that was initialised with ``rows=True`` also `RowSparse`, which updates
                the rows that it has (``docs/kvstore.md``).
            priority: larger goes first. `Trainer` passes minus the layer's index: the next forward pass needs the
                first layers first (P3, Jayarajan et al., arXiv:1905.03960).
        Returns:
            Done when every server has counted the contribution; it may not be applied yet. An error that nobody
            fetches from it is raised by the next `flush`, `barrier` or `close`.
        Raises:
            KeyNotInitializedError: nobody has called ``init`` for the key.
            ShapeError, DTypeError: the value does not fit the key.
        """
        return self.push_async(key, value, priority)

    def pull(
        self,
        key: Key | Sequence[Key],
        out: Any = None,
        priority: int = 0,
        *,
        copy: bool = True,
        snapshot: bool = False,
    ) -> Any:
        """Read keys as this worker's clock may see them: in a synchronous run, with every push before it applied.

        Args:
            out: arrays or Tensors that are written in place; without it new arrays are returned.
            copy: False reads without copying where that is possible: see `view`.
            snapshot: all keys in one state: see `snapshot`.
        Raises:
            StoreTimeoutError: names who is waited for.
        """
        if snapshot:
            if not copy:
                raise ConfigError("pull: a snapshot is a copy: leave out one of snapshot=True and copy=False")
            names, (outs,) = as_lists(key, out)
            results, _ = self._snapshot(names, outs, priority, None, None)
            return results[0] if isinstance(key, str | int) else results
        if not copy:
            if out is not None:
                raise ConfigError("pull: what is written into out is a copy: leave out one of out and copy=False")
            return self.view(key, priority=priority)
        return self.pull_async(key, out, priority).result()

    def snapshot(
        self, keys: Key | Sequence[Key] | None = None, *, timeout_s: float | None = None, states: bool = False
    ) -> Snapshot:
        """Read keys in one state: of each worker's contributions the first so many, and in every key the same ones.

        Training goes on meanwhile, and nobody waits but the caller. It is for evaluation and checkpoints: for the
        staleness of what this worker pushes next it is no read. All pushes of this worker before it are in.

        Args:
            keys: keys that every worker pushes equally often; None for all that there are.
            timeout_s: deadline; None for the store's.
            states: also what the optimizer keeps of each key, in the same state, as ``states``: see `load_states`.
        Returns:
            New arrays by key; its ``cut`` says which contributions are in.
        Raises:
            StoreTimeoutError: names the worker that has not pushed a key as often as the others, and the key.
            StoreError: it never will, because it has left.
            ConfigError: this kind of store takes none.
        """
        names = chosen_keys(keys) or self.keys()
        kept: States | None = {} if states else None
        values, cut = self._snapshot(names, [None] * len(names), 0, timeout_s, kept)
        return Snapshot(dict(zip(names, values, strict=True)), cut, kept)

    def _snapshot(
        self, names: list[str], outs: list[Any], priority: int, timeout_s: float | None, states: States | None
    ) -> tuple[list[Any], Cut]:
        """The keys in one state, each in its ``out`` or in a new array, and which state that is; ``states`` get it."""
        raise ConfigError(f"a store of type {self.type!r} takes no snapshots: pull the keys")

    def load_states(self, states: States) -> None:
        """Let the optimizer go on from the ``states`` of a `snapshot`, of a store with the same keys and optimizer.

        Every worker calls it, after `set_optimizer` and before the first push; worker 0's count. The values are those
        of `init`. It does not matter how many workers and servers there were.

        Raises:
            ConfigError: the optimizer keeps other states, keys are unknown, or this kind of store takes none.
            ShapeError: a state has not the shape of its key.
        """
        raise ConfigError(f"a store of type {self.type!r} takes no states of an optimizer: they begin anew")

    def view(self, key: Key | Sequence[Key], value: Any = None, priority: int = 0) -> Any:
        """`pull`, or `pushpull` of ``value`` if there is one, as read-only arrays.

        Where a server is on this host the arrays are its own memory, and nothing is copied; otherwise they are copies.
        Either way they are valid until this worker next pushes or reads the key, or comes to a barrier, and show who
        knows what after that. A key that is sliced is one array too.
        """
        return self.view_async(key, value, priority).result()

    def alloc(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> Array:
        """An array of zeros that servers on this host can read where it is: pushing it copies nothing.

        Do not write to it between a `push` of it and the end of the future that gave: it is not copied before `push`
        returns. Where memory cannot be shared this is an ordinary array, and pushes of it are copied.
        """
        return np.zeros(shape, dtype)

    def alloc_like(self, key: Key | Sequence[Key], value: Any) -> Any:
        """`alloc` for what is pushed to these keys: an array of zeros like ``value``; for several keys a list.

        Keys that were fused lie side by side as in their slice, so that pushing them all copies nothing either; name
        them together, as a push does (see `batches`).

        Args:
            value: arrays of the keys' shapes and dtypes.
        Raises:
            KeyNotInitializedError: see `push`.
            ShapeError, DTypeError, ConfigError: of a store on servers: a value does not fit its key, or a key lacks
                that was fused with one of these. Other stores say so when it is pushed.
        """
        names, (values,) = as_lists(key, value)
        known = set(self.keys())
        for name in names:
            if name not in known:
                raise not_initialised(name)
        made = [self.alloc(v.shape, v.dtype) for v in map(merge_devices, values)]
        return made[0] if isinstance(key, str | int) else made

    def row_sparse_pull(self, key: Key | Sequence[Key], out: Any = None, row_ids: Any = None, priority: int = 0) -> Any:
        """Read some rows of keys that were initialised with ``rows=True``.

        Args:
            out: arrays of the keys' whole shape; the rows are written in place, and no others. Of one key it may be a
                list of such arrays. Without it a `RowSparse` is returned for each key, with each row once, in ascending
                order.
            row_ids: numbers of the rows, in any order and however often; for several keys a list of such. Where a key
                has a list of outs it may have a list of row_ids, one for each.
        Raises:
            ShapeError: a row is out of range.
            ConfigError: the key is not kept by rows.
        """
        names, (outs, ids) = as_lists(key, out, row_ids)
        places = [each_out(n, o, i) for n, o, i in zip(names, outs, ids, strict=True)]
        every = [n for n, each in zip(names, places, strict=True) for _ in each]
        found = iter(self._pull_rows(every, [i for each in places for _, i in each], priority))
        results: list[Any] = []
        for name, given, each in zip(names, outs, places, strict=True):
            written = [into_rows(name, next(found), o) for o, _ in each]
            results.append(written if isinstance(given, list | tuple) else written[0])
        return results[0] if isinstance(key, str | int) else results

    def batches(self, nbytes: Mapping[str, int]) -> list[tuple[str, ...]]:
        """How keys that were initialised with ``fuse=True`` are pushed if not all at once: each tuple in one call.

        What shares messages belongs together; each of the others leaves as soon as it is ready.

        Args:
            nbytes: by key, how large its value is.
        """
        small = tuple(n for n, size in nbytes.items() if size < FUSE_BYTES)
        return [*([small] if small else []), *((n,) for n, size in nbytes.items() if size >= FUSE_BYTES)]

    def _pull_rows(self, names: list[str], row_ids: list[Any], priority: int) -> list[RowSparse]:
        """The wanted rows of each key, each once."""
        raise ConfigError(f"a store of type {self.type!r} keeps no rows: pull the whole key")

    def pushpull(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Any:
        """`push`, then `pull`, in one exchange; without ``out`` the answer replaces ``value``, if that is an array."""
        return self.pushpull_async(key, value, out, priority).result()

    def broadcast(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> Any:
        """`init` with the value of worker 0, then `pull`."""
        self.init(key, value)
        return self.pull(key, out, priority)

    def private(self, mode: str, reduce: str) -> "KVStore":
        """A store on the same servers for the library's own needs: under a mode of its own, and no part of the result.

        Every worker calls it, as it calls `init`.

        Raises:
            ConfigError: this kind of store cannot make another.
        """
        raise ConfigError(f"a store of type {self.type!r} can make no other store of its kind")

    def is_capable(self, capability: str) -> bool:
        """Whether the store has a capability.

        ``"optimizer"``: it can update the values itself. ``"snapshot"``: it can read keys in one state. ``"states"``:
        ... and what the optimizer keeps of them, and can go on from that.
        """
        if capability.lower() == "states":
            return type(self).load_states is not KVStore.load_states
        if capability.lower() == "snapshot":
            return type(self)._snapshot is not KVStore._snapshot
        return capability.lower() == "optimizer"

    def __enter__(self) -> "KVStore":
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.close()


Factory: TypeAlias = Callable[[str, str], KVStore]
_attached: list[Factory] = []
_KNOWN = ("auto", "local", "dist", "dist_sync", "dist_async", "dist_ssp:S", "allreduce", "hogwild", *GROUPED)


def attach(factory: Factory | None) -> None:
    """Make ``create("dist...")`` build its store with ``factory(mode, reduce)``: the process has joined a cluster."""
    _attached.clear()
    if factory is not None:
        _attached.append(factory)


def attached() -> bool:
    """Whether this process has joined a cluster."""
    return bool(_attached)


def create(name: str = "auto", *, reduce: str = "mean", **options: Any) -> KVStore:
    """A store.

    ==================  ==========================================================================================
    ``auto``            ``dist`` in a process started by ``shoal run`` or ``shoal worker``, else ``local``
    ``local``           in this process, no servers
    ``hogwild``         in this process, shared by the threads that train in it: ``workers=4, atomic=False``
    ``dist``            on the run's servers, under the run's ``--mode`` (synchronous if none was given)
    ``dist_sync``       every worker's contribution is in before anybody goes on
    ``dist_async``      every contribution is applied at once
    ``dist_ssp:S``      at once, but nobody is more than S clocks ahead of the slowest
    ``dist_device_sync`` the same, but the workers of each host reduce there first; ``dist_device_async`` too
    ``device``          the workers of one host among themselves; each key is updated by one of them
    ``allreduce``       no servers: the workers reduce among themselves; what ``dist`` is under ``--mode allreduce``
    another name        what was registered under it with `shoal.kv.register`
    ==================  ==========================================================================================

    Args:
        reduce: ``"mean"`` over the contributions, so that the learning rate keeps its meaning whatever the number of
            workers; or ``"sum"``, which is what MXNet does.
        options: what a hogwild store, or one that was registered, takes beside it.
    Raises:
        ConfigError: an unknown name (the known ones are listed) or option, or a ``dist`` store outside a cluster.
    """
    if reduce not in ("mean", "sum"):
        raise ConfigError(f"unknown reduction {reduce!r}; known: mean, sum")
    if not isinstance(name, str):
        raise ConfigError(f"kv.create takes the name of a store, such as 'dist' or 'local'; got {name!r:.60}")
    made = _here(name, reduce, options)
    if made is not None:
        return made
    mode = _mode_of(name)
    if not _attached:
        raise ConfigError(
            f"kvstore {name!r} needs a cluster, and this process is in none. Start the script with "
            "`shoal run -n 2 -s 2 script.py`, or use 'local', or 'auto', which is right in both cases."
        )
    if options:
        raise ConfigError(f"kvstore {name!r} takes no option {', '.join(map(repr, options))}")
    return _attached[0](mode, reduce)


def _here(name: str, reduce: str, options: dict[str, Any]) -> KVStore | None:
    """A store that needs no cluster; None for one that does."""
    from shoal.kvstore import registry  # it knows the class above

    if name in ("dist", "allreduce") or name.startswith("dist_") or (name in ("auto", *GROUPED) and _attached):
        return None
    local = name in ("auto", "local")
    factory = registry.find("local" if local else name)
    if factory is None:
        raise _unknown(name, [*_KNOWN, *registry.names()])
    try:
        inspect.signature(factory).bind(reduce=reduce, **options)
    except TypeError as e:
        raise ConfigError(f"kvstore {name!r}: {e}") from e
    made: KVStore = factory(reduce=reduce, **options)
    return made


def _mode_of(name: str) -> str:
    """The canonical mode, "" for the run's own."""
    if name in ("auto", "dist"):
        return ""
    if name == "allreduce" or name in GROUPED:
        return GROUPED.get(name, name)
    try:
        return canonical_mode(name[5:])
    except ConfigError as e:
        if name[5:].partition(":")[0] in gate_names():
            raise ConfigError(f"kvstore {name!r}: {e}") from None
        raise _unknown(name, _KNOWN) from None


def _unknown(name: str, known: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, 1, 0.6)
    near = ["allreduce"] if name in ("horovod", "byteps", "ring") else near
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown kvstore {name!r}; known: {', '.join(known)}.{hint}")


def _read_only(future: Future[Any]) -> Future[Any]:
    """The same arrays, which nobody can write to."""
    sealed: Future[Any] = Future()

    def seal(done: Future[Any]) -> None:
        error = done.exception()
        if error is not None:
            sealed.set_exception(error)
            return
        result = done.result()
        for array in result if isinstance(result, list) else [result]:
            array.flags.writeable = False
        sealed.set_result(result)

    future.add_done_callback(seal)
    return sealed
