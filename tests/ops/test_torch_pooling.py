"""Pooling in all its forms against PyTorch."""

from typing import Any

import numpy as onp
import pytest
import torch
import torch.nn.functional as F

from shoal import npx
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.peer import agree, arrays, run

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
SPACE = {1: (11,), 2: (8, 7), 3: (5, 6, 7)}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilate"), [(2, None, 0, 1), (3, 2, 1, 1), (3, 1, 1, 1), (2, 3, 0, 1), (2, 2, 1, 2)]
)
def test_max_pool(axes: int, kernel: int, stride: int | None, pad: int, dilate: int, ceil_mode: bool) -> None:
    given = arrays([(2, 3, *SPACE[axes])])
    words: dict[str, Any] = {"ceil_mode": ceil_mode}
    agree(
        lambda x: npx.max_pool(x, kernel, stride, pad, dilate, **words),
        lambda x: MAX[axes](x, kernel, stride, pad, dilate, **words),
        *given,
    )
    found, places = npx.max_pool(Tensor(given[0]), kernel, stride, pad, dilate, return_indices=True, **words)
    values, indices = MAX[axes](torch.tensor(given[0]), kernel, stride, pad, dilate, return_indices=True, **words)
    assert onp.array_equal(found.asnumpy(), values.numpy())
    assert places.dtype == "int64" and onp.array_equal(places.asnumpy(), indices.numpy())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, None, 0), (3, 2, 1), (2, 3, 1), (3, 1, 1)])
def test_avg_pool(axes: int, kernel: int, stride: int | None, pad: int, ceil_mode: bool, include: bool) -> None:
    words: dict[str, Any] = {"ceil_mode": ceil_mode, "count_include_pad": include}
    agree(
        lambda x: npx.avg_pool(x, kernel, stride, pad, **words),
        lambda x: AVG[axes](x, kernel, stride, pad, **words),
        *arrays([(2, 3, *SPACE[axes])]),
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pooling_in_other_precisions(dtype: str) -> None:
    given = arrays([(2, 3, 9, 9)], dtype)
    agree(lambda x: npx.max_pool(x, 3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, 1), *given)
    agree(lambda x: npx.avg_pool(x, 3, 2, 1), lambda x: F.avg_pool2d(x, 3, 2, 1), *given)


def test_a_sum_of_many_halves_has_the_digits_of_a_half() -> None:
    x = onp.full((1, 1, 64, 64), 0.1, "float16")
    found = npx.sum_pool(Tensor(x), 64).item()
    assert found == onp.float16(x.astype("float64").sum())


@pytest.mark.parametrize("shape", [(0, 3, 6, 6), (1, 1, 2, 2), (3, 1, 33, 17)])
def test_pooling_of_odd_shapes(shape: tuple[int, ...]) -> None:
    agree(lambda x: npx.max_pool(x, 2), lambda x: F.max_pool2d(x, 2), *arrays([shape]))
    agree(lambda x: npx.avg_pool(x, 2), lambda x: F.avg_pool2d(x, 2), *arrays([shape]))


def test_a_divisor_may_be_given() -> None:
    agree(
        lambda x: npx.avg_pool(x, 3, 2, 1, divisor_override=5),
        lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
        *arrays([(2, 3, 8, 7)]),
    )


def test_of_equal_elements_the_first_gets_the_gradient_and_nan_wins() -> None:
    x = onp.array([[[1.0, 1.0, 0.0, 0.5, 2.0, 2.0]]])
    agree(lambda x: npx.max_pool(x, 2), lambda x: F.max_pool1d(x, 2), x)
    assert onp.isnan(npx.max_pool(Tensor(onp.array([[[0.0, onp.nan]]])), 2).item())
    agree(lambda x: npx.max_pool(x, 2, 1, 0, 2), lambda x: F.max_pool1d(x, 2, 1, 0, 2), x[..., :3])


@pytest.mark.parametrize("pad", ["same", ((0, 1), (2, 1))])
def test_padding_may_be_one_sided(pad: Any) -> None:
    sides = (1, 1, 0, 1) if pad == "same" else (2, 1, 0, 1)
    agree(
        lambda x: npx.max_pool(x, 3, 2, pad),
        lambda x: F.max_pool2d(F.pad(x, sides, value=-torch.inf), 3, 2),
        *arrays([(2, 3, 8, 7)]),
    )
    agree(
        lambda x: npx.sum_pool(x, 3, 2, pad),
        lambda x: F.avg_pool2d(F.pad(x, sides), 3, 2) * 9,
        *arrays([(2, 3, 8, 7)]),
    )


@pytest.mark.parametrize("p", [1, 2, 3, 4.0])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_lp_pool(p: float, ceil_mode: bool) -> None:
    # PyTorch takes a mean times the size of the whole window, which counts the rest of a window over the end as zeros
    # only if they are there: without them it is something else.
    space = (8, 6) if ceil_mode else (9, 7)
    agree(
        lambda x: npx.lp_pool(x, p, 2, ceil_mode=ceil_mode),
        lambda x: F.lp_pool2d(x, p, 2, ceil_mode=ceil_mode),
        *arrays([(2, 3, *space)], low=0.1),
    )


def test_lp_pool_of_zeros_has_no_slope_and_of_infinity_is_the_largest_size() -> None:
    x = onp.zeros((1, 1, 4), "float32")
    x[..., 2] = -3.0
    found, (slope,) = run(lambda t: npx.lp_pool(t, 2, 2), [x])
    assert found.tolist() == [[[0.0, 3.0]]] and slope[..., :2].tolist() == [[[0.0, 0.0]]]
    assert npx.lp_pool(Tensor(x), float("inf"), 2).tolist() == [[[0.0, 3.0]]]
    assert npx.global_lp_pool(Tensor(x), 2.0).tolist() == [[[3.0]]]
    assert npx.global_lp_pool(Tensor(x), float("inf")).tolist() == [[[3.0]]]
    with pytest.raises(ConfigError, match=r"p=0\.5"):
        npx.lp_pool(Tensor(x), 0.5, 2)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5, None])
