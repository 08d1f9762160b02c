"""Convolution and pooling layers in all their forms: those of PyTorch, with the same parameters."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as tn

from shoal import nn
from shoal.ops.tensor import Tensor


def image(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype("float32")


def same(ours: nn.HybridBlock, theirs: Callable[[Any], Any], x: Any) -> None:
    """Imperative and hybridized."""
    expected = theirs(torch.tensor(x)).detach().numpy()
    for _ in range(2):
        np.testing.assert_allclose(ours(Tensor(x)).asnumpy(), expected, rtol=1e-4, atol=1e-5)
        ours.hybridize()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.Conv2D(6, 3, padding="same"), tn.Conv2d(4, 6, 3, padding="same")),
        (nn.Conv2D(6, 3, 2, padding="valid"), tn.Conv2d(4, 6, 3, 2)),
        (nn.Conv2D(6, 3, 2, padding=(1, 2), groups=2), tn.Conv2d(4, 6, 3, 2, padding=(1, 2), groups=2)),
        (
            nn.Conv2D(6, 3, padding=((1, 0), (2, 1))),
            tn.Sequential(tn.ZeroPad2d((2, 1, 1, 0)), tn.Conv2d(4, 6, 3)),
        ),
        (
            nn.Conv2DTranspose(6, 3, 2, 1, output_padding=1, dilation=2),
            tn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, dilation=2),
        ),
    ],
)
def test_convolutions(ours: nn.HybridBlock, theirs: tn.Module) -> None:
    x = image(2, 4, 9, 8)
    ours.initialize()
    ours(Tensor(x))
    weights = list(theirs.state_dict().values())
    for param, value in zip(ours.collect_params().values(), weights, strict=True):
        param.set_data(Tensor(value.numpy()))
    same(ours, theirs, x)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_with_its_channels_last(transposed: bool) -> None:
    kind = nn.Conv2DTranspose if transposed else nn.Conv2D
    ours = kind(6, 3, 2, 1, layout="NHWC", groups=2)
    ours.initialize()
    x = image(2, 9, 8, 4)
    assert ours(Tensor(x)).shape[-1] == 6
    theirs = (tn.ConvTranspose2d if transposed else tn.Conv2d)(4, 6, 3, 2, 1, groups=2)
    theirs.weight.data = torch.tensor(np.moveaxis(ours.weight.data().asnumpy(), -1, 1).copy())
    theirs.bias.data = torch.tensor(ours.bias.data().asnumpy()) if ours.bias is not None else theirs.bias.data
    same(ours, lambda v: theirs(v.movedim(-1, 1)).movedim(1, -1), x)
    assert "4 -> 6" in repr(ours)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (nn.MaxPool2D(3, 2, 1, ceil_mode=True), tn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        (nn.MaxPool2D(2, 2, dilation=2), tn.MaxPool2d(2, 2, dilation=2)),
        (nn.AvgPool2D(3, 2, 1, ceil_mode=True), tn.AvgPool2d(3, 2, 1, ceil_mode=True)),
        (nn.AvgPool2D(3, 2, divisor_override=4), tn.AvgPool2d(3, 2, divisor_override=4)),
        (nn.LPPool2D(2, 2), tn.LPPool2d(2, 2)),
        (nn.AdaptiveAvgPool2D((3, None)), tn.AdaptiveAvgPool2d((3, None))),
        (nn.AdaptiveAvgPool2D(), tn.AdaptiveAvgPool2d(1)),
        (nn.AdaptiveMaxPool2D((4, 5)), tn.AdaptiveMaxPool2d((4, 5))),
    ],
)
def test_pooling(ours: nn.HybridBlock, theirs: tn.Module) -> None:
    same(ours, theirs, image(2, 3, 9, 8))


@pytest.mark.parametrize(
    ("ours", "first"),
    [
        (nn.MaxPool2D(2, layout="NHWC"), nn.MaxPool2D(2)),
        (nn.AvgPool2D(2, padding="same", layout="NHWC"), nn.AvgPool2D(2, padding="same")),
        (nn.AdaptiveAvgPool2D(3, layout="NHWC"), nn.AdaptiveAvgPool2D(3)),
        (nn.GlobalMaxPool2D(layout="NHWC"), nn.GlobalMaxPool2D()),
    ],
)
def test_pooling_with_the_channels_last(ours: nn.HybridBlock, first: nn.HybridBlock) -> None:
    x = image(2, 9, 8, 3)
    expected = np.moveaxis(first(Tensor(np.moveaxis(x, -1, 1).copy())).asnumpy(), 1, -1)
    assert np.array_equal(ours(Tensor(x)).asnumpy(), expected)


def test_unpooling_puts_the_largest_back() -> None:
    x = image(2, 3, 8, 6)
    pooled, places = nn.MaxPool2D(2, return_indices=True)(Tensor(x))
    t, where = tn.MaxPool2d(2, return_indices=True)(torch.tensor(x))
    again = nn.MaxUnpool2D(2)(pooled, places).asnumpy()
    assert np.array_equal(again, tn.MaxUnpool2d(2)(t, where).numpy())
