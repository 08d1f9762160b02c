"""Boxes: how much they overlap, and which of many that overlap are kept."""

import math
from typing import Any

import numpy as np

from shoal.errors import ConfigError, GraphError, ShapeError
from shoal.ops import specs
from shoal.ops.backend import asnumpy
from shoal.ops.elementwise import maximum, minimum, where
from shoal.ops.index import take_along_axis
from shoal.ops.registry import Array, Op, Spec, op
from shoal.ops.shape import concatenate, expand_dims
from shoal.ops.tensor import Tensor

__all__ = ["box_area", "box_convert", "box_iou", "box_nms", "nms", "suppressed"]

FORMATS = ("corner", "center", "xywh")


def box_convert(boxes: Any, in_format: str, out_format: str) -> Any:
    """Boxes (..., 4) in another form.

    Args:
        in_format, out_format: "corner" (left, top, right, bottom), "center" (middle x, middle y, width, height),
            "xywh" (left, top, width, height).
    Raises:
        ConfigError: there is no such form.
    """
    if in_format not in FORMATS or out_format not in FORMATS:
        raise ConfigError(f"box_convert: {in_format!r} to {out_format!r}; there are {', '.join(map(repr, FORMATS))}")
    if in_format == out_format:
        return boxes
    first, second = boxes[..., :2], boxes[..., 2:4]
    if in_format == "center":
        first, second = first - second * 0.5, first + second * 0.5
    elif in_format == "xywh":
        second = first + second
    if out_format == "center":
        first, second = (first + second) * 0.5, second - first
    elif out_format == "xywh":
        second = second - first
    return concatenate([first, second], axis=-1)