def test_adaptive_pooling(axes: int, size: int | None) -> None:
    wanted: Any = (size, *SPACE[axes][1:]) if size is None else size
    theirs_avg = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[axes]
    theirs_max: Any = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[axes]
    given = arrays([(2, 3, *SPACE[axes])])
    full = SPACE[axes] if size is None else size
    agree(lambda x: npx.adaptive_avg_pool(x, wanted), lambda x: theirs_avg(x, full), *given)
    agree(lambda x: npx.adaptive_max_pool(x, wanted), lambda x: theirs_max(x, full), *given)
    _, places = npx.adaptive_max_pool(Tensor(given[0]), wanted, return_indices=True)
    _, expected = theirs_max(torch.tensor(given[0]), full, return_indices=True)
    assert onp.array_equal(places.asnumpy(), expected.numpy())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("overlapping", [False, True])
def test_max_unpool(axes: int, overlapping: bool) -> None:
    unpool: Any = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}[axes]
    stride = 1 if overlapping else 2
    (x,) = arrays([(2, 3, *SPACE[axes])])
    values, indices = MAX[axes](torch.tensor(x), 2, stride, return_indices=True)
    size = SPACE[axes]
    agree(
        lambda v: npx.max_unpool(v, indices.numpy(), 2, stride, output_size=size),
        lambda v: unpool(v, indices, 2, stride, output_size=size),
        values.numpy(),
    )
    if not overlapping:
        anywhere = onp.zeros(indices.shape, "int64")
        expected = unpool(values, torch.tensor(anywhere), 2).shape
        assert npx.max_unpool(Tensor(values.numpy()), anywhere, 2).shape == tuple(expected)


@pytest.mark.parametrize("pool_type", ["max", "avg", "sum", "lp"])
@pytest.mark.parametrize("more", [{}, {"global_pool": True}, {"pooling_convention": "full", "stride": 2}], ids=str)
def test_channels_may_come_last(pool_type: str, more: dict[str, Any]) -> None:
    (x,) = arrays([(2, 8, 7, 3)])
    last = npx.pooling(Tensor(x), 3, pool_type=pool_type, layout="NHWC", **more).asnumpy()
    first = npx.pooling(Tensor(onp.moveaxis(x, -1, 1).copy()), 3, pool_type=pool_type, **more).asnumpy()
    assert onp.allclose(last, onp.moveaxis(first, 1, -1))


IMAGE = Tensor(onp.zeros((2, 3, 5, 5), "float32"))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: npx.max_pool(IMAGE, 6), ShapeError, r"\(6, 6\).*\(2, 3, 5, 5\)"),
        (lambda: npx.max_pool(IMAGE, 2, pad=2), ShapeError, "smaller than it"),
        (lambda: npx.avg_pool(IMAGE[0, 0], 2), ShapeError, r"\(5, 5\)"),
        (lambda: npx.avg_pool(IMAGE, 2, (1, 1, 1)), ConfigError, "2 spatial axes"),
        (lambda: npx.adaptive_avg_pool(IMAGE, 0), ConfigError, "output_size=0"),
        (lambda: npx.max_unpool(IMAGE, onp.full((2, 3, 5, 5), 900), 2), IndexError, "900"),
        (lambda: npx.max_unpool(IMAGE, onp.zeros((2, 3)), 2), ShapeError, r"\(2, 3\)"),
        (lambda: npx.pooling(IMAGE, 2, pool_type="median"), ConfigError, "'lp'"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
