"""Several small frames as one, so that a message is one call and wakes its reader once."""

import struct
from typing import Any

from shoal.errors import RemoteProtocolError

__all__ = ["PACKED", "PACK_BYTES", "PACK_FRAMES", "pack", "size_of", "unpack"]

PACKED = 0xC5
"""First byte of a message that travels as one frame; neither header format begins with it."""

PACK_BYTES = 8 << 10
"""Smaller messages travel as one frame: each further frame costs a call, and wakes a thread."""


PACK_FRAMES = 255
"""Most frames that travel as one."""

_PADDING = [b"\0" * n for n in range(8)]


def _head(n: int) -> struct.Struct:
    return struct.Struct(f"<BB{n}I")


_HEADS = [_head(n) for n in range(PACK_FRAMES + 1)]
"""`PACKED`, the number of frames, the bytes of each."""


def size_of(frame: Any) -> int:
    """Bytes of a frame."""
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def pack(frames: list[Any]) -> bytes:
    """Several small frames (at most `PACK_FRAMES`) as one, each beginning at a multiple of 8 bytes."""
    sizes = [f.nbytes if isinstance(f, memoryview) else len(f) for f in frames]
    head = _HEADS[len(frames)]
    parts: list[Any] = [head.pack(PACKED, len(frames), *sizes), _PADDING[-head.size & 7]]
    for frame, n in zip(frames, sizes, strict=True):
        parts.append(frame)
        if n & 7:
            parts.append(_PADDING[-n & 7])
    return b"".join(parts)


def unpack(packed: bytes) -> list[Any]:
    """The frames that `pack` packed.

    Raises:
        RemoteProtocolError: it is not what `pack` makes.
    """
    count = packed[1] if len(packed) > 1 else 0
    head = _HEADS[count]
    at = head.size + (-head.size & 7)
    sizes = head.unpack_from(packed)[2:] if len(packed) >= at else ()
    if len(packed) != at + sum([n + (-n & 7) for n in sizes]):
        raise RemoteProtocolError(f"{count} frames in one of {len(packed)} bytes: their sizes do not add up")
    view, frames = memoryview(packed), []
    for n in sizes:
        frames.append(view[at : at + n])
        at += n + (-n & 7)
    return frames
