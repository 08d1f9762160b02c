"""Borders and shuffles against PyTorch and NumPy."""

from typing import Any

import numpy as onp
import pytest
import torch
import torch.nn as tn
import torch.nn.functional as F

from shoal import nn, npx
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.peer import agree, arrays

SPACE = {1: (7,), 2: (6, 7), 3: (3, 4, 5)}


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_borders_of_the_last_axes(mode: str, axes: int) -> None:
    sides = [1, 2, 0, 1, 2, 1][: 2 * axes]  # PyTorch's: from the last axis on
    ours = [(0, 0), (0, 0)] + [(sides[2 * a], sides[2 * a + 1]) for a in reversed(range(axes))]
    agree(lambda x: npx.pad(x, ours, mode), lambda x: F.pad(x, sides, mode), *arrays([(2, 3, *SPACE[axes])]))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
def test_a_negative_border_cuts_off(mode: str) -> None:
    agree(
        lambda x: npx.pad(x, (0, 0, 0, 0, -1, 2, 1, -2), mode),
        lambda x: F.pad(x, (1, -2, -1, 2), mode) if mode == "constant" else F.pad(x[:, :, 1:, :-2], (1, 0, 0, 2), mode),
        *arrays([(2, 3, 6, 7)]),
    )


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
def test_borders_are_numpys_even_when_they_are_wider_than_the_array(mode: Any) -> None:
    (x,) = arrays([(3, 4)])
    assert onp.array_equal(npx.pad(Tensor(x), 9, mode).asnumpy(), onp.pad(x, 9, mode))


def test_a_border_has_a_value_and_keeps_integers() -> None:
    x = Tensor(onp.arange(3))
    assert npx.pad(x, (1, 2), constant_value=7).tolist() == [7, 0, 1, 2, 7, 7]
    assert npx.pad(x, (2, 0), "symmetric").tolist() == [1, 0, 0, 1, 2]
    assert npx.pad(x, 0, "symmetric") is x


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_precisions(dtype: str) -> None:
    given = arrays([(2, 3, 6, 7)], dtype)
    agree(lambda x: npx.pad(x, (0, 0, 0, 0, 2, 2, 2, 2), "reflect"), lambda x: F.pad(x, (2,) * 4, "reflect"), *given)


def test_pixel_shuffle_and_its_reverse() -> None:
    agree(lambda x: npx.pixel_shuffle(x, 3), lambda x: F.pixel_shuffle(x, 3), *arrays([(2, 18, 4, 5)]))
    agree(lambda x: npx.pixel_unshuffle(x, 2), lambda x: F.pixel_unshuffle(x, 2), *arrays([(2, 3, 4, 6)]))
    agree(lambda x: npx.channel_shuffle(x, 3), lambda x: F.channel_shuffle(x, 3), *arrays([(2, 12, 4, 5)]))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_unshuffling_is_the_reverse_of_shuffling(axes: int) -> None:
    factors = (2, 3, 2)[:axes]
    (x,) = arrays([(2, 24, *SPACE[axes])])
    shuffled = npx.pixel_shuffle(Tensor(x), factors)
    assert shuffled.shape[2:] == tuple(n * f for n, f in zip(SPACE[axes], factors, strict=True))
    assert onp.array_equal(npx.pixel_unshuffle(shuffled, factors).asnumpy(), x)


def test_depth_to_space_has_blocks_first() -> None:
    x = onp.arange(8.0).reshape(1, 8, 1, 1)
    assert npx.depth_to_space(Tensor(x), 2).tolist() == [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]
    (y,) = arrays([(2, 12, 3, 4)])
    assert onp.array_equal(npx.space_to_depth(npx.depth_to_space(Tensor(y), 2), 2).asnumpy(), y)


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (nn.ReflectionPad1D(2), tn.ReflectionPad1d(2), (2, 3, 7)),
        (nn.ReflectionPad2D((1, 2, 0, 1)), tn.ReflectionPad2d((1, 2, 0, 1)), (2, 3, 6, 7)),
        (nn.ReflectionPad3D(1), tn.ReflectionPad3d(1), (2, 3, 3, 4, 5)),
        (nn.ReplicationPad2D((1, 2, 0, 1)), tn.ReplicationPad2d((1, 2, 0, 1)), (2, 3, 6, 7)),
        (nn.CircularPad2D((1, 2, 0, 1)), tn.CircularPad2d((1, 2, 0, 1)), (2, 3, 6, 7)),
        (nn.ConstantPad2D((1, 2, 0, -1), 1.5), tn.ConstantPad2d((1, 2, 0, -1), 1.5), (2, 3, 6, 7)),
        (nn.ZeroPad3D(1), tn.ZeroPad3d(1), (2, 3, 3, 4, 5)),
        (nn.PixelShuffle2D(2), tn.PixelShuffle(2), (2, 8, 3, 4)),
        (nn.PixelUnshuffle2D(2), tn.PixelUnshuffle(2), (2, 2, 6, 4)),
        (nn.ChannelShuffle(2), tn.ChannelShuffle(2), (2, 8, 3, 4)),
        (nn.Upsample(scale_factor=2), tn.Upsample(scale_factor=2), (2, 3, 6, 7)),
        (
            nn.Upsample((5, 9), mode="bilinear", align_corners=True),
            tn.Upsample((5, 9), mode="bilinear", align_corners=True),
            (2, 3, 6, 7),
        ),
        (nn.Unfold(3, padding=1, stride=2), tn.Unfold(3, padding=1, stride=2), (2, 3, 6, 7)),
        (nn.Fold((6, 7), 2, stride=2), tn.Fold((6, 7), 2, stride=2), (2, 12, 9)),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, tuple) else "",
)
def test_layers(ours: nn.HybridBlock, theirs: tn.Module, shape: tuple[int, ...]) -> None:
    (x,) = arrays([shape], "float32")
    for _ in range(2):
        onp.testing.assert_allclose(ours(Tensor(x)).asnumpy(), theirs(torch.tensor(x)).numpy(), rtol=1e-5, atol=1e-6)
        ours.hybridize()


IMAGE = Tensor(onp.zeros((2, 3, 5, 5), "float32"))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: npx.pad(IMAGE, 1, "mirror"), ConfigError, "symmetric"),
        (lambda: npx.pad(IMAGE, (1, 1)), ShapeError, "8 numbers"),
        (lambda: npx.pad(IMAGE, (0, 0, 0, 0, -3, -3, 0, 0)), ShapeError, "cuts off more"),
        (lambda: npx.pad(IMAGE[:0], 1, "edge"), ShapeError, "nothing to take"),
        (lambda: npx.pixel_shuffle(IMAGE, 2), ShapeError, "3 channels"),
        (lambda: npx.pixel_unshuffle(IMAGE, 2), ShapeError, "not a multiple"),
        (lambda: npx.pixel_shuffle(IMAGE, (1, 1, 1)), ConfigError, "2 spatial axes"),
        (lambda: npx.space_to_depth(IMAGE, 2), ShapeError, "not a multiple"),
        (lambda: nn.ReflectionPad2D((1, 2)), ConfigError, "padding=\\(1, 2\\)"),
        (lambda: nn.ReflectionPad2D(1)(IMAGE[0]), ShapeError, "takes 4 axes"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
