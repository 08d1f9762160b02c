"""Convolution, its transpose, and windows against PyTorch."""

from typing import Any

import numpy as onp
import pytest
import torch
import torch.nn.functional as F

from shoal import autograd, npx
from shoal.errors import ConfigError, ShapeError
from shoal.ops.tensor import Tensor
from tests.ops.peer import agree, arrays

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
SPACE = {1: (9,), 2: (7, 6), 3: (5, 4, 6)}

GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "pad": {"pad": 1},
    "stride": {"stride": 2, "pad": 1},
    "dilate": {"dilate": 2, "pad": 2},
    "groups": {"num_group": 2},
    "depthwise": {"num_group": 4, "pad": 1},
    "all": {"stride": 2, "pad": 2, "dilate": 2, "num_group": 2},
}


def torch_words(words: dict[str, Any]) -> dict[str, Any]:
    names = {
        "pad": "padding",
        "dilate": "dilation",
        "num_group": "groups",
        "adj": "output_padding",
        "stride": "stride",
    }
    return {names[n]: v for n, v in words.items()}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution(name: str, axes: int) -> None:
    words = GEOMETRIES[name]
    filters = 8 if name == "depthwise" else 6
    shapes = [(2, 4, *SPACE[axes]), (filters, 4 // words.get("num_group", 1), *[3] * axes), (filters,)]
    agree(
        lambda x, w, b: npx.convolution(x, w, b, **words),
        lambda x, w, b: CONV[axes](x, w, b, **torch_words(words)),
        *arrays(shapes),
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_convolution_in_other_precisions(dtype: str) -> None:
    agree(
        lambda x, w, b: npx.convolution(x, w, b, stride=2, pad=1),
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1),
        *arrays([(2, 5, 7, 8), (3, 5, 3, 3), (3,)], dtype),
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 3, 3), (2, 17, 33, 31)])
def test_convolution_of_odd_shapes(shape: tuple[int, ...]) -> None:
    agree(
        lambda x, w: npx.convolution(x, w, pad=1),
        lambda x, w: F.conv2d(x, w, padding=1),
        *arrays([shape, (5, shape[1], 3, 3)]),
    )


def test_a_batch_without_images_has_no_outputs_and_a_gradient_of_zero_for_the_weight() -> None:
    agree(
        lambda x, w: npx.convolution(x, w, pad=1),
        lambda x, w: F.conv2d(x, w, padding=1),
        *arrays([(0, 2, 5, 5), (3, 2, 3, 3)]),
    )


@pytest.mark.filterwarnings("ignore:Using padding")  # of PyTorch, which copies
@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize("dilate", [1, 2])
def test_same_padding_is_that_of_pytorch(kernel: int, dilate: int) -> None:
    agree(
        lambda x, w: npx.convolution(x, w, pad="same", dilate=dilate),
        lambda x, w: F.conv2d(x, w, padding="same", dilation=dilate),
        *arrays([(2, 3, 9, 8), (4, 3, kernel, 3)]),
    )


@pytest.mark.parametrize(("pad", "before", "after"), [("same", (0, 1), (1, 1)), ("same_lower", (1, 1), (0, 1))])
def test_same_padding_with_a_stride_gives_length_over_stride(pad: str, before: Any, after: Any) -> None:
    sides = (before[1], after[1], before[0], after[0])
    agree(
        lambda x, w: npx.convolution(x, w, pad=pad, stride=2),
        lambda x, w: F.conv2d(F.pad(x, sides), w, stride=2),
        *arrays([(2, 3, 8, 7), (4, 3, 3, 3)]),
    )


