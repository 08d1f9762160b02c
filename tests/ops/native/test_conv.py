"""Generated convolutions against the array-namespace forward in float64."""

from typing import Any

import numpy as np
import pytest

import shoal.ops.joined
from shoal.ops.native import generated, pool
from shoal.ops.native.conv import why_not
from shoal.ops.native.geometry import backward_axes, forward_axis
from shoal.ops.registry import OPS, Spec
from tests.ops.native.calling import FIRST, LAST, Made, error, lying, run, site, want, within_nan

assert shoal.ops.joined  # imported for the operators that it registers

pytestmark = pytest.mark.skipif(not generated.lanes(), reason="nothing can be compiled here")

GRID: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "usual": ((2, 16, 8, 8), (16, 16, 3, 3), {"pad": 1}),
    "odd channels": ((3, 5, 9, 7), (11, 5, 3, 3), {"pad": (1, 1)}),
    "more than a vector": ((2, 17, 6, 5), (33, 17, 3, 3), {"pad": 1}),
    "many vectors": ((1, 48, 5, 5), (64, 48, 3, 3), {"pad": 1}),
    "stride": ((2, 16, 8, 8), (32, 16, 3, 3), {"stride": 2, "pad": 1}),
    "stride, odd lengths": ((2, 4, 11, 10), (20, 4, 3, 5), {"stride": (3, 2), "pad": (2, 1)}),
    "stride larger than the kernel": ((3, 8, 7, 7), (16, 8, 1, 1), {"stride": 3}),
    "1x1": ((2, 8, 5, 5), (24, 8, 1, 1), {}),
    "one channel": ((4, 1, 12, 12), (6, 1, 5, 5), {"pad": 2}),
    "few channels": ((4, 6, 9, 9), (16, 6, 5, 5), {}),
    "dilated": ((1, 5, 12, 13), (7, 5, 3, 3), {"stride": 2, "pad": 2, "dilate": 2}),
    "dilated by axis": ((2, 3, 9, 12), (4, 3, 2, 3), {"dilate": (1, 3)}),
    "kernel as large as the image": ((2, 3, 4, 4), (8, 3, 4, 4), {}),
    "padding wider than the kernel needs": ((2, 3, 4, 4), (8, 3, 3, 3), {"pad": 3}),
    "wide": ((1, 3, 2, 67), (9, 3, 1, 5), {"pad": (0, 2)}),
    "one pixel": ((1, 2, 1, 1), (3, 2, 3, 3), {"pad": 1}),
}


def calls(x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> list[Made]:
    """A convolution and its two gradients."""
    rng = np.random.default_rng(sum(x) + sum(w))
    image, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in (x, w, w[:1]))
    out = OPS["convolution"].infer(Spec(x, image.dtype), Spec(w, image.dtype), None, **attrs)
    g = lying(rng.standard_normal(out.shape).astype(np.float32), LAST)
    image = lying(image, LAST)
    return [
        Made("convolution", [image, weight, bias], attrs),
        Made("convolution", [image, weight, None], attrs),
        Made("convolution_relu", [image, weight, bias], attrs),
        Made("convolution_data", [g, weight], {"space": x[2:], **attrs}),
        Made("convolution_weight", [g, image], {"kernel": w[2:], **attrs}, FIRST),
    ]


@pytest.fixture(scope="module")
def results() -> dict[str, list[tuple[Made, Any]]]:
    """For each case, its calls and their results; all are compiled together."""
    every = [made for case in GRID.values() for made in calls(*case)]
    found = list(zip(every, run(every), strict=True))
    return {case: found[5 * i : 5 * i + 5] for i, case in enumerate(GRID)}


@pytest.mark.parametrize("case", GRID)
def test_it_is_the_convolution_and_its_gradients(case: str, results: Any) -> None:
    for made, (got,) in results[case]:
        assert error(got, want(made)[0]) <= 3e-6, made.op


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    every = calls((8, 17, 16, 16), (18, 17, 3, 3), {"pad": 1, "stride": 2})
    found = []
    for threads in (1, 2, 3):
        with pool.limited(threads):
            found.append([out.tobytes() for (out,) in run(every)])
    assert found[0] == found[1] == found[2]


def test_nothing_is_read_or_written_outside_the_arrays() -> None:
    every = calls((1, 3, 5, 5), (5, 3, 3, 3), {"pad": 1})
    guarded = [made._replace(arrays=[None if a is None else within_nan(a) for a in made.arrays]) for made in every]
    for made, (out,) in zip(every, run(guarded, guard=32, value=7.0), strict=True):
        np.testing.assert_allclose(out, want(made)[0], rtol=1e-4, atol=1e-5)
        memory = out.base
        assert (memory[:32] == 7).all() and (memory[-32:] == 7).all()


def test_arrays_may_have_any_memory_order() -> None:
    orders = [FIRST, (3, 2, 1, 0), (1, 0, 3, 2)]
    every = [
        Made(made.op, [a if a is None or a.ndim != 4 else lying(a, order) for a in made.arrays], made.attrs, order)
        for order in orders
        for made in calls((2, 3, 6, 6), (4, 3, 3, 3), {"pad": 1})
    ]
    for made, (got,) in zip(every, run(every), strict=True):
        assert error(got, want(made)[0]) <= 3e-6, made.order


def test_a_view_without_strides_is_an_input_too() -> None:
    ones = np.broadcast_to(np.float32(1.0), (2, 4, 5, 5))
    made = Made("convolution_data", [ones, np.ones((4, 3, 3, 3), "float32")], {"space": (5, 5), "pad": 1})
    assert error(run([made])[0][0], want(made)[0]) <= 3e-6


@pytest.mark.parametrize(
    ("attrs", "dtype", "shape", "reason"),
    [
        ({}, "float64", (2, 4, 5, 5), "float32"),
        ({"num_group": 2}, "float32", (2, 4, 5, 5), "groups"),
        ({}, "float32", (2, 4, 5), "two spatial axes"),
        ({}, "float32", (0, 4, 5, 5), "nothing"),
    ],
)
def test_what_is_not_generated_says_why(attrs: dict[str, Any], dtype: str, shape: Any, reason: str) -> None:
    weight = (6, 4 // attrs.get("num_group", 1), *[3] * (len(shape) - 2))
    made = Made("convolution", [np.zeros(shape, dtype), np.zeros(weight, dtype), None], attrs)
    assert reason in why_not(site(made))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilate", [1, 2])
def test_the_gathers_of_a_gradient_cover_each_pair_once(stride: int, dilate: int) -> None:
    length, kernel, pad = 11, 4, 2
    out = (length + 2 * pad - dilate * (kernel - 1) - 1) // stride + 1
    axis = forward_axis(length, out, kernel, stride, pad, dilate)
    pairs = {(j * axis.jump + d, k, j) for t, (k, d) in enumerate(axis.taps) for j in range(*axis.valid(t))}
    assert all(0 <= i < length for i, _, _ in pairs)
    back = [
        (a.start + j * a.step, k, j * a.jump + d)
        for a in backward_axes(length, out, kernel, stride, pad, dilate)
        for t, (k, d) in enumerate(a.taps)
        for j in range(*a.valid(t))
    ]
    assert len(back) == len(set(back))
    assert set(back) == pairs
