"""What a call of the store names is checked once, and taken up again when the same arrays come."""

from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from shoal.errors import ConfigError
from shoal.kvstore.bundle import Bundle, Scatter
from shoal.kvstore.client.exchange import REMEMBERED_BYTES, TOTAL_BYTES, Entry, Exchange, Recent
from shoal.kvstore.wire.messages import KeyLayout, Slice

F4 = np.dtype(np.float32)


def entry(name: str, size: int = 4, bundle: Bundle | None = None, place: int = 0) -> Entry:
    slices = (Slice(id=0, server=0, start=0, stop=size, offset=0, size=size),)
    return Entry(KeyLayout(key=name, dtype="<f4", shape=(size,), slices=slices, cut=""), (size,), F4, bundle, place)


def array(size: int = 4) -> Any:
    return np.zeros(size, F4)


def exchange(nbytes: int = 16) -> Exchange:
    made = Exchange([entry("a")], [array()], None, [], {})
    made.nbytes = nbytes
    return made


PAIR = Bundle(7, 0, "a and 1 more", F4, 8, ("a", "b"), (4, 8))


def test_keys_of_a_bundle_are_taken_together_in_its_order() -> None:
    entries = [entry("b", bundle=PAIR, place=1), entry("c"), entry("a", bundle=PAIR, place=0)]
    arrays = [array(), array(), array()]
    call = Exchange(entries, arrays, None, [], {})
    assert [a.at for a in call.alone] == [1]
    assert [f.bundle for f in call.fused] == [PAIR]
    gather = call.fused[0].parts
    assert gather is not None
    parts = gather.parts
    assert np.shares_memory(parts[0], arrays[2]) and np.shares_memory(parts[1], arrays[0])


def test_half_of_a_bundle_cannot_be_pushed_but_can_be_read() -> None:
    half = [entry("a", bundle=PAIR)]
    with pytest.raises(ConfigError, match="pushed together"):
        Exchange(half, [array()], None, [], {})
    out = array()
    read = Exchange(half, None, [out], [out], {})
    read.fused[0].target.write(np.arange(8, dtype=F4))
    assert out.tolist() == [0, 1, 2, 3]


def test_keys_that_lie_as_in_their_slice_are_not_gathered() -> None:
    whole = np.arange(8, dtype=F4)
    entries = [entry("b", bundle=PAIR, place=1), entry("a", bundle=PAIR, place=0)]
    call = Exchange(entries, [whole[4:], whole[:4].reshape(2, 2)], None, [], {})
    assert call.fused[0].stays is not None and np.array_equal(call.fused[0].stays, whole)
    assert np.shares_memory(call.fused[0].stays, whole) and call.copied_bytes(lambda a: True) == 0
    gathered = call.gathered(lambda a: False)
    assert gathered.fused[0].stays is None and gathered.copied_bytes(lambda a: True) == whole.nbytes
    assert call.gathered(lambda a: True).fused == call.fused


@pytest.mark.parametrize("order", [(4, 0), (0, 5), (0, 3)])
def test_keys_that_lie_otherwise_are_gathered(order: tuple[int, int]) -> None:
    whole = np.arange(9, dtype=F4)
    arrays = [whole[i : i + 4] for i in order]
    call = Exchange([entry("a", bundle=PAIR), entry("b", bundle=PAIR, place=1)], arrays, None, [], {})
    assert call.fused[0].stays is None and call.fused[0].parts is not None
    assert np.array_equal(call.fused[0].parts.read(), np.concatenate(arrays))


def test_arrays_that_follow_each_other_by_chance_are_gathered() -> None:
    """What keeps one of them alive need not keep the other."""
    memory = array(8)
    arrays = [as_strided(memory[:4]), as_strided(memory[4:])]
    call = Exchange([entry("a", bundle=PAIR), entry("b", bundle=PAIR, place=1)], arrays, None, [], {})
    assert call.fused[0].stays is None


