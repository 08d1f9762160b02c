"""Stores of a cluster whose workers reduce on each host first."""

from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.client.shell import ClientShell
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.group.base import GroupStore
from shoal.kvstore.group.device import DeviceKVStore
from shoal.kvstore.group.hosts import HostsKVStore
from shoal.kvstore.group.meeting import meet
from shoal.kvstore.ring.node import RingNode
from shoal.kvstore.ring.store import AllReduceKVStore
from shoal.worker.algo import Algo

__all__ = ["grouped"]


def grouped(
    membership: Any, shell: ClientShell, ring: RingNode, mode: str, reduce: str, timeout_s: float
) -> GroupStore:
    """The store of a ``mode`` of `shoal.kvstore.api.GROUPED`. Every worker calls it.

    Args:
        membership: of the cluster.
        shell, ring: ends of what goes through servers, and through an all-reduce.
    Raises:
        ConfigError: the hosts need servers among them, and there are none; or one host's store is asked for on several.
    """
    without = membership.mode == "allreduce"
    summing: Any
    if without:
        summing = AllReduceKVStore("sum", membership, ring.shell, shell.number_store, timeout_s)
    else:
        summing = DistKVStore("bsp", "sum", membership, shell, timeout_s, private=True)
    hosts, group = meet(summing, membership.rank, membership.num_workers)
    summing.close()
    if mode == "device":
        return DeviceKVStore(hosts, group, reduce)
    if without:
        raise ConfigError(
            "kvstore 'dist_device_sync' reduces among the hosts through servers, and this run has none: start it with "
            "shoal run -s 1; or use 'device' on one host, 'allreduce' on several"
        )
    gate = f"kasync:{hosts.count}" if mode == "device_sync" else "asp"
    stores = [
        DistKVStore(gate, reduce, membership, shell, timeout_s, private=True)
        for _ in range(HostsKVStore.owners_of(hosts))
    ]
    made = HostsKVStore(hosts, group, reduce, stores, f"dist_{mode}")
    codec = Algo.parse(membership.algo).codec
    if codec:
        made.set_gradient_compression(codec)
    return made
