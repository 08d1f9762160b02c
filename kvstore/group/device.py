"""``kvstore="device"``: the processes of one host reduce among themselves, and each key is updated once."""

from concurrent.futures import Future
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array
from shoal.kvstore.codecs import Encoded, Spec
from shoal.kvstore.group.base import GroupStore
from shoal.kvstore.group.communicator import Communicator
from shoal.kvstore.group.meeting import Hosts
from shoal.kvstore.local import LocalKVStore

__all__ = ["DeviceKVStore"]


class DeviceKVStore(GroupStore):
    """Keys of one host, without servers. The owner of a key has its optimizer's state, and makes its update.

    Numbers are those of ``dist_sync`` with as many workers, to the bit: sums are taken in rank order (but for halves,
    whose mean is rounded once more). In a process by itself it is a `LocalKVStore`.

    Raises:
        ConfigError: the workers are on several hosts.
    """

    type = "device"

    def __init__(self, hosts: Hosts, group: Communicator, reduce: str = "mean") -> None:
        if hosts.count > 1:
            raise ConfigError(
                f"kvstore 'device' is for the processes of one host; these {len(hosts.of)} workers are on "
                f"{hosts.count}. Use 'dist_device_sync', with servers (shoal run -s 1)"
            )
        self._local = LocalKVStore(reduce)
        super().__init__(hosts, group, reduce, [self._local])

    def _create(self, names: list[str], values: list[Array], fuse: bool, whole: bool) -> None:
        for name, value in zip(names, values, strict=True):
            self.group.broadcast(value)
            if self._owner[name] == self.group.rank:
                self._local.init(name, value, whole=whole)

    def average(self, total: Any) -> None:
        if self.reduce == "mean":
            total /= total.dtype.type(self.group.size)

    def deliver(self, name: str, value: "Array | Encoded", out: Array) -> "Future[Any]":
        """Update here."""
        return self._local.pushpull_async(name, value, out)

    def set_gradient_compression(self, compression_params: Spec | None) -> None:
        if compression_params is not None:
            raise ConfigError("gradient compression: nothing of a store of type 'device' goes over a network")

    def server_stats(self) -> list[dict[str, Any]]:
        return self._local.server_stats()
