"""Pieces of peers' regions, side by side in this process's address space: one array over several slices, uncopied."""

import ctypes
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from shoal.kvstore.wire.shm import Mapped

__all__ = ["Piece", "Window", "fits"]

Piece = tuple[Mapped, int, int]
"""A peer's region, and the offset and length in bytes of a part of it."""

_PROT_NONE, _MAP_FIXED, _FAILED = 0, 0x10, ctypes.c_void_p(-1).value


def fits(pieces: Sequence[Piece]) -> bool:
    """Whether the pieces can lie side by side: each begins at a page, and all but the last end at one."""
    page = mmap.PAGESIZE
    aligned = all(offset % page == 0 for _, offset, _ in pieces)
    return aligned and all(length % page == 0 for _, _, length in pieces[:-1])


class Window:
    """Read-only memory that is ``pieces``, one behind the other. Pages are shared, not copied.

    Args:
        pieces: for which `fits` holds; at least one.
    Raises:
        OSError: the system maps no more.
    """

    __slots__ = ("__weakref__", "_reserved", "address", "nbytes")

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.nbytes = sum(length for _, _, length in pieces)
        self._reserved = -(-self.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.address = _map(0, self._reserved, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        at = self.address
        for mapped, offset, length in _joined(pieces):
            flags = mmap.MAP_SHARED | _MAP_FIXED | getattr(mmap, "MAP_POPULATE", 0)
            _map(at, length, mmap.PROT_READ, flags, mapped.fd, offset)
            at += length

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """Through this NumPy makes arrays that keep the window open."""
        return {"version": 3, "shape": (self.nbytes,), "typestr": "|u1", "data": (self.address, True)}

    def __del__(self) -> None:
        with suppress(AttributeError):  # not even reserved
            _libc().munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(self._reserved))


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same bytes in as few pieces as possible."""
    joined: list[Piece] = []
    for mapped, offset, length in pieces:
        if joined and joined[-1][0] is mapped and joined[-1][1] + joined[-1][2] == offset:
            joined[-1] = (mapped, joined[-1][1], joined[-1][2] + length)
        else:
            joined.append((mapped, offset, length))
    return joined


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _map(address: int, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    """mmap(2), which Python's own offers without an address."""
    function = _libc().mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    got: int | None = function(address or None, length, protection, flags, fd, offset)
    if got is None or got == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return got