def box_area(boxes: Any) -> Any:
    """Areas of boxes (..., 4) given by their corners."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(lhs: Any, rhs: Any, format: str = "corner") -> Any:
    """Area of the intersection over that of the union, for each pair of boxes.

    Args:
        lhs, rhs: (..., n, 4), (..., m, 4).
        format: of both; see `box_convert`.
    Returns:
        (..., n, m); 0 for two boxes without area.
    Raises:
        ShapeError: boxes have no four numbers.
    """
    if tuple(lhs.shape[-1:]) != (4,) or tuple(rhs.shape[-1:]) != (4,):
        raise ShapeError(f"box_iou: boxes have shapes {tuple(lhs.shape)} and {tuple(rhs.shape)}; expected (..., n, 4)")
    a, b = box_convert(lhs, format, "corner"), box_convert(rhs, format, "corner")
    left, right = expand_dims(a, -2), expand_dims(b, -3)
    sides = maximum(minimum(left[..., 2:], right[..., 2:]) - maximum(left[..., :2], right[..., :2]), 0.0)
    common = sides[..., 0] * sides[..., 1]
    union = expand_dims(box_area(a), -1) + expand_dims(box_area(b), -2) - common
    some = union > 0.0
    return where(some, common / where(some, union, 1.0), 0.0)


def _one_of_each(op: Op[Any], boxes: Spec, scores: Spec, classes: Spec | None = None, **attrs: Any) -> Spec:
    if boxes.shape != (*scores.shape, 4) or (classes is not None and classes.shape != scores.shape):
        raise ShapeError(
            f"{op.name}: boxes have shape {boxes.shape}, scores {scores.shape}"
            + ("" if classes is None else f", classes {classes.shape}")
            + "; expected (..., n, 4) and (..., n)"
        )
    specs.require_float(op, "boxes", boxes)
    return Spec(scores.shape, np.dtype(np.int64))


@op(_one_of_each)
def suppressed(
    xp: Any,
    boxes: Array,
    scores: Array,
    classes: Array = None,
    iou_threshold: float = 0.5,
    score_threshold: float = -float("inf"),
    topk: int = -1,
) -> Any:
    """The boxes that non-maximum suppression keeps: their positions, best first, and then -1.

    A box is dropped if it overlaps a better one that is kept by more than ``iou_threshold``.

    Args:
        boxes: (..., n, 4), corners.
        scores: (..., n). Of equal scores the first is better.
        classes: (..., n): only boxes of one class suppress each other; all do if None.
        score_threshold: boxes that do not score more are dropped.
        topk: only the best so many take part; all if negative.
    Returns:
        int64 (..., n).
    """
    n = scores.shape[-1]
    rows = math.prod(scores.shape[:-1])
    flat_boxes, flat_scores = asnumpy(boxes).reshape(rows, n, 4), asnumpy(scores).reshape(rows, n)
    flat_classes = None if classes is None else asnumpy(classes).reshape(rows, n)
    found = np.full(flat_scores.shape, -1, np.int64)
    for i, (b, s) in enumerate(zip(flat_boxes, flat_scores, strict=True)):
        kept = _kept(b, s, None if flat_classes is None else flat_classes[i], iou_threshold, score_threshold, topk)
        found[i, : len(kept)] = kept
    return xp.asarray(found.reshape(scores.shape))


def _kept(boxes: Any, scores: Any, classes: Any, threshold: float, least: float, topk: int) -> list[int]:
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    order = order[scores[order] > least]
    order = order if topk < 0 else order[:topk]
    boxes = boxes.astype(np.float64) if boxes.dtype.itemsize < 4 else boxes
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while order.size:
        best, order = int(order[0]), order[1:]
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        sides = np.maximum(np.minimum(boxes[best, 2:], boxes[order, 2:]) - low, 0)
        common = sides[:, 0] * sides[:, 1]
        union = areas[best] + areas[order] - common
        much = common > threshold * union
        order = order[~much if classes is None else ~much | (classes[order] != classes[best])]
    return kept


def nms(boxes: Any, scores: Any, iou_threshold: float, idxs: Any = None) -> Any:
    """Positions of the boxes that non-maximum suppression keeps, best first; torchvision's nms and batched_nms.

    Args:
        boxes: (n, 4), corners.
        scores: (n,).
        iou_threshold: a box that overlaps a better one by more is dropped.
        idxs: (n,), integers: only boxes with the same number suppress each other.
    Returns:
        int64, as many as are kept.
    Raises:
        GraphError: in a graph, whose shapes must not depend on values; `box_nms` can be in one.
    """
    found = suppressed(boxes, scores, idxs, iou_threshold=iou_threshold)
    if not isinstance(found, (Tensor, np.ndarray)):
        raise GraphError("nms: how many boxes are kept depends on their values; in a graph use box_nms")
    values = found.data if isinstance(found, Tensor) else found
    kept = values[values >= 0]
    return Tensor(kept) if isinstance(found, Tensor) else kept


def box_nms(
    data: Any,
    overlap_thresh: float = 0.5,
    valid_thresh: float = 0.0,
    topk: int = -1,
    coord_start: int = 2,
    score_index: int = 1,
    id_index: int = -1,
    background_id: int = -1,
    force_suppress: bool = False,
    in_format: str = "corner",
    out_format: str = "corner",
) -> Any:
    """Non-maximum suppression that keeps the shape; names and results are MXNet's.

    Args:
        data: (..., n, width): boxes with their scores, and perhaps classes.
        overlap_thresh: a box that overlaps a better one by more is dropped.
        valid_thresh: boxes that do not score more are dropped.
        topk: only the best so many take part; all if not positive.
        coord_start, score_index, id_index: where in a row the four numbers, the score and the class are; -1: no class.
        background_id: boxes of this class are dropped; -1 for none.
        force_suppress: boxes of different classes suppress each other, too.
        in_format, out_format: "corner" or "center".
    Returns:
        The rows that are kept, best first, and then rows of -1. The gradient goes where they came from.
    """
    boxes = box_convert(data[..., coord_start : coord_start + 4], in_format, "corner")
    scores, classes = data[..., score_index], None if id_index < 0 else data[..., id_index]
    if classes is not None and background_id >= 0:
        scores = where(classes == float(background_id), valid_thresh, scores)
    same = None if force_suppress else classes
    order = suppressed(
        boxes, scores, same, iou_threshold=overlap_thresh, score_threshold=valid_thresh, topk=topk if topk > 0 else -1
    )
    if in_format != out_format:
        middle = box_convert(data[..., coord_start : coord_start + 4], in_format, out_format)
        data = concatenate([data[..., :coord_start], middle, data[..., coord_start + 4 :]], axis=-1)
    rows = take_along_axis(data, expand_dims(maximum(order, 0), -1), axis=data.ndim - 2)
    return where(expand_dims(order >= 0, -1), rows, -1.0)
