"""Row-sparse arrays: what they stand for, and how they add up."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import DTypeError, ShapeError
from shoal.kvstore.arrays import BFLOAT16
from shoal.kvstore.rows import RowSparse, reduce_rows


def sparse(ids: Any, shape: tuple[int, ...], seed: int = 0, dtype: Any = "float64") -> RowSparse:
    ids = np.asarray(ids, np.int64)
    return RowSparse(ids, np.random.default_rng(seed).normal(size=(ids.size, *shape[1:])).astype(dtype), shape)


def slow_dense(r: RowSparse) -> Any:
    out = np.zeros(r.shape, r.dtype)
    for i, row in zip(r.ids, r.rows, strict=True):
        out[i] += row
    return out


row_ids = st.lists(st.integers(0, 8), max_size=20)


@given(row_ids, st.sampled_from([(9,), (9, 3), (9, 2, 2), (9, 0)]))
def test_repeated_rows_add_up(ids: list[int], shape: tuple[int, ...]) -> None:
    r = sparse(ids, shape)
    np.testing.assert_allclose(r.dense(), slow_dense(r), rtol=1e-12, atol=1e-12)  # sums may cancel
    merged = r.merged()
    assert merged.ids.tolist() == sorted(set(ids))
    assert np.array_equal(merged.dense(), r.dense())


@given(row_ids, st.integers(0, 9), st.integers(0, 9))
def test_a_part_has_the_rows_of_its_range(ids: list[int], a: int, b: int) -> None:
    start, stop = min(a, b), max(a, b)
    r = sparse(ids, (9, 2)).merged()
    assert np.array_equal(r.between(start, stop).dense(), r.dense()[start:stop])


@given(st.lists(row_ids, min_size=1, max_size=4), st.sampled_from(["sum", "mean"]))
def test_contributions_are_reduced_as_dense_ones_are(parts: list[list[int]], reduce: str) -> None:
    rows = [sparse(ids, (9, 3), seed).merged() for seed, ids in enumerate(parts)]
    total = np.zeros((9, 3))
    for r in rows:
        total += r.dense()
    found = reduce_rows(rows, reduce)
    assert np.array_equal(found.dense(), total / len(rows) if reduce == "mean" else total)
    assert found.ids.tolist() == sorted({i for ids in parts for i in ids})


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16])
def test_half_precision_is_added_in_float32(dtype: Any) -> None:
    many = RowSparse(np.zeros(600, int), np.full((600, 1), 10.0).astype(dtype), (1, 1))
    assert float(many.dense()[0, 0]) == 6000.0 or dtype == BFLOAT16
    assert abs(float(many.dense()[0, 0]) - 6000.0) <= 16
    assert reduce_rows([many.merged(), many.merged()], "sum").dtype == np.float32


def test_rows_of_zeros_are_left_out() -> None:
    dense = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert RowSparse.from_dense(dense).ids.tolist() == [1]
    assert np.array_equal(RowSparse.from_dense(dense).dense(), dense)


@pytest.mark.parametrize(
    ("ids", "rows", "shape", "error", "message"),
    [
        ([5], np.ones((1, 2)), (5, 2), ShapeError, r"row id 5 is out of range: .*shape \(5, 2\) has rows 0 to 4"),
        ([-1], np.ones((1, 2)), (5, 2), ShapeError, "row id -1 is out of range"),
        ([0], np.ones((1, 3)), (5, 2), ShapeError, r"1 ids need rows of shape \(1, 2\), got \(1, 3\)"),
        ([0, 1], np.ones((1, 2)), (5, 2), ShapeError, r"2 ids need rows of shape \(2, 2\), got \(1, 2\)"),
        ([0], np.ones(1), (), ShapeError, "a scalar has no rows"),
        ([0.5], np.ones((1, 2)), (5, 2), DTypeError, "row ids are integers, got float64"),
    ],
)
def test_what_does_not_fit_is_refused(ids: Any, rows: Any, shape: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        RowSparse(ids, rows, shape)
