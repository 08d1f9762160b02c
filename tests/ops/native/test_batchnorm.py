"""Generated batch normalization against the array-namespace forward in float64."""

from typing import Any

import numpy as np
import pytest

import shoal.npx
import shoal.ops.joined
from shoal.ops.native import generated, pool
from shoal.ops.native.batchnorm import why_not
from tests.ops.native.calling import FIRST, LAST, Made, error, lying, run, site, want

assert shoal.npx and shoal.ops.joined  # imported for the operators that it registers

pytestmark = pytest.mark.skipif(not generated.lanes(), reason="nothing can be compiled here")

SHAPES = [(2, 16, 4, 4), (3, 5, 7, 9), (2, 1, 3, 5), (4, 17, 3, 3), (2, 80, 5, 2), (1, 3, 40, 61), (2, 130, 2, 2)]


def calls(shape: tuple[int, ...], order: tuple[int, ...] = LAST, mean: float = 0.0) -> list[Made]:
    """A normalization, its gradient, and normalizations with what may follow, and the gradient of a bias."""
    rng = np.random.default_rng(sum(shape))
    x, g = (lying(rng.standard_normal(shape).astype("float32"), order) for _ in range(2))
    x = x + np.float32(mean)
    gamma, beta = (rng.standard_normal(shape[1]).astype("float32") for _ in range(2))
    wide = x.astype("float64")
    stats = [s.astype("float32") for s in (wide.mean((0, 2, 3)), wide.var((0, 2, 3)))]
    attrs: dict[str, Any] = {"axis": 1, "eps": 1e-5}
    return [
        Made("batch_norm", [x, gamma, beta], attrs, order),
        Made("batch_norm_grad", [g, x, gamma, *stats], attrs, order),
        Made("batch_norm_relu", [x, gamma, beta, None], attrs, order),
        Made("batch_norm_relu", [x, gamma, beta, g], attrs, order),
        Made("sum_channels", [x], {}),
    ]


@pytest.fixture(scope="module")
def results() -> dict[Any, list[tuple[Made, list[Any]]]]:
    """For each shape its calls and their results; all are compiled together."""
    every = [made for shape in SHAPES for made in calls(shape)]
    found = list(zip(every, run(every), strict=True))
    return {shape: found[5 * i : 5 * i + 5] for i, shape in enumerate(SHAPES)}


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_batch_normalization_and_its_gradient(shape: Any, results: Any) -> None:
    for made, got in results[shape]:
        for a, b in zip(got, want(made), strict=True):
            assert error(a, b) <= 3e-6, made.op


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    made, *_ = calls((8, 4, 16, 16), mean=1000.0)
    _, mean, var = run([made])[0]
    _, exact_mean, exact_var = want(made)
    np.testing.assert_allclose(mean, exact_mean, rtol=3e-7)
    np.testing.assert_allclose(var, exact_var, rtol=1e-5)


def test_images_may_lie_channels_first() -> None:
    every = calls((3, 5, 6, 4), FIRST)
    for made, got in zip(every, run(every), strict=True):
        for a, b in zip(got, want(made), strict=True):
            assert error(a, b) <= 3e-6, made.op


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    every = calls((8, 17, 16, 16))
    found = []
    for threads in (1, 2, 3):
        with pool.limited(threads):
            found.append([out.tobytes() for outs in run(every) for out in outs])
    assert found[0] == found[1] == found[2]


def test_nan_and_infinity_come_through() -> None:
    made, *_ = calls((2, 3, 2, 2))
    made.arrays[0][0, 1, 0, 0] = np.nan
    y, mean, var = run([made])[0]
    assert np.isnan(y[:, 1]).all() and np.isnan(mean[1]) and np.isnan(var[1])
    assert np.isfinite(y[:, [0, 2]]).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "attrs", "reason"),
    [
        ((2, 3, 4, 4), "float64", {}, "float32"),
        ((2, 3, 4, 4), "float32", {"axis": 3}, "axis 1"),
        ((2, 3), "float32", {}, "images"),
        ((0, 3, 4, 4), "float32", {}, "nothing"),
    ],
)
def test_what_is_not_generated_says_why(shape: Any, dtype: str, attrs: dict[str, Any], reason: str) -> None:
    channels = np.ones(shape[attrs.get("axis", 1)], dtype)
    assert reason in why_not(site(Made("batch_norm", [np.zeros(shape, dtype), channels, channels], attrs)))
