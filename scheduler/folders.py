"""Private folders of a launcher or its processes: gone with them, or, where they were killed, at the next start.

Who uses a folder holds a lock on a file in it, which the system gives up when that process dies, however it does. A
process id would be no sign of life: ids come again, and containers that share a directory have their own.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["Folder", "remove_stale"]

USED = "used"
"""The file that is locked."""

PREFIXES = ("shoal-run-", "shoal-key-", "shoal-ray-")
"""How the folders' names begin: of a launcher, of what has its key, and of a machine that is a Ray cluster's."""

TRIES = 100


class Folder:
    """A folder for this user alone (mode 0700), in use by this process until `remove`.

    What was left behind by processes of this user that were killed is removed first.

    Args:
        prefix: of its name, one of `PREFIXES`; or "".
        path: of one that several processes use, named by one of them: it is made if it is not there.
    """

    def __init__(self, prefix: str = "", *, path: str = "") -> None:
        assert (prefix or os.path.basename(path)).startswith(PREFIXES), (prefix, path)
        where = os.path.dirname(path) or tempfile.gettempdir()
        remove_stale(where)
        self.path, self._lock = "", -1
        for _ in range(TRIES):  # somebody may take it for stale before it is locked
            place = path or tempfile.mkdtemp(prefix=prefix)
            if path:
                os.makedirs(path, mode=0o700, exist_ok=True)
            self._lock = _locked(place, fcntl.LOCK_SH, os.O_CREAT)
            if self._lock >= 0:
                self.path = place
                return
        raise OSError(f"no folder {prefix or path}... in {where} can be kept: something removes it")

    def remove(self) -> None:
        """The folder and all that is in it; again does no harm."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def remove_stale(where: str = "") -> list[str]:
    """Remove this user's folders that nobody uses any more; their paths. One without the lock's file stays.

    Args:
        where: they are looked for; by default, in the directory for temporary files.
    """
    removed = []
    for path in sorted(Path(where or tempfile.gettempdir()).glob("shoal-*")):
        if path.name.startswith(PREFIXES) and _is_mine(path):
            lock = _locked(str(path), fcntl.LOCK_EX)
            if lock >= 0:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
                removed.append(str(path))
    return removed


def _is_mine(path: Path) -> bool:
    with suppress(OSError):
        seen = path.lstat()
        return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid()
    return False


def _locked(path: str, how: int, flags: int = 0) -> int:
    """A descriptor with a lock on the folder's file; -1 if another has it, or there is none."""
    name = os.path.join(path, USED)
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(name)):
            return fd
    except OSError:
        pass
    os.close(fd)
    return -1
