"""The GPU kernels of pooling, embedding and random numbers, run on the CPU."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from shoal.ops.backend import CPU
from shoal.ops.gpu import emulate
from shoal.ops.gpu.kernels import embedding
from shoal.ops.registry import OPS
from tests.ops.gpu.running import FLOATS, HALVES, check, drawn, needs_compiler, outputs

pytestmark = needs_compiler
XP = emulate.NAMESPACE

GEOMETRIES = [
    ((2, 3, 7, 8), {"kernel": (2, 2)}),
    ((1, 5, 9, 6), {"kernel": (3, 2), "stride": (2, 1), "pad": (1, 0)}),
    ((2, 2, 11), {"kernel": (3,), "stride": (2,), "pad": (1,)}),
    ((1, 1, 17, 17), {"kernel": (17, 17), "stride": (1, 1), "pad": (3, 3)}),
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "attrs"), GEOMETRIES)
def test_pooling_and_its_gradients_are_those_of_float64(dtype: Any, shape: Any, attrs: dict[str, Any]) -> None:
    x = drawn(shape, dtype)
    (best,) = check("max_pool", x, **attrs)
    (index,) = check("max_pool_index", x, best, **attrs)
    g = drawn(best.shape, dtype, seed=1)
    check("max_unpool", g, index, space=shape[2:], factor=2.0, **attrs)
    check("max_pool_take", x, index, **attrs)
    check("sum_pool", x, factor=4.0, **attrs)
    check("sum_unpool", g, space=shape[2:], factor=4.0, **attrs)


def test_a_maximum_of_windows_with_nan_is_nan_and_of_minus_infinities_themselves() -> None:
    x = drawn((1, 1, 4, 4), np.float32)
    x[0, 0, 0, 0], x[0, 0, 2:, 2:] = np.nan, -np.inf
    (best,) = check("max_pool", x, kernel=2)
    check("max_pool_index", x, best, kernel=2)


def test_channels_that_are_last_in_memory_stay_last_and_have_the_same_numbers() -> None:
    x = drawn((2, 6, 8, 9), np.float32)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for name, attrs in [("max_pool", {"kernel": 3, "stride": 2, "pad": 1}), ("sum_pool", {"kernel": 2})]:
        found = OPS[name].forward(XP, last, **attrs)
        assert np.array_equal(found, OPS[name].forward(XP, x, **attrs))
        assert np.moveaxis(found, 1, -1).flags.c_contiguous and not found.flags.c_contiguous
    strange = x.transpose(0, 1, 3, 2)
    assert np.array_equal(OPS["sum_pool"].forward(XP, strange, kernel=2), OPS["sum_pool"].plain(CPU, strange, kernel=2))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "n", "count"), [(5, 7, 40), (70, 64, 300), (3, 300, 5), (1100, 4, 1500)])
def test_rows_of_a_table_and_their_gradient_are_those_of_float64(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, rows: int, n: int, count: int
) -> None:
    monkeypatch.setattr(embedding, "BLOCKS", 16)  # so that a block has many rows
    rng = np.random.default_rng(rows)
    table, g = drawn((rows, n), dtype), drawn((count, n), dtype, seed=1)
    index = rng.integers(-rows, rows, count).astype(rng.choice([np.int32, np.int64]))
    check("take", table, index, axis=0)
    check("take_add", g, index, axis=0, shape=(rows, n), factor=2.0)


def test_thousands_of_gradients_for_one_row_are_added_in_order() -> None:
    g, index = drawn((3000, 3), np.float32), np.where(np.arange(3000) % 7, 2, 0)
    check("take_add", g, index, axis=0, shape=(4, 3), factor=4.0)


def test_an_index_that_is_no_row_gives_nan_and_its_gradient_goes_nowhere() -> None:
    table, index = drawn((4, 6), np.float32), np.array([0, 4, -5, 3])
    (rows,) = outputs("take", [table, index], {"axis": 0})
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, True, False]
    (sums,) = outputs("take_add", [np.ones((4, 6), np.float32), index], {"axis": 0, "shape": (4, 6)})
    assert sums[:, 0].tolist() == [1, 0, 0, 1]


KEYS = [[1, 2, 3, 4, 5], [2**64 - 1, 2**63, 0, 7, 0]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("key", KEYS)
def test_dropout_masks_and_uniform_numbers_have_the_bits_of_the_cpu(dtype: str, key: list[int]) -> None:
    assert ml_dtypes.bfloat16 in HALVES
    words = np.array(key, np.uint64)
    for shape in [(1,), (7, 9), (3, 4096)]:
        for name, attrs in [("dropout_mask", {"p": 0.1}), ("dropout_mask", {"p": 0.0}), ("random_uniform", {})]:
            attrs = {**attrs, "shape": shape, "dtype": dtype}
            (found,) = outputs(name, [words], attrs)
            assert found.tobytes() == OPS[name].plain(CPU, words, **attrs).tobytes(), (name, shape)
