"""The scheduler's log on disk: a directory that one scheduler at a time holds.

``log`` has the records, `shoal.scheduler.records` says how; ``lock`` names who holds the directory; ``log.ended`` is
the log of the last run that is over. Records are on the disk before anybody hears of what they decide: `Journal.append`
returns when they are.
"""

import fcntl
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress

from shoal.errors import ConfigError, MembershipError
from shoal.kvstore.wire.faults import faults
from shoal.scheduler.log import Record
from shoal.scheduler.records import Log, read_log, write_line

__all__ = ["Journal"]

log = logging.getLogger("shoal.scheduler")

COMPACT_LINES = 4096
"""A log is rewritten when it has so many lines, and twice as many as after the last time."""


class Journal:
    """The log of one run, open for appending.

    Args:
        directory: made if it is not there, for this user only.
        sync: wait for the disk, so that the log outlives the computer, and not the process only.
        anew: a log that is there is of a run that was cut off, and is over.
    Raises:
        ConfigError: another scheduler holds the directory, or it cannot be used.
        MembershipError: the log is damaged.
    """

    def __init__(self, directory: str, sync: bool = True, anew: bool = False) -> None:
        self.path = os.path.join(directory, "log")
        self._sync = os.fsync if sync else _trust
        self._directory = directory
        self._lock = self._file = -1
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._lock = _locked(os.path.join(directory, "lock"))
            if anew:
                self.retire()
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _sync_directory(directory)
            self.records = self._read()
        except OSError as e:
            self.close()
            raise ConfigError(f"the scheduler cannot keep its state in {directory}: {e}") from e
        except BaseException:
            self.close()
            raise

    def _read(self) -> list[Record]:
        with open(self.path, "rb") as f:
            data = f.read()
        found: Log = read_log(data, self.path)
        self._lines, self._end = found.lines, found.nbytes
        self._compact_at = max(COMPACT_LINES, 2 * found.lines)
        if found.torn:
            log.warning("%s: its last line was torn by a crash: %d bytes are cut off", self.path, found.torn)
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)
        return found.records

    def append(self, records: Sequence[Record]) -> None:
        """Write records, all or none of them, and wait until they are on the disk.

        Raises:
            MembershipError: they cannot be written; the log is as it was before.
        """
        line = write_line(self._lines, records)
        try:
            if faults.writing is not None:
                faults.writing(self.path)
            _write(self._file, line, self._end)
            self._sync(self._file)
        except OSError as e:
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
                os.fsync(self._file)
            raise MembershipError(
                f"the scheduler cannot write its log {self.path}: {e.strerror}. Nothing that was acknowledged is lost: "
                "make room, and start the scheduler again with the same --state directory"
            ) from e
        self._lines, self._end = self._lines + 1, self._end + len(line)

    @property
    def long(self) -> bool:
        """Whether it is time to write a compacted log."""
        return self._lines >= self._compact_at

    def rewrite(self, records: Sequence[Record]) -> None:
        """Replace the whole log, at once. If that fails the old one stays, and is tried again when it is twice as long.

        Args:
            records: a compacted log of the same state.
        """
        new = self.path + ".new"
        line = write_line(0, records)
        self._compact_at = 2 * self._compact_at
        try:
            fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                if faults.writing is not None:
                    faults.writing(new)
                _write(fd, line, 0)
                os.fsync(fd)
                os.replace(new, self.path)
            except BaseException:
                os.close(fd)
                raise
        except OSError as e:
            log.warning("%s cannot be rewritten: %s", self.path, e)
            with suppress(OSError):
                os.unlink(new)
            return
        os.close(self._file)
        self._file, self._lines, self._end, self._compact_at = fd, 1, len(line), COMPACT_LINES
        try:
            _sync_directory(self._directory)
        except OSError as e:  # after a power failure the old log might be there, without what is written from now on
            raise MembershipError(f"the scheduler cannot keep its log {self.path}: {e.strerror}") from e

    def retire(self) -> None:
        """The run is over, and everybody knows: its log becomes ``log.ended``, and the next run begins another."""
        with suppress(OSError):
            os.replace(self.path, self.path + ".ended")
            _sync_directory(self._directory)

    def close(self) -> None:
        """Let another scheduler have the directory."""
        for fd in (self._file, self._lock):
            if fd >= 0:
                os.close(fd)
        self._file = self._lock = -1


def _trust(fd: int) -> None:
    """What was written is safe as long as the computer runs."""


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, at)
        view, at = view[n:], at + n


def _locked(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        holder = os.pread(fd, 200, 0).decode("utf-8", "replace").strip() or "another process"
        os.close(fd)
        raise ConfigError(
            f"{os.path.dirname(path)} is the state of a scheduler that is running ({holder}): stop that one, or choose "
            "another directory"
        ) from e
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"host {socket.gethostname()}, pid {os.getpid()}\n".encode(), 0)
    return fd


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
