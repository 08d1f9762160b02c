"""The arithmetic under the codecs: half precision, and the random numbers of stochastic rounding."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import LocalProtocolError
from shoal.kvstore.codecs import Int8, Place
from shoal.kvstore.codecs.dither import CHUNK, Dither
from shoal.kvstore.codecs.half import from_half, to_half
from shoal.kvstore.codecs.levels import norms, offset_of
from shoal.kvstore.codecs.scratch import full, scratch
from tests.kvstore.codec_cases import AT, normal

HALVES = np.arange(1 << 16, dtype=np.uint16)
FINITE = HALVES[(HALVES & 0x7FFF) < 0x7C00]


def rounded(values: Any) -> Any:
    out = np.empty(values.size, np.uint16)
    assert to_half(values, out)
    return out


def test_every_half_widens_as_numpy_says() -> None:
    out = np.empty(FINITE.size, np.float32)
    assert from_half(FINITE, out)
    assert out.tobytes() == FINITE.view(np.float16).astype(np.float32).tobytes()


@pytest.mark.parametrize("beside", [0, -1, 1])
def test_all_halves_and_the_middles_between_them_are_rounded_to_even(beside: int) -> None:
    halves = np.sort(FINITE.view(np.float16).astype(np.float32))
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    values = np.concatenate([halves, middles])
    if beside:
        values = np.nextafter(values, np.float32(beside * np.inf))
    values = values[np.abs(values) < 65520]
    assert rounded(values).tobytes() == values.astype(np.float16).tobytes()


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=50))
def test_any_bits_become_the_half_that_numpy_gives_or_are_left_to_it(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    out = np.empty(values.size, np.uint16)
    with np.errstate(all="ignore"):
        want = values.astype(np.float16)
    fits = bool((np.abs(want) < np.inf).all())
    assert to_half(values, out) == fits
    if fits:
        assert out.tobytes() == want.tobytes()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_left_to_numpy(bad: float) -> None:
    values = np.array([1.0, bad], np.float32)
    assert not to_half(values, np.empty(2, np.uint16))
    assert not from_half(values.astype(np.float16).view(np.uint16), np.empty(2, np.float32))


def stub(keys: Any, base: Any) -> Any:
    """A stream that draws these."""
    words = [np.asarray(keys, np.uint16).view(np.uint64), np.asarray(base, np.uint16).view(np.uint64)]
    return SimpleNamespace(bit_generator=SimpleNamespace(random_raw=lambda n: words.pop(0)))


def all_numbers() -> Dither:
    """65536 positions, each with another number."""
    keys = np.concatenate([np.arange(4) * CHUNK, np.zeros(4)])
    return Dither(stub(keys, np.arange(CHUNK)), 1 << 16)


@given(x=st.floats(-1, 1, width=32), top=st.sampled_from([1, 3, 7, 31, 127, 255]), scale=st.floats(1e-20, 1e20))
@settings(max_examples=30)
def test_the_mean_over_all_numbers_is_the_value_as_closely_as_is_promised(x: float, top: int, scale: float) -> None:
    length = np.array([scale], np.float32)
    rows = np.full((1, 1 << 16), np.float32(x) * length[0], np.float32)
    codes, unit = Int8().codes(rows, top, length, Place(AT, 0, 1 << 16, all_numbers()))
    mean = codes.mean() - offset_of(top)
    exact = float(rows[0, 0]) / float(unit[0])
    assert abs(mean - exact) <= (2.0**-15 if top > 127 else 2.0**-16) + 2.0**-22 * abs(exact)
    assert set(np.unique(codes).astype(int) - offset_of(top)) <= {np.floor(exact), np.ceil(exact), -top, top}


@pytest.mark.parametrize("offset", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_every_number_lies_above_its_offset_once(offset: int) -> None:
    u = np.sort(all_numbers().above(offset, 0, 1 << 16).astype(np.float64) - offset)
    want = (np.arange(1 << 16) + 0.5) / 65536 if offset <= 64 else np.arange(1 << 16) / 65536
    np.testing.assert_array_equal(u, np.floor(want * 32768) / 32768 if offset == 256 else want)


def test_numbers_have_positions_however_they_are_asked_for() -> None:
    n = 3 * CHUNK + 100
    dither = Dither(AT.stream("test"), n)
    everything = dither.above(8, 0, n).copy()
    for start, size in ((0, 10), (CHUNK - 5, 10), (5, 2 * CHUNK), (CHUNK, CHUNK), (3 * CHUNK, 100), (7, 0)):
        np.testing.assert_array_equal(dither.above(8, start, size), everything[start : start + size])


def test_numbers_of_two_chunks_are_uncorrelated_and_even_over_addresses() -> None:
    a, b = (np.empty(2000) for _ in range(2))
    for i in range(a.size):
        u = Dither(AT._replace(clock=i).stream("test"), 2 * CHUNK)
        a[i], b[i] = u.above(1, 5, 1)[0], u.above(1, CHUNK + 5, 1)[0]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
    for u in (a, b):
        assert abs(u.mean() - 1.5) < 0.03 and abs(u.std() - 12**-0.5) < 0.02


def test_a_codec_that_is_not_random_has_no_numbers() -> None:
    with pytest.raises(LocalProtocolError, match="random = True"):
        Place(AT, 0, 10, None).above(1, 10)


@pytest.mark.parametrize("scale", [1e-36, 1e-30, 1e-19, 1.0, 1e18, 1e30])
def test_norms_neither_overflow_nor_vanish(scale: float) -> None:
    rows = (normal(512) * np.float32(scale)).reshape(4, 128)
    want = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1))
    np.testing.assert_allclose(norms(rows), want, rtol=1e-5, atol=1e-43)


def test_scratch_is_the_same_memory_by_name_and_grows() -> None:
    a, b, c = scratch("a", 10, np.float32), scratch("b", 10, np.float32), scratch("a", 5, np.float32)
    assert np.shares_memory(a, c) and not np.shares_memory(a, b)
    assert scratch("a", 100, np.float32).size == 100 and scratch("a", 10, np.uint8).dtype == np.uint8


def test_a_full_array_cannot_be_written_to() -> None:
    assert full(3, np.uint16(7)).tolist() == [7, 7, 7] and full(9, np.uint16(7)).size == 9
    with pytest.raises(ValueError, match="read-only"):
        full(2, np.uint16(7))[0] = 1
