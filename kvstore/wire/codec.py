"""Messages to frames and back: one msgpack header, then the payloads as they are. The only importer of msgpack."""

from collections.abc import Sequence
from typing import Any

import msgpack

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.kvstore.wire.messages import PROTOCOL
from shoal.kvstore.wire.schema import KINDS, FrameSource, Message

__all__ = ["MAX_HEADER_BYTES", "decode", "encode"]

MAX_HEADER_BYTES = 8 << 20
"""Largest header that is read; a layout of 100,000 keys fits."""


def encode(m: Message) -> list[Any]:
    """Frames of a message: the header ``[PROTOCOL, kind, *fields]``, then its payloads, uncopied."""
    frames: list[Any] = [b""]
    fields = [write(getattr(m, n), frames) for n, write in zip(m.names, m.writers, strict=True)]
    try:
        frames[0] = msgpack.packb([PROTOCOL, m.kind, *fields], use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as e:
        raise LocalProtocolError(f"{type(m).__name__} cannot be encoded: {e}") from e
    return frames


def decode(frames: Sequence[Any]) -> Message:
    """The message in these frames.

    Raises:
        RemoteProtocolError: names the field that is wrong, or the peer's protocol version.
    """
    if not frames:
        raise RemoteProtocolError("a message without frames")
    head = memoryview(frames[0])
    if head.nbytes > MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"a header of {head.nbytes} bytes; at most {MAX_HEADER_BYTES} are read")
    parts = _unpack(head)
    if not isinstance(parts, list) or len(parts) < 2:
        raise RemoteProtocolError("a header that is not [protocol, kind, ...]")
    if parts[0] != PROTOCOL:
        raise RemoteProtocolError(
            f"protocol {str(parts[0])[:20]!r}; this process speaks {PROTOCOL}: use one shoal version"
        )
    cls = KINDS.get(parts[1]) if type(parts[1]) is int else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message kind {str(parts[1])[:20]!r}")
    fields = parts[2:]
    if len(fields) != len(cls.names):
        raise RemoteProtocolError(f"{cls.__name__}: expected {len(cls.names)} fields, got {len(fields)}")
    source = FrameSource(list(frames[1:]))
    values = {n: read(v, source) for n, read, v in zip(cls.names, cls.readers, fields, strict=True)}
    source.finish()
    return cls(**values)


def _unpack(head: memoryview) -> Any:
    try:
        return msgpack.unpackb(head, raw=False, strict_map_key=True, use_list=True)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as e:
        raise RemoteProtocolError(f"a header that is not msgpack: {type(e).__name__} {str(e)[:80]}") from e
