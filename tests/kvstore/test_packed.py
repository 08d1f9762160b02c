"""Packed headers: what they look like, and what is refused."""

import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.kvstore.arrays import as_payload
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.messages import (
    PROTOCOL,
    Ack,
    Done,
    Farewell,
    Heartbeat,
    Push,
    Refused,
    Roster,
    Value,
    Waiting,
)
from shoal.kvstore.wire.packed import NONE, TAG
from shoal.kvstore.wire.schema import ITEM_BYTES, KINDS, Message


def push(**fields: Any) -> Push:
    usual = {"worker": 0, "incarnation": 1, "seq": 2, "slice": 3, "clock": 4, "pulled": 5, "want": True}
    return Push(**{**usual, "value": as_payload(np.array([1, 2], np.float32)), **fields})


def head(kind: int, layout: str, *values: Any, tail: bytes = b"") -> bytes:
    return struct.pack(f"<BBH{layout}", TAG, PROTOCOL, kind, *values) + tail


def test_messages_of_the_data_path_are_packed_and_those_with_free_form_data_are_not() -> None:
    packed = {cls.__name__ for cls in KINDS.values() if cls.packer is not None}
    assert packed >= {"Push", "Pull", "Ack", "Value", "Waiting", "Done", "Refused", "Hello", "Part", "Barrier"}
    assert not packed & {"Heartbeat", "Roster", "SetOptimizer", "StatsReply", "Goodbye"}


def test_a_packed_header_is_tag_version_kind_fields() -> None:
    assert encode(Done(seq=7)) == [head(Done.kind, "q", 7)]
    assert encode(Farewell(cluster="", term=2)) == [head(Farewell.kind, "Iq", 0, 2)]
    assert encode(Waiting(seq=7, missing=(1, 2))) == [head(Waiting.kind, "qI", 7, 2, tail=struct.pack("<2q", 1, 2))]


def test_no_packed_header_begins_like_a_msgpack_list() -> None:
    assert encode(Done(seq=7))[0][0] != encode(Heartbeat(status=None))[0][0]
    assert not isinstance(msgpack.unpackb(bytes([TAG])), list)


def test_a_header_as_msgpack_list_is_understood_too() -> None:
    assert decode([msgpack.packb([PROTOCOL, Ack.kind, 1, 2, 3, True])]) == Ack(seq=1, version=2, floor=3)


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_every_dtype_and_number_of_dimensions_travels(dtype: str) -> None:
    for shape in ((), (3,), (2, 0), (1,) * 64):
        size = int(np.prod(shape, dtype=int)) * ITEM_BYTES[dtype]
        m = Value(seq=1, version=2, floor=3, value=as_payload(np.zeros(size, np.uint8)))
        assert m.value is not None
        object.__setattr__(m.value, "dtype", dtype)
        object.__setattr__(m.value, "shape", shape)
        back = decode([bytes(f) for f in encode(m)])
        assert back == m


def test_a_payload_that_is_not_there_needs_no_frame() -> None:
    frames = encode(Value(seq=1, version=2, floor=3, value=None))
    assert len(frames) == 1
    assert struct.pack("<H", NONE) in frames[0]


VALUE = "qqq?IHI"


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([bytes([TAG])], "not"),
        ([head(9999, "q", 1)], "unknown message kind '9999'"),
        ([struct.pack("<BBHq", TAG, PROTOCOL + 1, Done.kind, 1)], f"protocol '{PROTOCOL + 1}'"),
        ([head(Roster.kind, "q", 1)], "Roster has no packed header"),
        ([head(Done.kind, "i", 1)], "Done: a header of 8 bytes ends too early"),
        ([head(Done.kind, "q", 1, tail=b"x")], "Done: a header of 13 bytes, of which 12 have a meaning"),
        ([head(Done.kind, "q", 1), b"more"], "Done: expected 0 payload frames, got 1"),
        ([head(Waiting.kind, "qI", 1, 3, tail=bytes(16))], "Waiting: a header of 32 bytes ends too early"),
        ([head(Waiting.kind, "qI", 1, 1 << 31)], "ends too early"),
        (
            [head(Refused.kind, "IqqII?", 0, 0, 1, 3, 0, False, tail=b"ab")],
            "Refused.error: a string of 3 bytes, of which 2 are there",
        ),
        (
            [head(Refused.kind, "IqqII?", 0, 0, 1, 2, 0, False, tail=b"\xff\xfe")],
            "Refused.error: a string that is not UTF-8",
        ),
        (
            [head(Value.kind, VALUE, 1, 2, 3, True, 0, 1 + (1 << 8), 0, tail=struct.pack("<Q", 2))],
            "a payload frame is missing",
        ),
        (
            [head(Value.kind, VALUE, 1, 2, 3, True, 0, 2 + (1 << 8), 0, tail=struct.pack("<Q", 2)), b"1234"],
            "its frame has 4",
        ),
        (
            [head(Value.kind, VALUE, 1, 2, 3, True, 0, 99 + (1 << 8), 0, tail=bytes(8)), b""],
            "dtype 99; known are the first",
        ),
        (
            [head(Value.kind, VALUE, 1, 2, 3, True, 0, 1 + (65 << 8), 0, tail=bytes(520)), b""],
            "at most 64 dimensions, got 65",
        ),
        (
            [head(Value.kind, VALUE, 1, 2, 3, True, 0, 1 + (2 << 8), 0, tail=struct.pack("<QQ", 0, 1 << 60)), b""],
            "needs 0",
        ),
        ([head(Value.kind, VALUE, 1, 2, 3, True, 0, 1 + (2 << 8), 0, tail=bytes(8)), b""], "ends too early"),
    ],
)
def test_what_is_no_packed_header_says_why(frames: list[bytes], says: str) -> None:
    with pytest.raises(RemoteProtocolError) as e:
        decode(frames)
    assert says in str(e.value)


def test_more_payloads_than_frames_are_refused_before_anything_is_made() -> None:
    part = as_payload(np.zeros(1, np.float32))
    frames, longer = encode(push(more=(part,))), encode(push(more=(part, part)))
    at = next(i for i, (x, y) in enumerate(zip(frames[0], longer[0], strict=False)) if x != y)
    lying = frames[0][:at] + struct.pack("<I", 1 << 30) + frames[0][at + 4 :]
    with pytest.raises(RemoteProtocolError, match="1073741824 payloads, but 1 frames are left"):
        decode([lying, *frames[1:]])


@pytest.mark.parametrize(
    "m",
    [
        Done(seq=1 << 63),
        Done(seq="one"),  # type: ignore[arg-type]
        Refused(seq=1, error="x", text="\ud800"),
        Waiting(seq=1, missing=(1 << 63,)),
        push(value=None),
    ],
)
def test_what_a_field_cannot_hold_is_a_local_error(m: Message) -> None:
    with pytest.raises(LocalProtocolError, match=type(m).__name__):
        encode(m)


@settings(max_examples=300)
@given(st.data())
def test_damage_anywhere_is_a_protocol_error_or_another_message(data: Any) -> None:
    m = data.draw(
        st.sampled_from([push(codec="2bit", more=(as_payload(np.zeros(3)),)), Waiting(seq=1, missing=(1, 2))])
    )
    frames = [bytearray(f) for f in encode(m)]
    for _ in range(data.draw(st.integers(1, 4))):
        frames[0][data.draw(st.integers(0, len(frames[0]) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frames[0])))
    for damaged in (frames, [frames[0][:cut], *frames[1:]]):
        try:
            assert isinstance(decode([bytes(f) for f in damaged]), Message)
        except RemoteProtocolError:
            continue
