"""Stores that only reduce: what they share, and the base of those that users write (MXNet's ``KVStoreBase``)."""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array
from shoal.kvstore.checks import check_new, not_initialised, writable
from shoal.kvstore.codecs import Spec
from shoal.kvstore.given import Key, as_lists, host_array, in_place, merge_devices
from shoal.kvstore.rules import Rule
from shoal.ops.optim import Optimizer

__all__ = ["KVStoreBase", "ReducingKVStore", "done"]


def done(result: Any) -> "Future[Any]":
    """A future that has its result already."""
    future: Future[Any] = Future()
    future.set_result(result)
    return future


class ReducingKVStore(KVStore):
    """A store that reduces and does not update; what it cannot do is refused with the reason."""

    def set_optimizer(
        self,
        optimizer: Optimizer,
        lr_mult: dict[str, float] | None = None,
        wd_mult: dict[str, float] | None = None,
        rule: str | Rule | None = None,
        keys: Key | Sequence[Key] | None = None,
    ) -> None:
        raise ConfigError(
            f"set_optimizer: a store of type {self.type!r} only reduces; the update is made on the workers: leave "
            "Trainer's update_on_kvstore out, or apply an optimizer to what pushpull gives"
        )

    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        if compression_params is not None:
            raise ConfigError(
                f"gradient compression: a store of type {self.type!r} adds contributions on their way, and what codecs "
                "make cannot be added. Use a store with servers (shoal run -s 1 --mode sync)."
            )

    def is_capable(self, capability: str) -> bool:
        """False for ``"optimizer"``, and for everything that is not known."""
        return False

    def server_stats(self) -> list[dict[str, Any]]:
        """There are no servers."""
        return []

    def _refuse_rows(self, rows: bool) -> None:
        if rows:
            raise ConfigError(
                f"rows=True: a store of type {self.type!r} reduces whole arrays; rows need servers (shoal run -s 1)"
            )


class KVStoreBase(ReducingKVStore):
    """A store of your own: write `rank`, `num_workers`, `broadcast_array` and `reduce_array`.

    What follows from them is here: `init` is a broadcast of worker 0's value; `pull` reads that value until the key is
    first reduced; `pushpull` reduces a copy of the value into ``out``, or the value itself in place. The optimizer runs
    on the workers (`Trainer` sees to it). See `shoal.kv.register`.

    Args:
        reduce: "mean" or "sum", for `reduce_array` to heed.
    """

    type = ""
    reduce = "mean"

    def __init__(self, reduce: str = "mean") -> None:
        self.reduce = reduce
        self._first: dict[str, Array | None] = {}  # None once it has been reduced
        self._first_lock = Lock()

    @property
    @abstractmethod
    def rank(self) -> int: ...

    @property
    @abstractmethod
    def num_workers(self) -> int: ...

    @abstractmethod
    def broadcast_array(self, key: str, array: Array) -> None:
        """Overwrite ``array`` with that of worker 0. Every worker calls it."""

    @abstractmethod
    def reduce_array(self, key: str, array: Array) -> None:
        """Overwrite ``array`` with the mean of all workers', or with ``self.reduce == "sum"`` the sum.

        Every worker calls it, for the same keys in the same order.
        """

    # --- what follows from them ---------------------------------------------------------------------------------------

    def init(
        self, key: Key | Sequence[Key], value: Any, *, fuse: bool = False, whole: bool = False, rows: bool = False
    ) -> None:
        """As `KVStore.init`; there are no slices, so that ``fuse`` and ``whole`` change nothing."""
        names, (values,) = as_lists(key, value)
        check_new(names, self._first)
        self._refuse_rows(rows)
        for name, v in zip(names, values, strict=True):
            copy = np.array(host_array(v), order="C")
            self.broadcast_array(name, copy)
            with self._first_lock:
                self._first[name] = copy

    def pull_async(self, key: Key | Sequence[Key], out: Any = None, priority: int = 0) -> "Future[Any]":
        names, (outs,) = as_lists(key, out)
        results = [self._read(n, o) for n, o in zip(names, outs, strict=True)]
        return done(results[0] if isinstance(key, str | int) else results)

    def _read(self, name: str, out: Any) -> Any:
        value = self._value(name)
        if value is None:
            raise ConfigError(
                f"pull of {name!r}: a store of type {self.type!r} holds no values once they are reduced; pushpull "
                "gives the result where it is asked for"
            )
        if out is None:
            return value.copy()
        np.copyto(writable(f"worker {self.rank}", name, out, value.shape, value.dtype), value)
        return out

    def _value(self, name: str) -> Array | None:
        if name not in self._first:
            raise not_initialised(name)
        return self._first[name]

    def pushpull_async(self, key: Key | Sequence[Key], value: Any, out: Any = None, priority: int = 0) -> "Future[Any]":
        """`pushpull`, which has waited when this returns, as a future."""
        names, (values, outs) = as_lists(key, value, out)
        places = [in_place(v) if o is None else o for v, o in zip(values, outs, strict=True)]
        results = [self._reduced(n, v, p) for n, v, p in zip(names, values, places, strict=True)]
        return done(results[0] if isinstance(key, str | int) else results)

    def _reduced(self, name: str, value: Any, place: Any) -> Any:
        self._value(name)
        array = merge_devices(value)
        target = np.empty(array.shape, array.dtype) if place is None else place
        memory = writable(f"worker {self.rank}", name, target, array.shape, array.dtype)
        if memory is not array:
            np.copyto(memory, array)
        self.reduce_array(name, memory)
        with self._first_lock:
            self._first[name] = None
        return target

    def push_async(self, key: Key | Sequence[Key], value: Any, priority: int = 0) -> "Future[None]":
        raise ConfigError(
            f"push: a store of type {self.type!r} has no place where a contribution could wait for its reader; use "
            "pushpull, which every worker calls"
        )

    def barrier(self) -> None:
        """Wait for the other workers: an empty reduction, unless the store knows better."""
        self.reduce_array("barrier", np.zeros(1))

    def flush(self) -> None:
        """Nothing is ever under way."""

    def close(self) -> None:
        """Nothing to give back."""

    def keys(self) -> list[str]:
        return sorted(self._first)

    def ledger(self) -> dict[str, int]:
        """Nothing is counted."""
        names = ("sent", "acknowledged", "retries", "bytes_pushed", "bytes_dense", "bytes_pulled")
        return dict.fromkeys(names, 0)
