"""Messages to frames and back, and what is not a message."""

import contextlib
import json
import os
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.kvstore.arrays import as_array, as_payload, dtype_named
from shoal.kvstore.wire.codec import decode, encode
from shoal.kvstore.wire.document import protocol_page
from shoal.kvstore.wire.messages import PROTOCOL, Ack, Heartbeat, Member, Push, Roster
from shoal.kvstore.wire.schema import ITEM_BYTES, KINDS, Message, Payload, message

ROOT = Path(__file__).parents[2]
integers = st.integers(-(2**63), 2**63 - 1)
plain = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def payloads(draw: Any) -> Payload:
    dtype = draw(st.sampled_from(list(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    return as_payload(np.zeros(shape, dtype_named(dtype)))


def values(hint: Any) -> Any:
    """A strategy for anything that a field of this type may hold."""
    scalars = {int: integers, float: st.floats(allow_nan=False), bool: st.booleans(), str: st.text(max_size=8)}
    if hint in scalars:
        return scalars[hint]
    if hint is Any:
        return plain
    if hint is Payload:
        return payloads()
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple:
        return st.lists(values(args[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=4), values(args[1]), max_size=3)
    if origin in (Union, types.UnionType):
        return st.none() | values(args[0])
    return st.builds(hint, **{n: values(h) for n, h in get_type_hints(hint).items()})


def build(cls: type[Message]) -> Any:
    hints = {n: h for n, h in get_type_hints(cls).items() if n in cls.names}
    return st.builds(cls, **{n: values(h) for n, h in hints.items()})


def push() -> Push:
    value = as_payload(np.array([1, 2], np.float32))
    return Push(worker=0, incarnation=1, seq=2, slice=3, clock=4, pulled=5, want=True, value=value)


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda c: c.__name__)
def test_every_message_survives_the_wire(cls: type[Message]) -> None:
    @settings(max_examples=15)
    @given(build(cls))
    def round_trip(m: Message) -> None:
        assert decode([bytes(f) for f in encode(m)]) == m

    round_trip()


def test_a_payload_is_neither_copied_nor_changed() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    m = Push(worker=0, incarnation=1, seq=2, slice=3, clock=4, pulled=5, want=True, value=as_payload(array))
    frames = encode(m)
    assert np.shares_memory(np.frombuffer(frames[1], np.float32), array)
    back = decode(frames)
    assert isinstance(back, Push)
    np.testing.assert_array_equal(as_array(back.value), array)


def test_the_wire_format_has_not_changed_by_accident() -> None:
    """Golden bytes of one message of each kind; SHOAL_REWRITE_GOLDEN=1 rewrites them."""
    golden = ROOT / "tests/golden/wire.json"
    member = Member(role="worker", rank=1, incarnation=2, address="", host="h", pid=3)
    samples = [
        push(),
        Ack(seq=1, version=2, floor=3),
        Roster(generation=1, epoch=2, members=(member,)),
        Heartbeat(status={"a": [1, None]}),
    ]
    now = {type(m).__name__: [bytes(f).hex() for f in encode(m)] for m in samples}
    if os.environ.get("SHOAL_REWRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(json.dumps(now, indent=1) + "\n")
    assert now == json.loads(golden.read_text())


def test_the_protocol_page_is_what_the_classes_say() -> None:
    assert (ROOT / "docs/protocol.md").read_text() == protocol_page(), (
        "run python -m shoal.kvstore.wire.document > docs/protocol.md"
    )


def head(*parts: Any) -> list[bytes]:
    return [msgpack.packb(list(parts))]


def push_head(payload: list[Any]) -> list[bytes]:
    """The header of a push of this payload, as a msgpack list."""
    plain = {"value": payload, "more": [], "rows": None}
    defaults = {int: 0, bool: False, str: ""}
    hints = get_type_hints(Push)
    return head(PROTOCOL, Push.kind, *(plain[n] if n in plain else defaults[hints[n]] for n in Push.names))


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([], "without frames"),
        ([b""], "not msgpack"),
        ([b"\xc1"], "not msgpack"),
        ([b"GET / HTTP/1.1"], "not"),
        (head(), "not [protocol, kind"),
        ([msgpack.packb({"a": 1})], "not [protocol, kind"),
        (head(PROTOCOL + 1, 37, 1, 2, 3), "protocol '2'"),
        (head(PROTOCOL, 9999), "unknown message kind"),
        (head(PROTOCOL, "37", 1, 2, 3), "unknown message kind"),
        (head(PROTOCOL, 37, 1, 2), "Ack: expected 4 fields, got 2"),
        (head(PROTOCOL, 37, 1, 2, "three", True), "Ack.floor: expected int, got str 'three'"),
        (head(PROTOCOL, 37, 1, 2, True, True), "Ack.floor: expected int, got bool"),
        ([*head(PROTOCOL, 37, 1, 2, 3, True), b"more"], "expected 0 payload frames, got 1"),
        (push_head(["<f4", [2]]), "payload frame 0 is missing"),
        (
            [*push_head(["<f4", [2]]), b"1234"],
            "needs 8 bytes, its frame has 4",
        ),
        ([*push_head(["|O", [1]]), b"12345678"], "one of the dtypes"),
        ([*push_head(["<f4", [-1]]), b""], "non-negative"),
        (head(PROTOCOL, 3, "c", 1, 1, 2, [["worker", 1]], []), "6 fields of Member"),
        (head(PROTOCOL, 3, "c", 1, 1, 2, "x", []), "a list"),
        (head(PROTOCOL, 4, "c", 1, {"a": b"bytes"}, 0, 0.0), "plain data"),
    ],
)
def test_what_is_not_the_protocol_says_why(frames: list[bytes], says: str) -> None:
    with pytest.raises(RemoteProtocolError) as e:
        decode(frames)
    assert says in str(e.value)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=3))
def test_noise_is_never_more_than_a_protocol_error(frames: list[bytes]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(frames)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_message_is_a_protocol_error_or_another_message(data: Any) -> None:
    frames = [bytearray(f) for f in encode(push())]
    at = data.draw(st.integers(0, len(frames[0]) - 1))
    frames[0][at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(decode([bytes(f) for f in frames]), Message)


def test_deep_nesting_is_refused() -> None:
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    with pytest.raises(RemoteProtocolError, match="nested"):
        decode(head(PROTOCOL, 4, "c", 1, deep, 0, 0.0))


def test_a_kind_cannot_be_used_twice() -> None:
    with pytest.raises(LocalProtocolError, match="kind 37"):

        @message(37, "a -> b")
        class Twice(Message):
            """Never registered."""


def test_a_number_that_does_not_fit_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError, match="Ack"):
        encode(Ack(seq=2**70, version=0, floor=0))


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda c: c.__name__)
def test_every_message_says_who_sends_it_and_what_it_means(cls: type[Message]) -> None:
    assert " -> " in cls.flow and cls.__doc__


def test_a_payload_has_at_most_numpys_number_of_dimensions() -> None:
    frames = [*push_head(["<f4", [1] * 65]), b"1234"]
    with pytest.raises(RemoteProtocolError, match="at most 64 dimensions"):
        decode(frames)
