"""A worker's end of all-reduce: where it listens, and the thread that carries collectives out."""

import logging
import threading
import traceback
from collections.abc import Mapping

from shoal.errors import MembershipError
from shoal.kvstore import dumps
from shoal.kvstore.dumps import Checked, Recent
from shoal.kvstore.ring.core import AllReduceCore
from shoal.kvstore.ring.shell import RingShell, peer_name
from shoal.kvstore.trace.tap import open_transport
from shoal.kvstore.wire.keys import LOOPBACK, Access
from shoal.kvstore.wire.loop import Loop

__all__ = ["RingNode"]

log = logging.getLogger("shoal.allreduce")


class RingNode:
    """Listens from the beginning, so that peers know where; does nothing more until a store is made.

    Args:
        host: address of this machine to listen on.
        port: 0 lets the system choose.
        access: who may join.
    """

    def __init__(self, host: str, port: int = 0, access: Access = LOOPBACK) -> None:
        self.transport = open_transport("allreduce", access, "all-reduce")
        try:
            self.port = self.transport.bind(host, port)
        except BaseException:
            self.transport.close()
            raise
        self._core: AllReduceCore | None = None
        self._addresses: dict[int, str] = {}
        self._shell: RingShell | None = None
        self._loop: Loop | None = None
        self._thread = threading.Thread(target=self._drive, name="shoal-allreduce", daemon=True)
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._recent = Recent() if dumps.dumps().check else None

    def join(self, rank: int, incarnation: int, cluster: str, addresses: Mapping[int, str], timeout_s: float) -> None:
        """The cluster is complete.

        Args:
            addresses: where each worker listens, ``host:port`` by rank, this one included.
        """
        self._core = AllReduceCore(rank, incarnation, len(addresses), cluster, timeout_s)
        self._addresses = {r: a for r, a in addresses.items() if r != rank}

    @property
    def shell(self) -> RingShell:
        """What stores submit collectives to; the thread starts when it is first asked for.

        Raises:
            MembershipError: the cluster is not complete, or the run has failed.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._core is None:
                raise MembershipError("this worker has not joined a cluster yet")
            if self._shell is None:
                for rank, address in self._addresses.items():
                    self.transport.connect(peer_name(rank), address)
                self._loop = Loop(self.transport, {})
                core, self._shell = self._core, RingShell(self.transport, self._core, self._loop)
                recent = self._recent
                self._loop.drivers[""] = self._shell if recent is None else Checked(self._shell, lambda: core, recent)
                self._thread.start()
            return self._shell

    @property
    def started(self) -> RingShell | None:
        """The shell, if a store has been made."""
        return self._shell

    def _drive(self) -> None:
        if self._loop is None:
            return
        try:
            self._loop.run()
        except BaseException as e:  # a caller must learn that nobody will answer it
            log.error("the thread of all-reduce failed\n%s", traceback.format_exc())
            text = f"this worker's all-reduce thread failed: {type(e).__name__}: {e}"
            self.fail_all(MembershipError(text + self._dump(text)))

    def _dump(self, why: str) -> str:
        core = self._core
        if core is None:
            return ""
        who = {"rank": core.rank, "incarnation": core.incarnation, "cluster": core.cluster}
        return dumps.write(who, core, why, self._recent)

    def left(self, rank: int) -> None:
        """Worker ``rank`` has said goodbye to the cluster."""
        with self._lock:
            if self._shell is not None:
                self._shell.left(rank)
            elif self._core is not None:
                self._core.left(rank)

    def fail_all(self, error: BaseException) -> None:
        """The run has failed: every call, now and later, raises ``error``."""
        with self._lock:
            self._failure = self._failure or error
            shell = self._shell
        if shell is not None:
            shell.fail_all(error)

    def close(self) -> None:
        """End the thread, and listen no more."""
        if self._loop is not None:
            self._loop.stop()
            self._thread.join(2.0)
        if not self._thread.is_alive():
            self.transport.close()
