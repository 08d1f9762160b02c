"""Sums of rows have one order, on every path: a GPU has to give the same bits."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from shoal.kvstore.codecs import sums
from shoal.kvstore.codecs.levels import norms


def rows(count: int, width: int, seed: int = 0, spread: float = 1.0) -> Any:
    drawn = np.random.default_rng(seed).standard_normal((count, width)) * spread
    return drawn.astype(np.float32)


def by_hand(row: Any) -> Any:
    """The order as the module says it, value by value."""
    pieces = []
    for start in range(0, row.size, 1024):
        piece, s = row[start : start + 1024], [np.float32(0)] * 4
        for at in range(0, piece.size, 16):
            x = piece[at : at + 16]
            s = [((x[i] + x[4 + i]) + (x[8 + i] + x[12 + i])) + s[i] for i in range(4)]
        pieces.append((s[0] + s[1]) + (s[2] + s[3]))
    while len(pieces) > 1:
        half = len(pieces) // 2
        pieces = [a + b for a, b in zip(pieces[:half], pieces[half:], strict=True)]
    return pieces[0]


@pytest.mark.parametrize("width", [32, 64, 1024, 2048, 65536])
@pytest.mark.parametrize("count", [1, 3])
def test_einsum_and_the_namespace_add_in_the_order_that_is_written_down(count: int, width: int) -> None:
    x = rows(count, width)
    expected = np.array([by_hand(r) for r in x])
    assert expected.tobytes() == sums.row_sums(x).tobytes() == sums.ordered(x).tobytes()


def test_where_einsum_adds_in_another_order_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(8, 512)
    expected = sums.row_sums(x)
    monkeypatch.setattr(sums.np, "einsum", lambda spec, x: np.add.reduce(x[:, ::-1], axis=1))
    sums._einsum_is_ordered.cache_clear()
    try:
        assert not sums._einsum_is_ordered()
        assert sums.row_sums(x).tobytes() == expected.tobytes()
    finally:
        sums._einsum_is_ordered.cache_clear()


def test_a_sum_that_overflows_is_taken_in_float64_and_the_rows_beside_it_are_not() -> None:
    x = rows(3, 1024)
    x[1] = 3e38
    found = sums.wide_sums(x)
    assert found[1] == pytest.approx(1024 * float(np.float32(3e38)), rel=1e-12)
    assert found[[0, 2]].astype(np.float32).tobytes() == sums.row_sums(x[[0, 2]]).tobytes()
    assert abs(Fraction(found[0]) - sum(map(Fraction, x[0].tolist()))) < Fraction(1, 1000)


def test_the_norm_of_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    x = rows(6, 64)
    x[1], x[2], x[3], x[4] = 0, 1e-30, 1e30, x[4] * np.float32(1e-44)
    together, alone = norms(x), np.concatenate([norms(r[None]) for r in x])
    assert together.tobytes() == alone.tobytes()
    assert np.allclose(together, np.sqrt((x.astype(np.float64) ** 2).sum(axis=1)), rtol=1e-6, atol=1e-37)
