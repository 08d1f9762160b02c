"""Boxes of single-shot detectors (Liu et al., arXiv:1512.02325), with MXNet's names and results.

Coordinates are shares of the image: left, top, right, bottom from 0 to 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops.backend import asnumpy
from shoal.ops.boxes import box_convert, box_iou, box_nms
from shoal.ops.elementwise import clip, exp, where
from shoal.ops.reduce import argmax, max_
from shoal.ops.registry import Array, Op, Spec, op
from shoal.ops.shape import concatenate, expand_dims, reshape, swapaxes
from shoal.ops.tensor import Tensor

__all__ = ["match_boxes", "multibox_detection", "multibox_prior", "multibox_target"]

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""By which differences of middles and of logarithms of sizes are divided."""


def multibox_prior(
    data: Any,
    sizes: Sequence[float] = (1.0,),
    ratios: Sequence[float] = (1.0,),
    clip: bool = False,
    steps: Sequence[float] = (-1.0, -1.0),
    offsets: Sequence[float] = (0.5, 0.5),
) -> Tensor:
    """Boxes around every element of a map: each size with the first ratio, and the first size with every other ratio.

    Args:
        data: (batch, channels, height, width); only its shape counts.
        sizes: heights, as shares of the image's.
        ratios: width / height.
        clip: cut off what is outside the image.
        steps: distance of elements (down, right); not positive: as many as there are fill the image.
        offsets: where in its step an element is (down, right).
    Returns:
        float32 (1, height * width * (sizes + ratios - 1), 4).
    Raises:
        ConfigError: no sizes or no ratios.
    """
    if not sizes or not ratios or min(*sizes, *ratios) <= 0:
        raise ConfigError(f"multibox_prior: {sizes=}, {ratios=} must be positive, and at least one each")
    height, width = data.shape[-2:]
    down, right = (s if s > 0 else 1.0 / n for s, n in zip(steps, (height, width), strict=True))
    y, x = (np.arange(height) + offsets[0]) * down, (np.arange(width) + offsets[1]) * right
    shapes = [(s, ratios[0]) for s in sizes] + [(sizes[0], r) for r in ratios[1:]]
    halves = np.array([(s * height / width * r**0.5 / 2, s / r**0.5 / 2) for s, r in shapes])
    middles = np.stack(np.meshgrid(x, y), axis=-1)[:, :, None]
    boxes = np.concatenate([middles - halves, middles + halves], axis=-1).reshape(1, -1, 4)
    return Tensor((np.clip(boxes, 0.0, 1.0) if clip else boxes).astype(np.float32))


def multibox_detection(
    cls_prob: Any,
    loc_pred: Any,
    anchor: Any,
    clip: bool = True,
    threshold: float = 0.01,
    background_id: int = 0,
    nms_threshold: float = 0.5,
    force_suppress: bool = False,
    variances: Sequence[float] = VARIANCES,
    nms_topk: int = -1,
) -> Any:
    """Boxes that are found: (batch, boxes, 6) of class (the background not counted), score, corners; best first.

    Args:
        cls_prob: (batch, classes with the background, boxes).
        loc_pred: (batch, boxes * 4): where boxes are, relative to their anchors; see `multibox_target`.
        anchor: (1, boxes, 4).
        clip: cut off what is outside the image.
        threshold: boxes that score less are dropped.
        background_id: which class is the background.
        nms_threshold, force_suppress, nms_topk: as of `box_nms`.
        variances: as of `multibox_target`.
    Returns:
        Rows of -1 stand for what is dropped.
    Raises:
        ShapeError: the shapes do not fit.
    """
    batch, classes, count = cls_prob.shape
    if tuple(loc_pred.shape) != (batch, count * 4) or tuple(anchor.shape) != (1, count, 4):
        raise ShapeError(
            f"multibox_detection: cls_prob {tuple(cls_prob.shape)}, loc_pred {tuple(loc_pred.shape)} and anchor "
            f"{tuple(anchor.shape)}; expected (batch, classes, n), (batch, 4 n) and (1, n, 4)"
        )
    middles = box_convert(anchor, "corner", "center")
    moved = reshape(loc_pred, shape=(batch, count, 4)) * np.asarray(variances, np.float32).astype(loc_pred.dtype)
    centre = moved[..., :2] * middles[..., 2:] + middles[..., :2]
    boxes = box_convert(concatenate([centre, exp(moved[..., 2:]) * middles[..., 2:]], axis=-1), "center", "corner")
    boxes = _within(boxes) if clip else boxes
    real = np.array([i for i in range(classes) if i != background_id])
    scores = swapaxes(cls_prob, 1, 2).take(real, axis=2)
    best, number = max_(scores, axis=-1, keepdims=True), argmax(scores, axis=-1, keepdims=True)
    kept = best >= threshold
    rows = concatenate([where(kept, number.astype(best.dtype), -1.0), where(kept, best, -1.0), boxes], axis=-1)
    return box_nms(rows, nms_threshold, 0.0, nms_topk, 2, 1, 0, -1, force_suppress)


def _within(boxes: Any) -> Any:
    return clip(boxes, 0.0, 1.0)


