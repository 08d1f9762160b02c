"""Interpolation against PyTorch."""

from typing import Any

import hypothesis
import numpy as onp
import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from hypothesis import strategies as st

from shoal import npx
from shoal.errors import ConfigError, DTypeError
from shoal.ops.resample import resample, resample_add
from shoal.ops.tensor import Tensor
from tests.ops.peer import agree, arrays

SPACE = {1: (7,), 2: (6, 7), 3: (3, 4, 5)}
SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area"])
@pytest.mark.parametrize("size", [1, 3, 6, 13])
def test_nearest_and_area(axes: int, mode: str, size: int) -> None:
    agree(
        lambda x: npx.interpolate(x, size, mode=mode),
        lambda x: F.interpolate(x, size, mode=mode),
        *arrays([(2, 3, *SPACE[axes])]),
    )


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 4, 7, 12])
def test_linear(axes: int, size: int, corners: bool) -> None:
    agree(
        lambda x: npx.interpolate(x, size, mode=SMOOTH[axes], align_corners=corners),
        lambda x: F.interpolate(x, size, mode=SMOOTH[axes], align_corners=corners),
        *arrays([(2, 3, *SPACE[axes])]),
    )


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(3, 3), (6, 14), (13, 2), (1, 1)])
@pytest.mark.parametrize("antialias", [False, True])
def test_two_axes(mode: str, size: tuple[int, int], corners: bool, antialias: bool) -> None:
    words: dict[str, Any] = {"mode": mode, "align_corners": corners, "antialias": antialias}
    agree(
        lambda x: npx.interpolate(x, size, **words), lambda x: F.interpolate(x, size, **words), *arrays([(2, 3, 6, 7)])
    )


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("factor", [0.4, 1.0, 1.7, (2.0, 0.55)])
def test_by_a_factor(mode: str, factor: Any, recompute: bool) -> None:
    words: dict[str, Any] = {"scale_factor": factor, "mode": mode}
    if recompute:
        words["recompute_scale_factor"] = True
    agree(lambda x: npx.interpolate(x, **words), lambda x: F.interpolate(x, **words), *arrays([(2, 3, 6, 7)]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_other_precisions(mode: str, dtype: str) -> None:
    agree(
        lambda x: npx.interpolate(x, (9, 4), mode=mode),
        lambda x: F.interpolate(x, (9, 4), mode=mode),
        *arrays([(2, 3, 6, 7)], dtype),
    )


def test_a_batch_without_images() -> None:
    assert npx.interpolate(Tensor(onp.zeros((0, 3, 6, 7))), 9, mode="bilinear").shape == (0, 3, 9, 9)


def test_integers_can_be_taken_from_the_nearest_only() -> None:
    x = Tensor(onp.arange(6).reshape(1, 1, 6))
    assert npx.interpolate(x, 3).tolist() == [[[0, 2, 4]]]
    with pytest.raises(DTypeError, match="int64"):
        npx.interpolate(x, 3, mode="linear")


@settings(max_examples=60)
@hypothesis.given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["nearest", "nearest-exact"]))
def test_the_nearest_is_pytorchs_for_all_lengths(length: int, size: int, mode: str) -> None:
    x = onp.arange(length, dtype="float32").reshape(1, 1, length)
    expected = F.interpolate(torch.tensor(x), size, mode=mode).numpy()
    assert onp.array_equal(npx.interpolate(Tensor(x), size, mode=mode).asnumpy(), expected)


@settings(max_examples=60)
@hypothesis.given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["nearest", "linear", "cubic", "area"]),
    st.sampled_from(["half_pixel", "align_corners", "asymmetric"]),
    st.booleans(),
)
def test_a_constant_stays_one_and_the_gradient_is_the_transpose(
    length: int, size: int, kind: str, coordinates: str, antialias: bool
) -> None:
    words: dict[str, Any] = {
        "kind": kind,
        "coordinates": coordinates,
        "antialias": antialias and kind in ("linear", "cubic"),
    }
    assert onp.allclose(resample(onp.ones((1, length)), axis=1, size=size, **words), 1.0)
    matrix = resample(onp.eye(length), axis=1, size=size, **words)
    assert onp.allclose(resample_add(onp.eye(size), axis=1, size=length, **words), matrix.T)


IMAGE = Tensor(onp.zeros((2, 3, 5, 5), "float32"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"size": 3, "mode": "linear"}, "mode='linear'"),
        ({"size": 3, "mode": "best"}, "bicubic"),
        ({}, "not both"),
        ({"size": 3, "scale_factor": 2.0}, "not both"),
        ({"size": (3, 3, 3)}, "2 lengths"),
        ({"scale_factor": 0.1}, "2 lengths"),
        ({"size": 3, "align_corners": True}, "align_corners"),
        ({"size": 3, "antialias": True}, "antialias"),
    ],
)
def test_what_does_not_fit_is_said(words: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        npx.interpolate(IMAGE, **words)
