"""Messages to frames and back: a header, then the payloads as they are. The only importer of msgpack.

The header is packed (`shoal.kvstore.wire.packed`) where the class allows it, else a msgpack list; either is understood.
"""

import struct
from collections.abc import Sequence
from typing import Any

import msgpack

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.kvstore.wire.messages import PROTOCOL
from shoal.kvstore.wire.packed import TAG
from shoal.kvstore.wire.schema import KINDS, FrameSource, Message

__all__ = ["MAX_HEADER_BYTES", "decode", "encode"]

MAX_HEADER_BYTES = 8 << 20
"""Largest header that is read; a layout of 100,000 keys fits."""

_START = struct.Struct("<BBH")
_TAG = bytes([TAG])


def encode(m: Message) -> list[Any]:
    """Frames of a message: its header, then its payloads, uncopied.

    Raises:
        LocalProtocolError: a value that its field cannot hold.
    """
    frames: list[Any] = [b""]
    if m.packer is not None:
        frames[0] = m.packer.pack(m, _START.pack(TAG, PROTOCOL, m.kind), frames)
        return frames
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
    head = frames[0] if type(frames[0]) is bytes else bytes(frames[0])
    if len(head) > MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"a header of {len(head)} bytes; at most {MAX_HEADER_BYTES} are read")
    if head[:1] == _TAG and len(head) >= _START.size:
        _, protocol, kind = _START.unpack_from(head)
        cls = KINDS.get(kind) if protocol == PROTOCOL else None
        if cls is None:
            cls = _class(protocol, kind)
        if cls.packer is None:
            raise RemoteProtocolError(f"{cls.__name__} has no packed header")
        message: Message = cls.packer.unpack(head, _START.size, list(frames[1:]))
        return message
    return _decode_list(head, frames)


def _class(protocol: Any, kind: Any) -> type[Message]:
    if protocol != PROTOCOL:
        raise RemoteProtocolError(
            f"protocol {str(protocol)[:20]!r}; this process speaks {PROTOCOL}: use one shoal version"
        )
    cls = KINDS.get(kind) if type(kind) is int else None
    if cls is None:
        raise RemoteProtocolError(f"unknown message kind {str(kind)[:20]!r}")
    return cls


def _decode_list(head: bytes, frames: Sequence[Any]) -> Message:
    """A message whose header is ``[PROTOCOL, kind, *fields]``."""
    parts = _unpack(head)
    if not isinstance(parts, list) or len(parts) < 2:
        raise RemoteProtocolError("a header that is not [protocol, kind, ...]")
    cls = _class(parts[0], parts[1])
    fields = parts[2:]
    if len(fields) != len(cls.names):
        raise RemoteProtocolError(f"{cls.__name__}: expected {len(cls.names)} fields, got {len(fields)}")
    source = FrameSource(list(frames[1:]))
    values = {n: read(v, source) for n, read, v in zip(cls.names, cls.readers, fields, strict=True)}
    source.finish()
    return cls(**values)


def _unpack(head: bytes) -> Any:
    try:
        return msgpack.unpackb(head, raw=False, strict_map_key=True, use_list=True)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as e:
        raise RemoteProtocolError(f"a header that is not msgpack: {type(e).__name__} {str(e)[:80]}") from e
