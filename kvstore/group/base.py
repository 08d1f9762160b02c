"""What stores share that reduce on the host first: keys with owners, and one thread that makes the collectives."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np

from shoal.errors import ConfigError, KeyNotInitializedError
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array
from shoal.kvstore.checks import check_fit, check_mean, check_new, writable
from shoal.kvstore.codecs import Encoded
from shoal.kvstore.given import Key, as_lists, host_array, in_place, merge_devices
from shoal.kvstore.group.communicator import Communicator
from shoal.kvstore.group.meeting import ID_BYTES, Hosts
from shoal.kvstore.rules import Rule
from shoal.ops.gpu.device import Gpu
from shoal.ops.gpu.nccl import NcclCommunicator, nccl_id
from shoal.ops.optim import Optimizer

__all__ = ["GroupStore", "owners"]


def owners(sizes: Sequence[int], loads: list[int]) -> list[int]:
    """Which member owns each of these keys: whoever owns the fewest bytes so far, the first of equals.

    The same on every member, since it depends on what all of them know.

    Args:
        sizes: in bytes.
        loads: bytes that each member owns already; updated.
    """
    found = []
    for size in sizes:
        least = loads.index(min(loads))
        loads[least] += size
        found.append(least)
    return found


class GroupStore(KVStore):
    """Keys that the members of a host's group reduce before anything else happens to them.

    Each key has an owner in the group, which gets the sum, does what is to be done with it once, and tells the others:
    each member does 1/n of the work, and of the traffic. Every member makes the same calls in the same order, of the
    same keys; a thread of the store makes them collective in that order, so that calls return at once.

    Args:
        hosts: who is where.
        group: of this host.
        reduce: "mean" or "sum", over all workers.
        stores: that update the values.
    """

    def __init__(self, hosts: Hosts, group: Communicator, reduce: str, stores: Sequence[KVStore]) -> None:
        self.hosts, self.group, self.reduce = hosts, group, reduce
        self._stores = list(stores)
        self._values: dict[str, Array] = {}
        self._owner: dict[str, int] = {}
        self._loads = [0] * group.size
        self._thread = ThreadPoolExecutor(1, "shoal-group")
        self._under_way: list[Future[Any]] = []
        self._lock = Lock()
        self._bytes = [0, 0]  # pushed, pulled
        self._pushes = 0

    @property
    def rank(self) -> int:
        return self.hosts.rank

    @property
    def num_workers(self) -> int:
        return len(self.hosts.of)

    @property
    def _who(self) -> str:
        return f"worker {self.rank}"

    # --- what a kind of store does with a key -------------------------------------------------------------------------

    @abstractmethod
    def _create(self, names: list[str], values: list[Array], fuse: bool, whole: bool) -> None:
        """Make the keys, and put into ``values`` what counts: worker 0's."""

    @abstractmethod
    def average(self, total: Any) -> None:
        """Make of a group's sum what it contributes, in place: on the host or on a GPU."""

    @abstractmethod
    def deliver(self, name: str, value: "Array | Encoded", out: Array) -> "Future[Any]":
        """The owner has what its group contributes: do what follows; ``out`` has the new value when the future is done.

        Args:
            value: as `average` leaves it; it may be ``out``.
        """

    def contribute(self, name: str, total: Array) -> "Future[Any]":
        """The owner has the sum of its group: `average`, and `deliver`."""
        self.average(total)
        return self.deliver(name, total, total)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def init(
        self, key: Key | Sequence[Key], value: Any, *, fuse: bool = False, whole: bool = False, rows: bool = False
    ) -> None:
        names, (values,) = as_lists(key, value)
        check_new(names, self._values)
        if rows:
            raise ConfigError(
                f"rows=True: a store of type {self.type!r} reduces whole arrays; rows need 'local', or 'dist_sync'"
            )
        copies = [np.array(host_array(v), order="C") for v in values]
        found = owners([c.nbytes for c in copies], self._loads)
        self._owner.update(zip(names, found, strict=True))
        self._ordered(lambda: self._create(names, copies, fuse, whole)).result()
        self._values.update(zip(names, copies, strict=True))

    def agree(self, flag: bool) -> bool:
        """Whether ``flag`` holds at one member of this host's group at least. Every member calls it."""
        found = np.array([flag], np.float32)
        self._ordered(lambda: self.group.all_reduce(found)).result()
        return bool(found[0])

    def dealt(self, sizes: Sequence[int]) -> list[int]:
        """Who will own keys of so many bytes, if they are the next to be initialised, in one call."""
        return owners(sizes, list(self._loads))

    def on_gpus(self, device: Gpu) -> Communicator | None:
        """The group as one of GPUs, of which this member has ``device``; None for a group of one.

        Raises:
            ConfigError: there is no NCCL.
        """
        if self.group.size == 1:
            return None
        unique = np.zeros(ID_BYTES, np.uint8)
        if self.group.rank == 0:
            unique[:] = np.frombuffer(nccl_id(), np.uint8)
        self._ordered(lambda: self.group.broadcast(unique)).result()
        return NcclCommunicator(device, unique.tobytes(), self.group.rank, self.group.size)

    def _value(self, name: str) -> Array:
        if name not in self._values:
            raise KeyNotInitializedError(
                f"{self._who}: key {name!r} is not initialised: call kv.init({name!r}, value) on every worker first"
            )
        return self._values[name]

    def _ordered(self, work: Callable[[], Any]) -> "Future[Any]":
        """``work``, behind everything that was asked for before, on the store's thread."""
        future = self._thread.submit(work)
        with self._lock:
            self._under_way = [f for f in self._under_way if not f.done() or f.exception() is not None]
            self._under_way.append(future)
        return future

    def _shared(self, names: list[str], arrays: list[Array]) -> None:
        """Reduce the arrays in the group, let the owners work, and have their results in ``_values``."""
        answers: dict[str, tuple[Array, Future[Any]]] = {}
        for name, array in zip(names, arrays, strict=True):
            total = array.copy()
            owner = self._owner[name]
            self.group.reduce(total, owner)
            if owner == self.group.rank:
                answers[name] = total, self.contribute(name, total)
        for name in names:
            value = self._values[name]
            if name in answers:
                total, answer = answers[name]
                answer.result()
                np.copyto(value, total)
            self.group.broadcast(value, self._owner[name])

    def _fitting(self, name: str, value: Any) -> Array:
        have, array = self._value(name), merge_devices(value)
        check_fit(self._who, "pushes", name, array, have.shape, have.dtype)
        check_mean(self._who, name, have.dtype, self.reduce)
        self._bytes[0] += array.nbytes
        self._pushes += 1
        return array if array.flags.c_contiguous else array.copy(order="C")

    def _pushed(self, names: list[str], values: list[Any]) -> list[Array]:
        return [self._fitting(n, v) for n, v in zip(names, values, strict=True)]

    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> "Future[None]":
        names, (values,) = as_lists(key, value)
        arrays = [a.copy() for a in self._pushed(names, values)]
        return self._ordered(lambda: self._shared(names, arrays))

    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> "Future[Any]":
        names, (outs,) = as_lists(key, out)
        give = self._giving(key, names, outs)
        return self._ordered(give)

    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> "Future[Any]":
        names, (values, outs) = as_lists(key, value, out)
        places = [in_place(v) if o is None else o for v, o in zip(values, outs, strict=True)]
        arrays, give = self._pushed(names, values), self._giving(key, names, places)

        def work() -> Any:
            self._shared(names, arrays)
            return give()

        return self._ordered(work)

    def _giving(self, key: Key | Sequence[Key], names: list[str], outs: list[Any]) -> Callable[[], Any]:
        """A function that writes the keys' values to where they are wanted, and returns that."""
        targets = [np.empty_like(self._value(n)) if o is None else o for n, o in zip(names, outs, strict=True)]
        places = [
            writable(self._who, n, t, self._value(n).shape, self._value(n).dtype)
            for n, t in zip(names, targets, strict=True)
        ]

        def give() -> Any:
            for name, place in zip(names, places, strict=True):
                np.copyto(place, self._values[name])
                self._bytes[1] += place.nbytes
            return targets[0] if isinstance(key, str | int) else targets

        return give

    # --- the rest -----------------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        self.flush()
        self._ordered(self.group.barrier).result()

    def flush(self) -> None:
        with self._lock:
            waiting, self._under_way = self._under_way, []
        for future in waiting:
            future.result()

    def close(self) -> None:
        """Flush, end the thread, and leave the group; a second call is harmless."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            self.group.close()

    def held(self) -> dict[str, Array]:
        """Copies of all values; also of a store that is closed."""
        return {name: value.copy() for name, value in self._values.items()}

    def slice_names(self) -> list[tuple[int, str]]:
        """Numbers that messages name, and the keys that they stand for: those of this store have none."""
        return []

    def keys(self) -> list[str]:
        return sorted(self._values)

    def ledger(self) -> dict[str, int]:
        n = self._pushes
        counts = {"sent": n, "acknowledged": n, "retries": 0, "bytes_dense": self._bytes[0]}
        return {**counts, "bytes_pushed": self._bytes[0], "bytes_pulled": self._bytes[1]}

    def set_optimizer(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float] | None = None,
        wd_mult: dict[str, float] | None = None,
        rule: str | Rule | None = None,
        keys: Key | Sequence[Key] | None = None,
    ) -> None:
        if keys is not None:
            raise ConfigError(f"set_optimizer(keys=...): a store of type {self.type!r} has one optimizer for all keys")
        self._ordered(lambda: [s.set_optimizer(optimizer, lr_mult, wd_mult, rule) for s in self._stores]).result()