def test_keys_that_are_answered_where_they_lie_are_gathered() -> None:
    whole, other = np.arange(8, dtype=F4), np.zeros(8, F4)
    entries = [entry("a", bundle=PAIR), entry("b", bundle=PAIR, place=1)]
    arrays = [whole[:4], whole[4:]]
    assert Exchange(entries, arrays, [other[:4], whole[:4]], [], {}).fused[0].stays is None
    assert Exchange(entries, arrays, [other[:4], other[4:]], [], {}).fused[0].stays is not None


def test_a_push_that_is_answered_in_its_own_memory_is_noted() -> None:
    same, other = array(), array()
    call = Exchange([entry("a"), entry("b")], [same, other], [same, array()], [], {})
    assert [a.overlaps for a in call.alone] == [True, False]
    assert call.copied_bytes(lambda a: a.overlaps) == same.nbytes


def test_the_same_arrays_are_known_again() -> None:
    recent, call, (g, o) = Recent(), exchange(), (array(), array())
    recent.keep("pushpull", ["a", "b"], [g, g], [o, o], call)
    assert recent.find("pushpull", ["a", "b"], [g, g], [o, o]) is call
    assert recent.find("pushpull", ["a", "b"], (g, g), (o, o)) is call


@pytest.mark.parametrize("change", ["key", "value", "out", "kind", "none", "length"])
def test_anything_else_is_another_call(change: str) -> None:
    recent, (g, o) = Recent(), (array(), array())
    recent.keep("pushpull", ["a", "b"], [g, g], [o, o], exchange())
    kind, keys, values, outs = "pushpull", ["a", "b"], [g, g], [o, o]
    match change:
        case "key":
            keys = ["a", "c"]
        case "value":
            values = [g, array()]
        case "out":
            outs = [o, array()]
        case "kind":
            kind = "push"
        case "none":
            assert recent.find(kind, keys, values, None) is None
            return
        case "length":
            values = [g]
    assert recent.find(kind, keys, values, outs) is None


def test_a_single_key_is_known_again() -> None:
    recent, call, g = Recent(), exchange(), array()
    recent.keep("push", "a", g, None, call)
    assert recent.find("push", "a", g, None) is call
    assert recent.find("push", "a", array(), None) is None
    assert recent.find("push", "b", g, None) is None


def test_keys_that_were_changed_in_place_are_not_known() -> None:
    recent, keys, g = Recent(), ["a", "b"], array()
    recent.keep("push", keys, [g, g], None, exchange())
    keys[1] = "c"
    assert recent.find("push", keys, [g, g], None) is None


def test_an_array_that_is_not_contiguous_is_not_remembered() -> None:
    """What is sent of it is a copy."""
    recent, column = Recent(), np.zeros((4, 2), F4)[:, 0]
    recent.keep("push", "a", column, None, exchange())
    recent.keep("push", ["a"], [column], None, exchange())
    assert recent.find("push", "a", column, None) is None and recent.find("push", ["a"], [column], None) is None


def test_what_is_no_array_is_not_remembered() -> None:
    recent = Recent()
    recent.keep("push", "a", [array(), array()], None, exchange())
    recent.keep("push", ["a"], [1.0], None, exchange())
    assert recent.find("push", ["a"], [1.0], None) is None
    assert not recent._calls


def test_large_arrays_are_not_kept_alive() -> None:
    recent, g = Recent(), array()
    recent.keep("push", "a", g, None, exchange(REMEMBERED_BYTES + 1))
    assert recent.find("push", "a", g, None) is None


def test_what_is_kept_alive_is_bounded() -> None:
    recent, g = Recent(), array()
    for i in range(20):
        recent.keep("push", f"k{i}", g, None, exchange(REMEMBERED_BYTES))
        assert sum(c.exchange.nbytes for c in recent._calls.values()) <= TOTAL_BYTES
    assert recent.find("push", "k19", g, None) is not None


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8", "|u1", "bfloat16"])
def test_a_bundle_is_taken_apart_to_the_bit(dtype: str) -> None:
    from shoal.kvstore.arrays import dtype_named

    flat = np.arange(10).astype(dtype_named(dtype))
    outs = [np.zeros(n, flat.dtype) for n in (3, 0, 7)]
    Scatter([(outs[0], 0, 3), (outs[1], 3, 3), (outs[2], 3, 10)]).write(flat)
    assert np.array_equal(np.concatenate(outs), flat)
