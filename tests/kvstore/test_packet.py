"""Small frames as one."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import RemoteProtocolError
from shoal.kvstore.wire.packet import PACK_FRAMES, PACKED, pack, size_of, unpack

frames = st.lists(st.binary(max_size=40), max_size=6)


@given(frames)
def test_what_is_packed_is_unpacked_and_each_frame_is_aligned(some: list[bytes]) -> None:
    packed = pack([some[0], *map(memoryview, some[1:])] if some else [])
    back = unpack(packed)
    assert [bytes(f) for f in back] == some and packed[0] == PACKED
    whole = memoryview(packed)
    assert all(packed[i : i + len(f)] == f for f, i in zip(some, _places(packed, some), strict=True))
    assert size_of(whole) % 8 == 0


def _places(packed: bytes, some: list[bytes]) -> list[int]:
    at, found = 2 + 4 * len(some), []
    for f in some:
        at += -at % 8
        found.append(at)
        at += len(f)
    return found


def test_as_many_frames_as_one_byte_can_count() -> None:
    assert len(unpack(pack([b""] * PACK_FRAMES))) == PACK_FRAMES


@settings(max_examples=300)
@given(frames, st.data())
def test_damage_is_a_protocol_error_or_other_frames(some: list[bytes], data: st.DataObject) -> None:
    packed = bytearray(pack(some))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        unpack(bytes(packed[: data.draw(st.integers(0, len(packed)))]))
