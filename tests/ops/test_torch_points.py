"""Sampling of images at points, deformed windows, regions and boxes."""

import itertools
from typing import Any

import numpy as onp
import pytest
import torch
import torch.nn.functional as F

from shoal import nn, np, npx
from shoal.errors import ConfigError, GraphError, ShapeError
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor
from tests.ops.peer import agree, arrays, run

# -- grids


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(mode: str, padding: str, corners: bool) -> None:
    words: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    x, grid = arrays([(2, 3, 5, 6), (2, 4, 7, 2)])
    agree(lambda x, g: npx.grid_sample(x, g, **words), lambda x, g: F.grid_sample(x, g, **words), x, grid * 0.8)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_grid_sample_of_volumes(mode: str) -> None:
    words: dict[str, Any] = {"mode": mode, "align_corners": False}
    agree(
        lambda x, g: npx.grid_sample(x, g, **words),
        lambda x, g: F.grid_sample(x, g, **words),
        *arrays([(2, 3, 3, 4, 5), (2, 2, 3, 4, 3)], low=-1.2, high=1.2),
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_grid_sample_in_other_precisions(dtype: str) -> None:
    x, grid = arrays([(2, 3, 5, 6), (2, 4, 7, 2)], dtype)
    agree(
        lambda x: npx.grid_sample(x, Tensor(grid)),
        lambda x: F.grid_sample(x.float(), torch.tensor(grid).float(), align_corners=False).to(x.dtype),
        x,
    )


@pytest.mark.filterwarnings("ignore:Since version 1.3.0")
@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 1, 3), (2, 1, 2, 3, 4)])
def test_affine_grid(size: tuple[int, ...], corners: bool) -> None:
    k = len(size) - 2
    agree(
        lambda t: npx.affine_grid(t, size, corners),
        lambda t: F.affine_grid(t, list(size), corners),
        *arrays([(2, k, k + 1)]),
    )


def test_the_identity_samples_the_image_itself() -> None:
    (x,) = arrays([(2, 3, 5, 6)])
    theta = Tensor(onp.tile(onp.eye(2, 3), (2, 1, 1)))
    for corners in (False, True):
        found = npx.grid_sample(Tensor(x), npx.affine_grid(theta, x.shape, corners), align_corners=corners)
        onp.testing.assert_allclose(found.asnumpy(), x, atol=1e-12)
    grid = onp.moveaxis(npx.affine_grid(theta, x.shape, True).asnumpy(), -1, 1)
    onp.testing.assert_allclose(npx.bilinear_sampler(Tensor(x), Tensor(grid.copy())).asnumpy(), x, atol=1e-12)


# -- deformed windows


