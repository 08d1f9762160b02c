"""``kvstore="dist_device_sync"``: reduce inside each host, then among the hosts through the servers."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import Array
from shoal.kvstore.codecs import Encoded, Encoding, Spec
from shoal.kvstore.given import Key, key_name
from shoal.kvstore.group.base import GroupStore
from shoal.kvstore.group.communicator import Communicator
from shoal.kvstore.group.meeting import Hosts

__all__ = ["HostsKVStore"]


class HostsKVStore(GroupStore):
    """Keys on the servers of a run, to which each host contributes once.

    Of each key the owner in a host pushes the sum of that host, divided as the mean over all workers needs it, pulls
    the new value and gives it to the others. Owners of a key are alike on all hosts, so that every member pushes and
    pulls 1/n of the bytes; where hosts have different numbers of workers, their first ones own all keys.

    With one host, or one worker on each, the bits are those of ``dist_sync``. With more, sums are taken in another
    order: of n gradients g each element differs by less than 2 (n - 1) eps mean(|g|).

    All keys are initialised before the first push. Workers neither join nor leave.

    Args:
        stores: on the servers; of the owners' n-th keys the n-th store. Each closes a round when every host has
            contributed (`shoal.kvstore.gates`: ``kasync``), or takes each contribution at once (``asp``).
        type: "dist_device_sync" or "dist_device_async".
    """

    def __init__(
        self, hosts: Hosts, group: Communicator, reduce: str, stores: Sequence[KVStore], type: str = "dist_device_sync"
    ) -> None:
        super().__init__(hosts, group, reduce, stores)
        self.type = type
        self._loads = [0] * len(stores)

    @staticmethod
    def owners_of(hosts: Hosts) -> int:
        """How many members of each host own keys."""
        return len(hosts.members) if hosts.even else 1

    def _create(self, names: list[str], values: list[Array], fuse: bool, whole: bool) -> None:
        for owner, store in enumerate(self._stores):
            chosen = [(n, v) for n, v in zip(names, values, strict=True) if self._owner[n] == owner]
            for name, value in chosen:
                store.init(name, value, whole=whole)
                store.pull(name, value)  # worker 0's

    def average(self, total: Any) -> None:
        kind = total.dtype.type
        if self.reduce == "mean" and self.hosts.even:
            total /= kind(self.group.size)
        elif self.reduce == "mean":
            total *= kind(self.hosts.count / self.num_workers)

    def deliver(self, name: str, value: "Array | Encoded", out: Array) -> "Future[Any]":
        """Push, and pull."""
        store = self._stores[self.group.rank]
        if isinstance(value, Encoded):
            return store.pushpull_encoded(name, value, out)
        return store.pushpull_async(name, value, out)

    def encoding(self, key: Key) -> Encoding | None:
        """As the store of this member has it; None for a key that another one owns."""
        name = key_name(key)
        self._value(name)
        return self._stores[self.group.rank].encoding(name) if self._owner[name] == self.group.rank else None

    @property
    def compression(self) -> str:
        return self._stores[0].compression

    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        for store in self._stores:
            store.set_gradient_compression(compression_params)

    def private(self, mode: str, reduce: str) -> KVStore:
        return self._stores[0].private(mode, reduce)

    def server_stats(self) -> list[dict[str, Any]]:
        return self._stores[0].server_stats()

    def close(self) -> None:
        """As `GroupStore.close`, and the stores on the servers."""
        super().close()
        for store in self._stores:
            store.close()
