"""A worker's part in changes of the set of workers: it comes to the end of a batch, rests, and hears who goes on."""

import signal
import threading
import time
from collections.abc import Sequence

from shoal.errors import StoreTimeoutError
from shoal.kvstore.client.memory import Memory, counted, spread
from shoal.kvstore.client.shell import ClientShell
from shoal.kvstore.wire.messages import Met, Recalled, Shared
from shoal.kvstore.wire.schema import Plain
from shoal.scheduler.client import Membership

__all__ = ["LEAVE_S", "Leaving", "Meeting", "Past"]

LEAVE_S = 10.0
"""A worker that is told to leave, and does not come to the end of a batch within this time, is interrupted."""

PAUSE_S = 0.05
"""Before a newcomer asks again."""


class Leaving(SystemExit):
    """The worker has been told to leave, and has come to the end of a batch."""


class Past:
    """What the servers have counted of earlier processes of this rank.

    Args:
        shell: of the client.
        membership: of this worker; it has been taken in.
    """

    def __init__(self, shell: ClientShell, membership: Membership) -> None:
        self._shell, self._membership = shell, membership
        self._facts: list[Recalled] = []

    def recall(self) -> None:
        """Ask every server, and go on from there. A worker that replaces none has nothing to ask."""
        m = self._membership
        if m.incarnation == 1 and not m.late:
            return
        self._facts = self._shell.recall(m.rank)
        memory = Memory(spares=not m.late)
        for fact in self._facts:
            memory.take(fact)
        self._shell.remember(memory)

    def counted(self, store: int) -> int:
        """How many pushes to ``store`` are counted by every slice; a late worker goes on with nobody's data: 0."""
        return 0 if self._membership.late else counted(self._facts, store)


class Meeting:
    """See `shoal.worker.cluster.Elastic`.

    Args:
        shell: of the client; its stores rest while the worker waits.
        membership: of this worker.
        past: of this worker, which is asked anew when it takes part.
    """

    def __init__(self, shell: ClientShell, membership: Membership, past: Past) -> None:
        self._shell, self._membership, self._past = shell, membership, past
        self.leaving = ""  # why this worker is to leave
        self._timer: threading.Timer | None = None

    @property
    def shares(self) -> Sequence[Shared]:
        """Who took part, oldest first."""
        return self._membership.shares

    @property
    def changing(self) -> bool:
        """Whether this worker is waited for at the end of a batch, or is to leave there."""
        return self._membership.changing or bool(self.leaving)

    @property
    def chief(self) -> int:
        """The smallest rank that takes part."""
        return self._membership.chief

    def leave(self, why: str, number: int) -> bool:
        """Leave at the end of the batch; false if that has been asked before. Safe in a signal handler.

        Args:
            number: of the signal by which the main thread is interrupted if that takes too long.
        """
        if self.leaving:
            return False
        self.leaving = why
        main = threading.main_thread().ident or 0
        self._timer = threading.Timer(LEAVE_S, signal.pthread_kill, [main, number])
        self._timer.daemon = True
        self._timer.start()
        return True

    def close(self) -> None:
        """This worker goes, one way or the other."""
        if self._timer is not None:
            self._timer.cancel()

    def meet(self, cursor: Plain, timeout_s: float) -> Shared:
        """Come to the end of a batch, with everything pushed that is to be counted before.

        Args:
            cursor: how far this worker is with its data.
            timeout_s: longest wait for the others.
        Returns:
            The newest set; unchanged if the change comes later, because somebody waits for this worker at a barrier.
        Raises:
            Leaving: this worker is to leave.
            StoreTimeoutError: names the workers that have not come.
        """
        number = len(self.shares)
        for rest in self._shell.rests:
            rest(0 if self.leaving else number)
        if self.leaving:
            raise Leaving(0)
        try:
            self._come(cursor, timeout_s)
        finally:
            self._shell.level(len(self.shares) - 1)
        return self.shares[-1]

    def enter(self, timeout_s: float) -> Shared:
        """Wait, as a worker that joined late, until the others have come to the end of a batch.

        Raises:
            StoreTimeoutError: names the workers that have not come.
        """
        rank, deadline = self._membership.rank, time.monotonic() + timeout_s
        known = len(self.shares)  # somebody else may have had this rank in them, and be gone
        while len(self.shares) == known or rank not in self.shares[-1].ranks:
            left = deadline - time.monotonic()
            if left <= 0:
                raise StoreTimeoutError(f"worker {rank} waited {timeout_s:g} s to take part, and the others went on")
            if self._come(None, left).later:
                time.sleep(PAUSE_S)
        self._past.recall()
        self._shell.level(len(self.shares) - 1)
        return self.shares[-1]

    def _come(self, cursor: Plain, timeout_s: float) -> Met:
        known: dict[str, tuple[int, ...]] = {}
        while True:
            met = self._membership.come(cursor, known, timeout_s)
            if met.later or not met.gone:
                return met
            known |= {str(r): spread(self._shell.recall(r, timeout_s), 1) for r in met.gone}
