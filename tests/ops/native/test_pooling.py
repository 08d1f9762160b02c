"""Generated pooling against the array-namespace forward."""

from typing import Any

import numpy as np
import pytest

import shoal.npx
from shoal.ops.native import generated, pool
from shoal.ops.native.pooling import why_not
from shoal.ops.registry import OPS, Spec
from tests.ops.native.calling import FIRST, LAST, Made, lying, run, site, want

assert shoal.npx  # imported for the operators that it registers

pytestmark = pytest.mark.skipif(not generated.lanes(), reason="nothing can be compiled here")

GRID: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "side by side": ((2, 16, 6, 8), {"kernel": 2}),
    "few channels": ((3, 6, 8, 8), {"kernel": 2, "stride": 2}),
    "a rest": ((2, 5, 7, 9), {"kernel": 2}),
    "overlapping": ((2, 7, 8, 7), {"kernel": 3, "stride": 2}),
    "overlapping, padded": ((2, 17, 9, 8), {"kernel": 3, "stride": 2, "pad": 1}),
    "far apart": ((1, 3, 9, 10), {"kernel": 2, "stride": 3}),
    "side by side, padded": ((2, 4, 6, 6), {"kernel": 2, "stride": 2, "pad": 1}),
    "by axis": ((1, 70, 6, 7), {"kernel": (1, 3), "stride": (2, 1), "pad": (0, 1)}),
    "whole image": ((2, 33, 5, 4), {"kernel": (5, 4)}),
}


def calls(shape: tuple[int, ...], attrs: dict[str, Any], order: tuple[int, ...] = LAST) -> list[Made]:
    """All five operators."""
    rng = np.random.default_rng(sum(shape))
    x = lying(rng.integers(-4, 5, shape).astype("float32"), order)  # many that are equal
    pooled = OPS["max_pool"].infer(Spec(shape, x.dtype), **attrs).shape
    g = lying(rng.standard_normal(pooled).astype("float32"), order)
    (best,) = want(Made("max_pool", [x], attrs))
    best = lying(best.astype("float32"), order)
    (index,) = want(Made("max_pool_index", [x, best], attrs))
    space = {"space": shape[2:], **attrs}
    return [
        Made("max_pool", [x], attrs, order),
        Made("max_pool_index", [x, best], attrs),
        Made("max_unpool", [g, lying(index, LAST)], space, order),
        Made("sum_pool", [x], attrs, order),
        Made("sum_unpool", [g], space, order),
    ]


@pytest.fixture(scope="module")
def results() -> dict[str, list[tuple[Made, Any]]]:
    """For each case, its calls and their results; all are compiled together."""
    every = [made for case in GRID.values() for made in calls(*case)]
    found = list(zip(every, run(every), strict=True))
    return {case: found[5 * i : 5 * i + 5] for i, case in enumerate(GRID)}


@pytest.mark.parametrize("case", GRID)
def test_it_is_the_pooling_and_its_gradient(case: str, results: Any) -> None:
    for made, (got,) in results[case]:
        np.testing.assert_allclose(got, want(made)[0], rtol=1e-6, atol=1e-6, err_msg=made.op)


def test_images_may_lie_channels_first() -> None:
    every = calls((2, 5, 6, 8), {"kernel": 3, "stride": 2, "pad": 1}, FIRST)
    for made, (got,) in zip(every, run(every), strict=True):
        np.testing.assert_allclose(got, want(made)[0], rtol=1e-6, atol=1e-6, err_msg=made.op)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    every = calls((8, 17, 16, 16), {"kernel": 3, "stride": 2, "pad": 1})
    found = []
    for threads in (1, 2, 3):
        with pool.limited(threads):
            found.append([out.tobytes() for (out,) in run(every)])
    assert found[0] == found[1] == found[2]


def test_nan_is_the_largest() -> None:
    (made, *_) = calls((1, 3, 4, 4), {"kernel": 2})
    for place in np.ndindex(2, 2):
        made.arrays[0][(0, 1, *place)] = np.nan
        assert np.isnan(run([made])[0][0][0, 1, 0, 0])
        made.arrays[0][(0, 1, *place)] = 0.0


def test_nothing_is_written_outside_the_arrays() -> None:
    every = calls((1, 5, 5, 5), {"kernel": 2})
    for made, (out,) in zip(every, run(every, guard=32, value=7.0), strict=True):
        untouched = 77 if out.dtype == np.uint8 else 7
        assert (out.base[:32] == untouched).all() and (out.base[-32:] == untouched).all(), made.op


@pytest.mark.parametrize(
    ("shape", "dtype", "attrs", "reason"),
    [
        ((2, 3, 4, 4), "float64", {"kernel": 2}, "float32"),
        ((2, 3, 4), "float32", {"kernel": 2}, "two spatial axes"),
        ((0, 3, 4, 4), "float32", {"kernel": 2}, "nothing"),
    ],
)
def test_what_is_not_generated_says_why(shape: Any, dtype: str, attrs: dict[str, Any], reason: str) -> None:
    assert reason in why_not(site(Made("max_pool", [np.zeros(shape, dtype)], attrs)))
