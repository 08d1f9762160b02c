"""Several small frames as one, so that a message is one call and wakes its reader once."""

from typing import Any

from shoal.errors import RemoteProtocolError

__all__ = ["PACKED", "PACK_BYTES", "pack", "size_of", "unpack"]

PACKED = 0xC5
"""First byte of a message that travels as one frame; neither header format begins with it."""

PACK_BYTES = 8 << 10
"""Smaller messages travel as one frame: each further frame costs a call, and wakes a thread."""


def size_of(frame: Any) -> int:
    """Bytes of a frame."""
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def pack(frames: list[Any]) -> bytes:
    """Several small frames as one, each beginning at a multiple of 8 bytes."""
    sizes = [size_of(f) for f in frames]
    head = b"".join([bytes([PACKED, len(frames)]), *(n.to_bytes(4, "little") for n in sizes)])
    parts = [head, b"\0" * (-len(head) % 8)]
    for frame, n in zip(frames, sizes, strict=True):
        parts += (frame, b"\0" * (-n % 8))
    return b"".join(parts)


def unpack(packed: bytes) -> list[Any]:
    """The frames that `pack` packed.

    Raises:
        RemoteProtocolError: it is not what `pack` makes.
    """
    count = packed[1] if len(packed) > 1 else 0
    at = 2 + 4 * count
    sizes = [int.from_bytes(packed[i : i + 4], "little") for i in range(2, at, 4)]
    at += -at % 8
    if len(packed) < at or len(packed) != at + sum(n + -n % 8 for n in sizes):
        raise RemoteProtocolError(f"{count} frames in one of {len(packed)} bytes: their sizes do not add up")
    view, frames = memoryview(packed), []
    for n in sizes:
        frames.append(view[at : at + n])
        at += n + -n % 8
    return frames