def _matched(op: Op[Any], anchor: Spec, label: Spec, cls_pred: Spec, **settings: Any) -> Spec:
    n = anchor.shape[1] if anchor.ndim == 3 else -1
    fits = anchor.shape == (1, n, 4) and label.ndim == 3 and label.shape[2] >= 5
    if not fits or cls_pred.ndim != 3 or (cls_pred.shape[0], cls_pred.shape[2]) != (label.shape[0], n):
        raise ShapeError(
            f"{op.name}: anchor {anchor.shape}, label {label.shape}, cls_pred {cls_pred.shape}; expected (1, n, 4), "
            "(batch, objects, 5) and (batch, classes, n)"
        )
    return Spec((label.shape[0], n), np.dtype(np.int64))


@op(_matched)
def match_boxes(
    xp: Any,
    anchor: Array,
    label: Array,
    cls_pred: Array,
    overlap_threshold: float = 0.5,
    negative_mining_ratio: float = -1.0,
    negative_mining_thresh: float = 0.5,
    minimum_negative_samples: int = 0,
) -> Any:
    """Which object each anchor stands for: its number; -1 for the background, -2 for none of the two.

    Arguments as of `multibox_target`. int64 (batch, anchors).
    """
    boxes, labels, scores = (asnumpy(v).astype(np.float64) for v in (anchor, label, cls_pred))
    found = np.full((len(labels), boxes.shape[1]), -2, np.int64)
    for row, objects, predicted in zip(found, labels, scores, strict=True):
        valid = int(np.argmax(np.append(objects[:, 0], -1.0) == -1.0))
        if not valid:
            continue
        overlap = box_iou(boxes[0], objects[:valid, 1:5])
        _take_best(row, overlap.copy())
        best, most = overlap.argmax(axis=1), overlap.max(axis=1)
        if overlap_threshold > 0:
            near = (row == -2) & (most > overlap_threshold)
            row[near] = best[near]
        free = row == -2
        if negative_mining_ratio <= 0:
            row[free] = -1
            continue
        positive = int((row >= 0).sum())
        wanted = max(int(positive * negative_mining_ratio), minimum_negative_samples)
        hard = np.flatnonzero(free & (most < negative_mining_thresh))
        shifted = np.exp(predicted - predicted.max(axis=0))
        row[hard[np.argsort((shifted[0] / shifted.sum(axis=0))[hard], kind="stable")[:wanted]]] = -1
    return xp.asarray(found)


def _take_best(row: Any, overlap: Any) -> None:
    """Give every object the anchor that overlaps it most; of all pairs the best first. Writes to both."""
    for _ in range(overlap.shape[1]):
        at, number = np.unravel_index(int(overlap.argmax()), overlap.shape)
        if overlap[at, number] <= 1e-6:
            return
        row[at] = number
        overlap[at], overlap[:, number] = -1.0, -1.0


def multibox_target(
    anchor: Any,
    label: Any,
    cls_pred: Any,
    overlap_threshold: float = 0.5,
    ignore_label: float = -1.0,
    negative_mining_ratio: float = -1.0,
    negative_mining_thresh: float = 0.5,
    minimum_negative_samples: int = 0,
    variances: Sequence[float] = VARIANCES,
) -> tuple[Any, Any, Any]:
    """What a detector is to learn for each anchor.

    An object goes to the anchor that overlaps it most, and to all that overlap it by more than the threshold.

    Args:
        anchor: (1, n, 4).
        label: (batch, objects, 5): class, left, top, right, bottom; a class of -1 ends the list.
        cls_pred: (batch, classes with the background first, n): scores, for the mining of negatives.
        overlap_threshold: of area of intersection and union.
        ignore_label: class of anchors that count as nothing; so do all of an image without objects.
        negative_mining_ratio: how many anchors are background, for each that is an object: those which score least as
            background; not positive: all.
        negative_mining_thresh: those that overlap an object by more are not among them.
        minimum_negative_samples: at least so many are.
        variances: by which differences are divided.
    Returns:
        (where the object is relative to the anchor (batch, 4 n), 1 where that counts (batch, 4 n), class with 0 for the
        background (batch, n)).
    """
    settings: dict[str, Any] = {
        "negative_mining_thresh": negative_mining_thresh,
        "minimum_negative_samples": minimum_negative_samples,
    }
    match = match_boxes(
        anchor,
        label,
        cls_pred,
        overlap_threshold=overlap_threshold,
        negative_mining_ratio=negative_mining_ratio,
        **settings,
    )
    some, batch, count = match >= 0, label.shape[0], anchor.shape[1]
    chosen = np.arange(batch)[:, None] * label.shape[1] + where(some, match, 0)
    rows = reshape(label, shape=(batch * label.shape[1], label.shape[2])).take(chosen, axis=0)
    goal, own = box_convert(rows[..., 1:5], "corner", "center"), box_convert(anchor, "corner", "center")
    size = where(expand_dims(some, -1), goal[..., 2:] / own[..., 2:], 1.0)
    moved = concatenate([(goal[..., :2] - own[..., :2]) / own[..., 2:], size.clip(1e-12, None).log()], axis=-1)
    mask = expand_dims(some, -1).broadcast_to((batch, count, 4)).astype(moved.dtype)
    moved = moved * (1.0 / np.asarray(variances, np.float32)).astype(moved.dtype) * mask
    classes = where(some, rows[..., 0] + 1.0, where(match == -1, 0.0, float(ignore_label)))
    return reshape(moved, shape=(batch, count * 4)), reshape(mask, shape=(batch, count * 4)), classes
