"""Memory that processes of one host share: anonymous files (memfd), sealed and checked. Linux only.

A `Region` is made by one process, which alone may write to it; its peers map it read-only (`Mapped`). It has no name
and dies with the last process that has it mapped, however that ends: nothing can be left behind, and the size of
``/dev/shm`` does not matter. Its pages are allocated before anybody uses them, so that a lack of memory is an error
here and not a SIGBUS later; the seals keep anybody from shrinking it under a reader.
"""

import ctypes
import fcntl
import mmap
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["HEADER_BYTES", "NONCE_BYTES", "Mapped", "Region", "address_of", "available_bytes", "is_mapped", "supported"]

HEADER_BYTES = 64
"""At the start of every region: its nonce. One cache line, so that what follows is aligned."""

NONCE_BYTES = 16

_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Where a container's limit, its use, and (in memory.stat) the files in it that the kernel drops at need are told."""

_NOEXEC_SEAL = 0x8  # memfd_create: Linux 6.3; refused before it
_FUTURE_WRITE = 0x10  # seal: nobody may map it for writing from now on; Linux 5.1


def supported() -> str:
    """Why this system has no regions; empty if it has."""
    missing = [n for n in ("memfd_create", "posix_fallocate") if not hasattr(os, n)]
    missing += [n for n in ("F_ADD_SEALS", "F_GET_SEALS") if not hasattr(fcntl, n)]
    return f"this system has no {', '.join(missing)}" if missing else ""


def available_bytes() -> int:
    """Memory that this process may still take, as the machine and its container say; generous if neither says."""
    room = [1 << 62]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        room.append(1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1]))
    for folder, most, used, droppable in _CGROUPS:
        with suppress(OSError, ValueError):  # not that version of control groups, or "max"
            left = int((folder / most).read_text()) - int((folder / used).read_text())
            told = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            room.append(left + int(told.get(droppable, 0)))
    return max(0, min(room))


class Region:
    """``size`` bytes of this process's memory that others may map; its first `HEADER_BYTES` are taken.

    Args:
        number: by which peers know it; unique in this process's arena.
        size: bytes, a multiple of the page size.
    Raises:
        OSError: the system has no room, or no memfd.
    """

    __slots__ = ("_map", "address", "fd", "nonce", "number", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number, self.size, self.nonce = number, size, secrets.token_bytes(NONCE_BYTES)
        self.fd = _memfd(f"shoal-{number}")
        try:
            os.posix_fallocate(self.fd, 0, size)
            self._map = mmap.mmap(self.fd, size, mmap.MAP_SHARED | _POPULATE, mmap.PROT_READ | mmap.PROT_WRITE)
            self._map[:NONCE_BYTES] = self.nonce
            _seal(self.fd)
        except BaseException:
            os.close(self.fd)
            raise
        self.address = address_of(self._map)

    def __del__(self) -> None:
        with suppress(OSError, AttributeError):  # not wholly made; the mapping goes by itself
            os.close(self.fd)


class Mapped:
    """A peer's region, mapped read-only.

    Args:
        fd: the region; this object owns it from now on.
        size, nonce: what the peer says of it.
    Raises:
        OSError: it is not what the peer says, could be shrunk, or cannot be mapped.
    """

    __slots__ = ("address", "fd", "size", "view")

    def __init__(self, fd: int, size: int, nonce: bytes) -> None:
        self.fd, self.size = fd, size
        have = os.fstat(fd).st_size
        if have != size or size < HEADER_BYTES:
            raise OSError(f"a region announced with {size} bytes has {have}")
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        if ~seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW):
            raise OSError(f"a region that is not sealed against a change of its size (seals {seals:#x})")
        memory = mmap.mmap(fd, size, mmap.MAP_SHARED | _POPULATE, mmap.PROT_READ)
        self.view, self.address = memoryview(memory), address_of(memory)
        if self.view[:NONCE_BYTES] != nonce:
            raise OSError("a region that does not begin with the nonce that was announced")

    def __del__(self) -> None:
        with suppress(OSError):  # views keep the mapping, not this
            os.close(self.fd)


_NOTHING = ctypes.c_char * 0
_POPULATE = getattr(mmap, "MAP_POPULATE", 0)


def _memfd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError:  # an older kernel
        return os.memfd_create(name, flags)


def _seal(fd: int) -> None:
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    with suppress(OSError):  # an older kernel: peers then map it read-only because they are well-behaved
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _FUTURE_WRITE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)


def is_mapped(*buffers: Any) -> bool:
    """Whether any of these buffers is memory of a peer, as `Mapped.view` gives it out."""
    return any(isinstance(getattr(b, "obj", None), mmap.mmap) for b in buffers)


def address_of(buffer: Any) -> int:
    """Where the bytes of anything with the buffer protocol lie."""
    if isinstance(buffer, memoryview) and not buffer.readonly:
        return ctypes.addressof(_NOTHING.from_buffer(buffer))  # in a fifth of the time of what follows
    import numpy as np  # the scheduler, which shares nothing, does without

    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address
