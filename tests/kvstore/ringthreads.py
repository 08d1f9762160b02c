"""All-reduce stores in one process: real sockets and shells in threads, membership by a fake."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shoal.kvstore.placement import Placement
from shoal.kvstore.ring.node import RingNode
from shoal.kvstore.ring.store import AllReduceKVStore
from shoal.kvstore.wire.messages import KeyLayout, KeySpec


class FakeMembership:
    """One worker's coordinator; all of a cluster share numbers of keys and the barrier."""

    mode = "allreduce"

    def __init__(self, rank: int, cluster: "RingCluster") -> None:
        self.rank, self.num_workers, self._cluster = rank, cluster.workers, cluster

    def barrier(self, name: str, timeout_s: float) -> None:
        self._cluster.gate.wait(20.0)

    def declare(
        self,
        gate: str,
        reduce: str,
        specs: Sequence[KeySpec],
        timeout_s: float,
        *,
        store: int = 1,
        private: bool = False,
    ) -> tuple[KeyLayout, ...]:
        with self._cluster.lock:
            known = self._cluster.placement.layouts
            self._cluster.placement.add([s for s in specs if s.key not in known])
            return tuple(known[s.key] for s in specs)


class RingCluster:
    """``workers`` nodes joined by loopback sockets."""

    def __init__(self, workers: int, timeout_s: float = 20.0) -> None:
        self.workers, self.timeout_s = workers, timeout_s
        self.placement, self.lock = Placement(1), threading.Lock()
        self.gate = threading.Barrier(workers)
        self.numbers = [itertools.count(1) for _ in range(workers)]
        self.nodes = [RingNode("127.0.0.1") for _ in range(workers)]
        addresses = {r: f"127.0.0.1:{n.port}" for r, n in enumerate(self.nodes)}
        for r, node in enumerate(self.nodes):
            node.join(r, 1, "run", addresses, timeout_s)

    def store(self, rank: int, reduce: str = "mean", algorithm: str = "auto") -> AllReduceKVStore:
        member, numbers = FakeMembership(rank, self), self.numbers[rank]
        shell = self.nodes[rank].shell
        return AllReduceKVStore(reduce, member, shell, lambda: next(numbers), self.timeout_s, algorithm)

    def each(self, work: Callable[[AllReduceKVStore], Any], reduce: str = "mean", algorithm: str = "auto") -> list[Any]:
        """Run ``work`` on every worker at once; the results by rank."""
        stores = [self.store(r, reduce, algorithm) for r in range(self.workers)]
        with ThreadPoolExecutor(self.workers) as pool:
            return [f.result(60.0) for f in [pool.submit(work, s) for s in stores]]

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@contextlib.contextmanager
def ring_cluster(workers: int, timeout_s: float = 20.0) -> Iterator[RingCluster]:
    cluster = RingCluster(workers, timeout_s)
    try:
        yield cluster
    finally:
        cluster.close()
