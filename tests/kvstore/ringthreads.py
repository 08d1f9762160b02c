"""All-reduce stores in one process: real sockets and shells in threads, membership by a fake."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shoal.kvstore.ring.node import RingNode
from shoal.kvstore.ring.store import AllReduceKVStore
from tests.kvstore.membership import FakeMembership, Meeting
from tests.patience import PATIENCE_S


class RingCluster:
    """``workers`` nodes joined by loopback sockets."""

    def __init__(self, workers: int, timeout_s: float = PATIENCE_S) -> None:
        self.workers, self.timeout_s = workers, timeout_s
        self.meeting = Meeting(workers, mode="allreduce")
        self.numbers = [itertools.count(1) for _ in range(workers)]
        self.nodes = [RingNode("127.0.0.1") for _ in range(workers)]
        addresses = {r: f"127.0.0.1:{n.port}" for r, n in enumerate(self.nodes)}
        for r, node in enumerate(self.nodes):
            node.join(r, 1, "run", addresses, timeout_s)

    def store(self, rank: int, reduce: str = "mean", algorithm: str = "auto") -> AllReduceKVStore:
        member, numbers = FakeMembership(rank, self.meeting), self.numbers[rank]
        shell = self.nodes[rank].shell
        return AllReduceKVStore(reduce, member, shell, lambda: next(numbers), self.timeout_s, algorithm)

    def each(self, work: Callable[[AllReduceKVStore], Any], reduce: str = "mean", algorithm: str = "auto") -> list[Any]:
        """Run ``work`` on every worker at once; the results by rank."""
        stores = [self.store(r, reduce, algorithm) for r in range(self.workers)]
        with ThreadPoolExecutor(self.workers) as pool:
            return [f.result(2 * PATIENCE_S) for f in [pool.submit(work, s) for s in stores]]

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@contextlib.contextmanager
def ring_cluster(workers: int, timeout_s: float = PATIENCE_S) -> Iterator[RingCluster]:
    cluster = RingCluster(workers, timeout_s)
    try:
        yield cluster
    finally:
        cluster.close()
