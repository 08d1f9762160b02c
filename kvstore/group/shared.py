"""A group of processes of one host that reduce through memory which all of them map.

The memory is a file in ``/dev/shm``: a count of finished phases and a process id for each member, then one slot for
each of them, and one for results. An operation goes through the array in chunks of a slot, and each chunk through
phases, between which every member waits until all have finished. Counts only grow, so that nothing needs to be reset.
It is what tests of several GPUs run on, and what ``kvstore="device"`` uses for processes without GPUs.
"""

import mmap
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import DTypeError, NodeLostError, StoreTimeoutError
from shoal.kvstore.group.communicator import fits
from shoal.ops.precision import is_half

__all__ = ["SharedCommunicator"]

_LINE = 64  # bytes between what different members write
_CHECK_S = 0.2  # how often a member that waits looks whether the others are alive
_FOLDER = Path("/dev/shm")


class SharedCommunicator:
    """Member ``rank`` of a group of ``size`` processes; see `shoal.kvstore.group.communicator.Communicator`.

    Sums are taken in rank order, those of halves in float32 and rounded once. The file is unlinked as soon as all have
    opened it, or one has given up, so that nothing is left behind.

    Args:
        name: of the group; no other group of the host has it.
        slot_bytes: of the array that go through the memory at once.
        timeout_s: how long to wait for another member.
    Raises:
        StoreTimeoutError: a member did not come.
    """

    def __init__(self, name: str, rank: int, size: int, *, slot_bytes: int = 1 << 20, timeout_s: float = 600.0) -> None:
        self.rank, self.size, self._timeout_s = rank, size, timeout_s
        self._slot = -(-slot_bytes // _LINE) * _LINE
        self._path = _FOLDER / f"shoal-group-{name}"
        length = size * _LINE + (size + 1) * self._slot
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, length)
            self._map = mmap.mmap(descriptor, length)
        finally:
            os.close(descriptor)
        words = np.frombuffer(self._map, np.int64, size * _LINE // 8).reshape(size, -1)
        self._counts, self._pids = words[:, 0], words[:, 1]
        self._bytes = np.frombuffer(self._map, np.uint8, (size + 1) * self._slot, size * _LINE)
        self._phase = 0
        self._pids[rank] = os.getpid()
        try:
            self.barrier()
        finally:
            if rank == 0 or not self._together():
                self._path.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<member {self.rank} of {self.size} processes>"

    def _together(self) -> bool:
        """Whether every member has opened the memory."""
        return bool((self._counts > 0).all())

    def barrier(self) -> None:
        """Return when every member has finished as many phases.

        Raises:
            NodeLostError: a member's process has ended.
            StoreTimeoutError: a member did not come in time; says which.
        """
        self._phase += 1
        self._counts[self.rank] = self._phase
        spins, deadline, check = 0, time.monotonic() + self._timeout_s, 0.0
        while (late := np.flatnonzero(self._counts < self._phase)).size:
            spins += 1
            if spins < 50:
                os.sched_yield()
                continue
            time.sleep(20e-6 if spins < 2000 else 1e-3)
            now = time.monotonic()
            if now > check:
                check = now + _CHECK_S
                self._look_after(late, now > deadline)

    def _look_after(self, late: Any, over: bool) -> None:
        """Raise if a member that is waited for is gone, or the time is over."""
        for member in late:
            pid = int(self._pids[member])
            if pid and not _alive(pid):
                raise NodeLostError(
                    f"member {self.rank} of this host's group waits for member {member}, whose process {pid} has ended"
                )
        if over:
            raise StoreTimeoutError(
                f"member {self.rank} of this host's group has waited {self._timeout_s:g} s for member "
                f"{', '.join(map(str, late))}: every member makes the same calls in the same order"
            )

    def _place(self, slot: int, like: Any) -> Any:
        """The beginning of a slot as an array like ``like``; slot ``size`` is for results."""
        at = slot * self._slot
        return self._bytes[at : at + like.nbytes].view(like.dtype)

    def _chunks(self, array: Any) -> list[Any]:
        """The array as flat pieces of at most a slot."""
        if not isinstance(array, np.ndarray) or not array.flags.c_contiguous:
            raise DTypeError(f"a group of processes reduces C-contiguous NumPy arrays, got {type(array).__name__}")
        flat = array.reshape(-1)
        step = max(1, self._slot // array.itemsize)
        return [flat[i : i + step] for i in range(0, flat.size, step)]

    def _sum(self, like: Any, start: int, stop: int) -> Any:
        """The sum over all members, in rank order, of elements ``start:stop`` of what is in their slots."""
        parts = [self._place(r, like)[start:stop] for r in range(self.size)]
        total = parts[0].astype(np.float32 if is_half(like.dtype) else like.dtype)
        for part in parts[1:]:
            total += part.astype(total.dtype, copy=False)
        return total.astype(like.dtype, copy=False)

    def reduce(self, array: Any, root: int = 0) -> None:
        """See `Communicator.reduce`."""
        for chunk in self._chunks(array):
            self._place(self.rank, chunk)[...] = chunk
            self.barrier()
            if self.rank == root:
                chunk[...] = self._sum(chunk, 0, chunk.size)
            self.barrier()  # the slots are free again

    def all_reduce(self, array: Any) -> None:
        """See `Communicator.all_reduce`; each member adds a part of each chunk."""
        for chunk in self._chunks(array):
            self._place(self.rank, chunk)[...] = chunk
            self.barrier()
            start, stop = (chunk.size * r // self.size for r in (self.rank, self.rank + 1))
            self._place(self.size, chunk)[start:stop] = self._sum(chunk, start, stop)
            self.barrier()
            chunk[...] = self._place(self.size, chunk)
            self.barrier()

    def broadcast(self, array: Any, root: int = 0) -> None:
        """See `Communicator.broadcast`."""
        for chunk in self._chunks(array):
            if self.rank == root:
                self._place(self.size, chunk)[...] = chunk
            self.barrier()
            if self.rank != root:
                chunk[...] = self._place(self.size, chunk)
            self.barrier()

    def reduce_scatter(self, array: Any, out: Any) -> None:
        """See `Communicator.reduce_scatter`."""
        fits(self.size, out, array, "reduce_scatter")
        rows, flat = array.reshape(self.size, -1), out.reshape(-1)
        for member in range(self.size):
            done = 0
            for chunk in self._chunks(rows[member]):
                self._place(self.rank, chunk)[...] = chunk
                self.barrier()
                if self.rank == member:
                    flat[done : done + chunk.size] = self._sum(chunk, 0, chunk.size)
                done += chunk.size
                self.barrier()

    def all_gather(self, part: Any, out: Any) -> None:
        """See `Communicator.all_gather`."""
        fits(self.size, part, out, "all_gather")
        rows = out.reshape(self.size, -1)
        done = 0
        for chunk in self._chunks(part):
            self._place(self.rank, chunk)[...] = chunk
            self.barrier()
            for member in range(self.size):
                rows[member, done : done + chunk.size] = self._place(member, chunk)
            done += chunk.size
            self.barrier()

    def close(self) -> None:
        """Let go of the memory; the others may still be in their last operation."""
        self._counts = self._pids = self._bytes = np.empty(0, np.int64)
        self._map.close()


def _alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has asked about yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
