"""A whole store in one process: real sockets and shells in threads, membership by a fake."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shoal.kvstore.client.core import ClientCore
from shoal.kvstore.client.shell import ClientShell
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.placement import SLICE_BYTES
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.loop import Loop
from shoal.kvstore.wire.transport import Transport
from tests.kvstore.membership import FakeMembership, Meeting
from tests.kvstore.simnet import roster
from tests.patience import PATIENCE_S


class ThreadCluster:
    """``workers`` stores on ``servers`` servers, joined by loopback sockets."""

    def __init__(self, workers: int, servers: int, mode: str = "", slice_bytes: int = SLICE_BYTES) -> None:
        self.workers, self.mode = workers, mode
        self.meeting = Meeting(workers, servers, mode, slice_bytes)
        self._loops: list[tuple[Loop, threading.Thread]] = []
        self.shells: list[ServerShell] = []
        self.addresses = [self._serve(rank) for rank in range(servers)]
        self.members = [FakeMembership(r, self.meeting) for r in range(workers)]
        self._clients = [self._connect(r) for r in range(workers)]

    def _serve(self, rank: int) -> str:
        transport = Transport(f"server{rank}")
        port = transport.bind("127.0.0.1")
        shell = ServerShell(transport)
        shell.start(rank, 1, "run")
        shell.roster(roster(self.workers))
        self.shells.append(shell)
        self._drive(Loop(transport, {"": shell}))
        return f"127.0.0.1:{port}"

    def _connect(self, rank: int) -> ClientShell:
        transport = Transport(f"w{rank}")
        for i, address in enumerate(self.addresses):
            transport.connect(f"server{i}", address)
        loop = Loop(transport, {})
        shell = ClientShell(transport, ClientCore(rank, 1, "run", len(self.addresses), PATIENCE_S), loop)
        loop.drivers[""] = shell
        self._drive(loop)
        return shell

    def _drive(self, loop: Loop) -> None:
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        self._loops.append((loop, thread))

    def store(self, rank: int, mode: str = "", reduce: str = "mean") -> DistKVStore:
        return DistKVStore(mode, reduce, self.members[rank], self._clients[rank], PATIENCE_S)

    def each(self, work: Callable[[DistKVStore], Any], mode: str = "", reduce: str = "mean") -> list[Any]:
        """Run ``work`` on every worker at once; the results by rank."""
        stores = [self.store(r, mode, reduce) for r in range(self.workers)]
        with ThreadPoolExecutor(self.workers) as pool:
            return [f.result(2 * PATIENCE_S) for f in [pool.submit(work, s) for s in stores]]

    def close(self) -> None:
        for loop, _ in self._loops:
            loop.stop()
        for loop, thread in self._loops:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
            loop.transport.close(0.0)


@contextlib.contextmanager
def thread_cluster(
    workers: int, servers: int, mode: str = "", slice_bytes: int = SLICE_BYTES
) -> Iterator[ThreadCluster]:
    cluster = ThreadCluster(workers, servers, mode, slice_bytes)
    try:
        yield cluster
    finally:
        cluster.close()
