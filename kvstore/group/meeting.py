"""Which workers share a host, and how they become a group.

Every worker says which machine it is on, by adding a row to a table that is zero elsewhere: the sum, which the run's
own store makes, is the same for all, and so is what follows from it. Nothing new travels over the network.
"""

import os
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from shoal.kvstore.group.communicator import Alone, Communicator
from shoal.kvstore.group.shared import SharedCommunicator

__all__ = ["ID_BYTES", "Hosts", "meet", "this_host"]

ID_BYTES = 128
"""Of what a group of GPUs is founded on: NCCL's size."""


class Summing(Protocol):
    """The calls of a store with ``reduce="sum"`` that a meeting needs."""

    def init(self, key: Any, value: Any) -> None: ...
    def pushpull(self, key: Any, value: Any, out: Any = None) -> Any: ...


def this_host() -> bytes:
    """What tells this machine from others: 16 bytes. ``SHOAL_HOST`` stands in for it, to try several hosts on one."""
    named = os.environ.get("SHOAL_HOST")
    if named is None:
        boot = Path("/proc/sys/kernel/random/boot_id")
        named = f"{socket.gethostname()} {boot.read_text() if boot.exists() else ''}"
    return blake2b(named.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Hosts:
    """Who is where: pure arithmetic on the hosts' names by rank.

    Attributes:
        of: for each rank, the number of its host; hosts are numbered in the order of their smallest ranks.
        rank: of this worker.
    """

    of: tuple[int, ...]
    rank: int

    @classmethod
    def found(cls, names: Sequence[bytes], rank: int) -> "Hosts":
        """From the name of each rank's host."""
        numbers: dict[bytes, int] = {}
        return cls(tuple(numbers.setdefault(name, len(numbers)) for name in names), rank)

    @property
    def count(self) -> int:
        """How many hosts there are."""
        return max(self.of) + 1

    @property
    def members(self) -> tuple[int, ...]:
        """Ranks of the workers on this host, this one included, in order."""
        return tuple(r for r, host in enumerate(self.of) if host == self.of[self.rank])

    @property
    def local(self) -> int:
        """This worker's place among them."""
        return self.members.index(self.rank)

    @property
    def even(self) -> bool:
        """Whether every host has as many workers."""
        return len({self.of.count(host) for host in range(self.count)}) == 1


def meet(store: Summing, rank: int, workers: int) -> tuple[Hosts, Communicator]:
    """Find out who is where, and make the group of this host, in memory that its members share. Every worker calls it.

    Args:
        store: of the run, with ``reduce="sum"``; two keys of it are used.
    """
    names = np.zeros((workers, 16), np.float32)  # numbers below 256: sums of one of them with zeros are exact
    names[rank] = np.frombuffer(this_host(), np.uint8)
    hosts = Hosts.found([row.astype(np.uint8).tobytes() for row in _summed(store, "group/hosts", names)], rank)
    ids = np.zeros((hosts.count, 16), np.float32)
    if hosts.local == 0:
        ids[hosts.of[rank]] = np.frombuffer(secrets.token_bytes(16), np.uint8)
    name = _summed(store, "group/ids", ids)[hosts.of[rank]].astype(np.uint8).tobytes().hex()
    if len(hosts.members) == 1:
        return hosts, Alone()
    return hosts, SharedCommunicator(name, hosts.local, len(hosts.members))


def _summed(store: Summing, key: str, mine: Any) -> Any:
    store.init(key, np.zeros_like(mine))
    return store.pushpull(key, mine, np.empty_like(mine))