def bent(
    x: Any, offset: Any, weight: Any, mask: Any, stride: int, pad: int, dilate: int, groups: int, deformable: int
) -> Any:
    """The definition, tap by tap, with PyTorch's sampling."""
    n, c, h, w = x.shape
    kh, kw = weight.shape[2:]
    oh, ow = offset.shape[2:]
    columns = []
    for g, (i, j) in itertools.product(range(deformable), itertools.product(range(kh), range(kw))):
        tap = g * kh * kw + i * kw + j
        rows = torch.arange(oh, dtype=x.dtype)[:, None] * stride - pad + i * dilate + offset[:, 2 * tap]
        cols = torch.arange(ow, dtype=x.dtype)[None, :] * stride - pad + j * dilate + offset[:, 2 * tap + 1]
        grid = torch.stack([cols * 2 / (w - 1) - 1, rows * 2 / (h - 1) - 1], -1)
        part = x[:, g * c // deformable : (g + 1) * c // deformable]
        value = F.grid_sample(part, grid, align_corners=True)
        columns.append(value if mask is None else value * mask[:, tap : tap + 1])
    stacked = torch.stack(columns, 1).reshape(n, deformable, kh * kw, c // deformable, oh, ow)
    flat = stacked.transpose(2, 3).reshape(n, groups, c // groups * kh * kw, oh * ow)
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    return (matrix @ flat).reshape(n, weight.shape[0], oh, ow)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("stride", "pad", "dilate", "groups", "deformable"),
    [(1, 1, 1, 1, 1), (2, 1, 1, 2, 1), (1, 2, 2, 1, 2), (1, 1, 1, 2, 4)],
)
def test_deformable_convolution(stride: int, pad: int, dilate: int, groups: int, deformable: int, masked: bool) -> None:
    geometry = stride, pad, dilate, groups, deformable
    out = tuple((n + 2 * pad - 2 * dilate - 1) // stride + 1 for n in (6, 7))
    shapes = [(2, 4, 6, 7), (2, 18 * deformable, *out), (6, 4 // groups, 3, 3), (2, 9 * deformable, *out)]
    agree(
        lambda x, o, w, *m: npx.deformable_convolution(x, o, w, None, *(m or (None,)), *geometry),
        lambda x, o, w, *m: bent(x, o, w, *(m or (None,)), *geometry),
        *arrays(shapes if masked else shapes[:3]),
    )


@pytest.mark.parametrize("kind", [nn.DeformableConvolution, nn.ModulatedDeformableConvolution])
def test_a_deformable_layer_begins_as_a_convolution(kind: Any) -> None:
    (x,) = arrays([(2, 4, 6, 7)], "float32")
    layer = kind(6, 3, 2, 1, groups=2)
    layer.initialize()
    y = layer(Tensor(x))
    params = [Tensor(p.data().asnumpy()) for p in (layer.weight, layer.bias)]
    expected = npx.convolution(Tensor(x), *params, stride=2, pad=1, num_group=2).asnumpy()
    onp.testing.assert_allclose(y.asnumpy(), expected, rtol=1e-4, atol=1e-5)
    layer.hybridize()
    onp.testing.assert_allclose(layer(Tensor(x)).asnumpy(), y.asnumpy(), rtol=1e-5, atol=1e-6)
    assert layer.offset.weight.shape[0] == 9 * (3 if kind is nn.ModulatedDeformableConvolution else 2)


# -- regions

ROIS = onp.array([[0, 0.5, 1.2, 4.7, 3.9], [1, 1.0, 0.0, 6.0, 5.0], [1, 2.2, 2.2, 2.4, 2.3], [0, -3.0, -2.0, 9.0, 8.0]])


def aligned_by_definition(x: Any, size: tuple[int, int], scale: float, ratio: int, shifted: bool) -> Any:
    out = []
    shift = 0.5 if shifted else 0.0
    for number, x1, y1, x2, y2 in ROIS:
        image, (h, w) = x[int(number)], x.shape[2:]
        top, left = y1 * scale - shift, x1 * scale - shift
        height, width = (y2 - y1) * scale, (x2 - x1) * scale
        if not shifted:
            height, width = max(height, 1.0), max(width, 1.0)
        counts = [
            ratio if ratio > 0 else max(int(onp.ceil(e / n)), 1) for e, n in zip((height, width), size, strict=True)
        ]
        found = torch.zeros(x.shape[1], *size, dtype=x.dtype)
        for i, j in itertools.product(range(size[0]), range(size[1])):
            total = torch.zeros(x.shape[1], dtype=x.dtype)
            for a, b in itertools.product(range(counts[0]), range(counts[1])):
                y = top + (i + (a + 0.5) / counts[0]) * height / size[0]
                z = left + (j + (b + 0.5) / counts[1]) * width / size[1]
                if -1 <= y <= h and -1 <= z <= w:
                    y, z = min(max(y, 0.0), h - 1.0), min(max(z, 0.0), w - 1.0)
                    r, c = int(y), int(z)
                    r2, c2, p, q = min(r + 1, h - 1), min(c + 1, w - 1), y - r, z - c
                    total = total + image[:, r, c] * (1 - p) * (1 - q) + image[:, r2, c] * p * (1 - q)
                    total = total + image[:, r, c2] * (1 - p) * q + image[:, r2, c2] * p * q
            found[:, i, j] = total / (counts[0] * counts[1])
        out.append(found)
    return torch.stack(out)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("ratio", "scale"), [(2, 1.0), (-1, 1.0), (1, 0.5)])
def test_roi_align(ratio: int, scale: float, shifted: bool) -> None:
    agree(
        lambda x: npx.roi_align(x, Tensor(ROIS), (2, 3), scale, ratio, shifted),
        lambda x: aligned_by_definition(x, (2, 3), scale, ratio, shifted),
        *arrays([(2, 3, 6, 7)]),
        graph=ratio > 0,
    )


def test_roi_align_in_a_graph_needs_the_number_of_points() -> None:
    (x,) = arrays([(2, 3, 6, 7)])
    with pytest.raises(GraphError, match="sample_ratio"):
        Compiled(lambda t, r: npx.roi_align(t, r, 2), "regions")(Tensor(x), Tensor(ROIS))
    assert npx.roi_align(Tensor(x), Tensor(ROIS[:0]), 2).shape == (0, 3, 2, 2)


def pooled_by_definition(x: Any, size: tuple[int, int]) -> Any:
    out = []
    for number, *corners in ROIS:
        x1, y1, x2, y2 = (int(onp.floor(onp.abs(c) + 0.5) * onp.sign(c)) for c in corners)
        image = x[int(number)]
        found = torch.zeros(x.shape[1], *size, dtype=x.dtype)
        for i, j in itertools.product(range(size[0]), range(size[1])):
            h, w = max(y2 - y1 + 1, 1) / size[0], max(x2 - x1 + 1, 1) / size[1]
            rows = [int(onp.clip(v + y1, 0, x.shape[2])) for v in (onp.floor(i * h), onp.ceil((i + 1) * h))]
            cols = [int(onp.clip(v + x1, 0, x.shape[3])) for v in (onp.floor(j * w), onp.ceil((j + 1) * w))]
            part = image[:, rows[0] : rows[1], cols[0] : cols[1]]
            if part.numel():
                found[:, i, j] = part.reshape(x.shape[1], -1).max(1).values
        out.append(found)
    return torch.stack(out)


@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_roi_pool(size: tuple[int, int]) -> None:
    agree(
        lambda x: npx.roi_pool(x, Tensor(ROIS), size),
        lambda x: pooled_by_definition(x, size),
        *arrays([(2, 3, 6, 7)]),
    )


# -- boxes

BOXES = onp.array([[0, 0, 4, 4], [1, 1, 5, 5], [0, 0, 4, 3.5], [6, 6, 8, 8], [6, 6, 8, 8.1], [20, 20, 20, 20.0]])
SCORES = onp.array([0.5, 0.9, 0.8, 0.3, 0.3, 0.1])


def test_the_overlap_of_boxes() -> None:
    def by_definition(a: Any, b: Any) -> Any:
        low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
        common = (high - low).clamp(min=0).prod(-1)
        areas = [(v[:, 2:] - v[:, :2]).prod(-1) for v in (a, b)]
        return common / (areas[0][:, None] + areas[1][None] - common)

    agree(npx.box_iou, by_definition, BOXES[:4], BOXES[1:5] + 0.3)
    nothing = npx.box_iou(Tensor(BOXES[5:]), Tensor(BOXES[5:])).asnumpy()
    assert nothing.tolist() == [[0.0]]


@pytest.mark.parametrize("form", ["corner", "center", "xywh"])
def test_boxes_have_several_forms(form: str) -> None:
    there = npx.box_convert(Tensor(BOXES), "corner", form)
    onp.testing.assert_allclose(npx.box_convert(there, form, "corner").asnumpy(), BOXES)
    same = npx.box_iou(there, there, form).asnumpy()
    onp.testing.assert_allclose(same, npx.box_iou(Tensor(BOXES), Tensor(BOXES)).asnumpy())
    assert npx.box_convert(Tensor(BOXES[:1]), "corner", "center").tolist() == [[2.0, 2.0, 4.0, 4.0]]
    with pytest.raises(ConfigError, match="'yxyx'"):
        npx.box_convert(Tensor(BOXES), form, "yxyx")


def test_non_maximum_suppression_keeps_the_best_of_those_that_overlap() -> None:
    boxes, scores = Tensor(BOXES), Tensor(SCORES)
    assert npx.nms(boxes, scores, 0.3).tolist() == [1, 3, 5]
    assert npx.nms(boxes, scores, 0.5).tolist() == [1, 2, 3, 5]
    assert npx.nms(boxes, scores, 0.99).tolist() == [1, 2, 0, 3, 4, 5]
    assert npx.nms(boxes, scores, 0.3, Tensor(onp.array([0, 1, 0, 0, 1, 0]))).tolist() == [1, 2, 3, 4, 5]
    assert npx.nms(Tensor(BOXES[:0]), Tensor(SCORES[:0]), 0.5).tolist() == []
    with pytest.raises(GraphError, match="box_nms"):
        Compiled(lambda b, s: npx.nms(b, s, 0.5), "kept")(boxes, scores)


def test_mxnets_suppression_keeps_the_shape_and_the_gradient() -> None:
    rows = onp.concatenate([onp.array([[0], [0], [0], [1], [1], [0.0]]), SCORES[:, None], BOXES], 1)
    data = onp.stack([rows, rows[::-1]])
    found = npx.box_nms(Tensor(data), 0.3, 0.2, id_index=0).asnumpy()
    assert onp.array_equal(found[0, :2], rows[[1, 3]]) and (found[0, 2:] == -1).all()
    assert onp.array_equal(found[1, :2], rows[[1, 4]])
    dropped = npx.box_nms(Tensor(data), 0.3, 0.2, id_index=0, background_id=0).asnumpy()
    assert onp.array_equal(dropped[0, 0], rows[3]) and (dropped[0, 1:] == -1).all()
    middle = npx.box_nms(Tensor(data), 0.3, 0.2, out_format="center").asnumpy()
    assert middle[0, 0].tolist() == [0.0, 0.9, 3.0, 3.0, 4.0, 4.0]
    _, (grad,) = run(lambda t: npx.box_nms(t, 0.3, 0.2, topk=3), [data])
    assert (grad[0].any(1) == [False, True, False, False, False, False]).all()


X = Tensor(onp.zeros((2, 3, 5, 6)))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: npx.grid_sample(X, np.zeros((2, 4, 7, 3))), ShapeError, r"\(2, 4, 7, 3\)"),
        (lambda: npx.grid_sample(X, np.zeros((2, 4, 7, 2)), "cubic"), ConfigError, "'bicubic'"),
        (lambda: npx.grid_sample(X, np.zeros((2, 4, 7, 2)), padding_mode="wrap"), ConfigError, "'reflection'"),
        (lambda: npx.affine_grid(np.zeros((2, 2, 3)), (2, 3, 4)), ShapeError, r"\(2, 2, 3\)"),
        (lambda: npx.roi_align(X, np.zeros((2, 4)), 2), ShapeError, r"\(2, 4\)"),
        (lambda: npx.roi_pool(X, np.zeros((2, 4)), 2), ShapeError, r"\(2, 4\)"),
        (lambda: npx.box_iou(np.zeros((2, 3)), np.zeros((2, 4))), ShapeError, r"\(2, 3\)"),
        (lambda: npx.nms(np.zeros((2, 4)), np.zeros(3), 0.5), ShapeError, r"\(3,\)"),
        (
            lambda: npx.deformable_convolution(X, np.zeros((2, 18, 3, 5)), np.zeros((4, 3, 3, 3))),
            ShapeError,
            r"\(2, 18, 3, 5\), expected \(2, 18, 3, 4\)",
        ),
        (
            lambda: npx.deformable_convolution(X, np.zeros((2, 18, 3, 4)), np.zeros((4, 2, 3, 3))),
            ShapeError,
            r"\(4, 2, 3, 3\)",
        ),
        (lambda: nn.DeformableConvolution(4, 3, groups=3), ConfigError, "groups=3"),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