def test_padding_may_differ_on_both_sides() -> None:
    agree(
        lambda x, w: npx.convolution(x, w, pad=((2, 0), (1, 3)), stride=(1, 2)),
        lambda x, w: F.conv2d(F.pad(x, (1, 3, 2, 0)), w, stride=(1, 2)),
        *arrays([(2, 3, 6, 7), (4, 3, 3, 2)]),
    )
    agree(lambda x, w: npx.convolution(x, w, pad="valid"), F.conv2d, *arrays([(2, 3, 6, 7), (4, 3, 3, 2)]))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_channels_may_come_last(axes: int) -> None:
    layout = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[axes]
    agree(
        lambda x, w, b: npx.convolution(x, w, b, stride=2, pad=1, layout=layout),
        lambda x, w, b: CONV[axes](x.movedim(-1, 1), w.movedim(-1, 1), b, stride=2, padding=1).movedim(1, -1),
        *arrays([(2, *SPACE[axes], 4), (6, *[3] * axes, 4), (6,)]),
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "words",
    [
        {},
        {"stride": 2, "pad": 1, "adj": 1},
        {"dilate": 2, "pad": 1},
        {"num_group": 2, "stride": 3, "adj": 2},
        {"num_group": 4, "pad": 1},
        {"stride": 2, "dilate": 3, "pad": 2, "adj": 2, "num_group": 2},
    ],
    ids=str,
)
def test_transposed_convolution(words: dict[str, Any], axes: int) -> None:
    space = SPACE[axes][:1] + (3,) * (axes - 1)
    agree(
        lambda x, w, b: npx.deconvolution(x, w, b, **words),
        lambda x, w, b: TRANSPOSE[axes](x, w, b, **torch_words(words)),
        *arrays([(2, 4, *space), (4, 3, *[3] * axes), (3 * words.get("num_group", 1),)]),
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_transposed_convolution_in_other_precisions(dtype: str) -> None:
    given = arrays([(2, 4, 5, 6), (4, 3, 3, 3)], dtype)
    agree(
        lambda x, w: npx.deconvolution(x, w, stride=2, pad=1),
        lambda x, w: F.conv_transpose2d(x.float(), w.float(), stride=2, padding=1).to(x.dtype),
        *given,
    )


def test_a_transposed_convolution_may_cut_off_more_on_one_side() -> None:
    agree(
        lambda x, w: npx.deconvolution(x, w, stride=2, pad=((0, 1), (2, 0))),
        lambda x, w: F.conv_transpose2d(x, w, stride=2)[:, :, :-1, 2:],
        *arrays([(2, 4, 5, 6), (4, 3, 3, 3)]),
    )


@pytest.mark.parametrize(("stride", "kernel"), [(2, 3), (2, 4), (3, 2), (1, 3)])
def test_same_padding_of_a_transposed_convolution_multiplies_the_lengths_by_the_stride(
    stride: int, kernel: int
) -> None:
    x, w = (Tensor(a) for a in arrays([(2, 4, 5, 6), (4, 3, kernel, kernel)]))
    assert npx.deconvolution(x, w, stride=stride, pad="same").shape == (2, 3, 5 * stride, 6 * stride)


def test_a_transposed_convolution_may_be_given_the_shape_of_its_result() -> None:
    agree(
        lambda x, w: npx.deconvolution(x, w, stride=2, target_shape=(10, 12)),
        lambda x, w: F.conv_transpose2d(x, w, stride=2)[:, :, :-1, :-1],
        *arrays([(2, 4, 5, 6), (4, 3, 3, 3)]),
    )


def test_the_second_derivative_of_a_strided_grouped_dilated_convolution_is_that_of_pytorch() -> None:
    given = arrays([(2, 4, 9, 8), (6, 2, 3, 3)])
    ours, theirs = [Tensor(a) for a in given], [torch.tensor(a, requires_grad=True) for a in given]
    for t in ours:
        t.attach_grad()
    words = {"stride": 2, "pad": ((1, 0), (2, 1)), "dilate": 2, "num_group": 2}
    with autograd.record():
        y = npx.convolution(*ours, **words)
        (gx,) = autograd.grad((y * y * y).sum(), ours[:1], create_graph=True)
        penalty = (gx * gx).sum()
    penalty.backward()
    ty = F.conv2d(F.pad(theirs[0], (2, 1, 1, 0)), theirs[1], stride=2, dilation=2, groups=2)
    (tgx,) = torch.autograd.grad((ty**3).sum(), theirs[:1], create_graph=True)
    (tgx**2).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None and b.grad is not None
        onp.testing.assert_allclose(a.grad.asnumpy(), b.grad.numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    "words",
    [{"kernel": 3}, {"kernel": (2, 3), "stride": (2, 1), "pad": 1}, {"kernel": 2, "dilate": 3, "pad": (0, 2)}],
    ids=str,
)
def test_unfold_and_fold(words: dict[str, Any]) -> None:
    theirs = {{"pad": "padding", "dilate": "dilation"}.get(n, n): v for n, v in words.items() if n != "kernel"}
    agree(lambda x: npx.unfold(x, **words), lambda x: F.unfold(x, words["kernel"], **theirs), *arrays([(2, 3, 7, 8)]))
    columns = F.unfold(torch.zeros(2, 3, 7, 8), words["kernel"], **theirs).shape
    agree(
        lambda c: npx.fold(c, (7, 8), **words),
        lambda c: F.fold(c, (7, 8), words["kernel"], **theirs),
        *arrays([tuple(columns)]),
    )


@pytest.mark.parametrize("axes", [1, 3])
def test_fold_is_the_transpose_of_unfold_over_one_and_three_axes(axes: int) -> None:
    (x,) = arrays([(2, 3, *SPACE[axes])])
    columns = npx.unfold(Tensor(x), 2, 2, 1).asnumpy()
    (y,) = arrays([columns.shape])
    back = npx.fold(Tensor(y), SPACE[axes], 2, 2, 1).asnumpy()
    assert onp.isclose((columns * y).sum(), (x * back).sum())


IMAGE = Tensor(onp.zeros((2, 3, 5, 5), "float32"))
FILTERS = Tensor(onp.zeros((4, 3, 3, 3), "float32"))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: npx.convolution(IMAGE, FILTERS, pad="some"), ConfigError, "'same'"),
        (lambda: npx.convolution(IMAGE, FILTERS, pad=-1), ConfigError, "pad=-1"),
        (lambda: npx.convolution(IMAGE, FILTERS, pad=(1, 1, 1)), ConfigError, "2 spatial axes"),
        (lambda: npx.convolution(IMAGE, FILTERS, layout="CHWN"), ConfigError, "'NHWC'"),
        (lambda: npx.convolution(IMAGE, FILTERS, dilate=3), ShapeError, r"\(3, 3\).*\(2, 3, 5, 5\)"),
        (lambda: npx.convolution(IMAGE[0, 0], FILTERS), ShapeError, r"\(5, 5\)"),
        (lambda: npx.convolution(IMAGE, FILTERS, num_group=2), ShapeError, r"\(4, 3, 3, 3\)"),
        (lambda: npx.convolution(IMAGE, FILTERS, kernel=2), ShapeError, "kernel=2"),
        (lambda: npx.convolution(IMAGE, FILTERS, num_filter=5), ShapeError, "num_filter=5"),
        (lambda: npx.deconvolution(IMAGE, FILTERS[:3], stride=2, adj=2), ConfigError, "adj=2"),
        (lambda: npx.deconvolution(IMAGE, FILTERS[:3], pad=4), ShapeError, "nothing is left"),
        (lambda: npx.deconvolution(IMAGE, FILTERS), ShapeError, r"\(4, 3, 3, 3\)"),
        (lambda: npx.unfold(IMAGE, 6), ShapeError, r"\(6, 6\)"),
        (lambda: npx.fold(IMAGE.reshape(2, 3, 25), 7, 2), ShapeError, r"\(2, 3, 25\)"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
