"""Grids, regions, boxes and columns of images."""

from typing import Any

import numpy as np

from shoal.ops import boxes, deform, points, regions, windows
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []

MODES = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}


@node("GridSample")
def grid_sample(c: Call, x: Any, grid: Any) -> Any:
    """Elements at the places of a grid."""
    mode = MODES[c.get("mode", "linear")]
    corners = bool(c.get("align_corners", 0))
    return points.grid_sample(x, grid, mode, c.get("padding_mode", "zeros"), corners)


@node("AffineGrid", known=[1])
def affine_grid(c: Call, theta: Any, size: Any) -> Any:
    """The grid of an affine map."""
    return points.affine_grid(theta, c.ints(size, "the size"), bool(c.get("align_corners", 0)))


@node("RoiAlign")
def roi_align(c: Call, x: Any, rois: Any, images: Any) -> Any:
    """Regions at one size: the mean, or the largest, of points in each bin."""
    if c.get("mode", "avg") != "avg":
        raise c.refuse("only the mean of the points of a bin is known here, not the largest")
    first = shaping.reshape(cast(images, np.dtype(rois.dtype)), (-1, 1))
    half = c.get("coordinate_transformation_mode", "half_pixel" if c.opset >= 16 else "output_half_pixel")
    return regions.roi_align(
        x,
        shaping.concatenate([first, rois], axis=1),
        (int(c.get("output_height", 1)), int(c.get("output_width", 1))),
        float(c.get("spatial_scale", 1.0)),
        int(c.get("sampling_ratio", 0)) or -1,
        half == "half_pixel",
    )


@node("Col2Im", known=[1, 2])
def col2im(c: Call, columns: Any, image: Any, block: Any) -> Any:
    """Columns added up where their blocks overlap."""
    space, kernel = c.ints(image, "the shape"), c.ints(block, "the block")
    k = len(space)
    pads = c.get("pads", (0,) * 2 * k)
    border = tuple(zip(pads[:k], pads[k:], strict=True))
    return windows.fold(
        columns, space, kernel, tuple(c.get("strides", (1,) * k)), border, tuple(c.get("dilations", (1,) * k))
    )


@node("DeformConv")
def deform_conv(c: Call, x: Any, weight: Any, offset: Any, bias: Any = None, mask: Any = None) -> Any:
    """Convolution with bent windows."""
    pads = tuple(c.get("pads", (0, 0, 0, 0)))
    if pads[:2] != pads[2:]:
        raise c.refuse(f"padding differs at the two ends ({pads}), which is not known here")
    return deform.deformable_convolution(
        x,
        offset,
        weight,
        bias,
        mask,
        stride=tuple(c.get("strides", (1, 1))),
        pad=pads[:2],
        dilate=tuple(c.get("dilations", (1, 1))),
        num_group=int(c.get("group", 1)),
        num_deformable_group=int(c.get("offset_group", 1)),
    )


@node("NonMaxSuppression")
def non_max_suppression(
    c: Call, corners: Any, scores: Any, most: Any = None, overlap: Any = None, least: Any = None
) -> Any:
    """(image, class, box) of the boxes that are kept, best first."""
    limit = 0 if most is None else c.ints(most, "the number")[0]
    threshold = 0.0 if overlap is None else float(c.known(overlap, "the overlap").reshape(()))
    box, score = c.known(corners, "the boxes"), c.known(scores, "the scores")
    if c.get("center_point_box", 0):
        box = np.asarray(boxes.box_convert(box, "center", "corner"))
    else:  # any two opposite corners, y first
        low, high = np.minimum(box[..., :2], box[..., 2:]), np.maximum(box[..., :2], box[..., 2:])
        box = np.concatenate([low, high], axis=-1)
    found = []
    for image, kind in np.ndindex(*score.shape[:2]):
        each = score[image, kind]
        some = np.flatnonzero(each > float(c.known(least, "the score").reshape(()))) if least is not None else None
        some = np.arange(len(each)) if some is None else some
        kept = some[np.asarray(boxes.nms(box[image, some], each[some], threshold))][:limit]
        found += [(image, kind, int(k)) for k in kept]
    return np.array(found, np.int64).reshape(-1, 3)
