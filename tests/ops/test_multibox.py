"""Boxes of single-shot detectors, by their definitions."""

from typing import Any

import numpy as np
import pytest

from shoal import npx
from shoal.errors import ConfigError, ShapeError
from shoal.ops.graph.compiled import Compiled
from shoal.ops.tensor import Tensor

ANCHORS = np.array(
    [[[0.1, 0.1, 0.3, 0.3], [0.15, 0.1, 0.35, 0.3], [0.6, 0.6, 0.9, 0.9], [0.0, 0.5, 0.1, 0.6]]], "float32"
)
LABELS = np.array([[[1.0, 0.1, 0.1, 0.3, 0.32], [0.0, 0.6, 0.6, 0.8, 0.9], [-1, 0, 0, 0, 0]]], "float32")
SCORES = np.zeros((1, 3, 4), "float32")


def test_every_size_has_the_first_ratio_and_every_ratio_the_first_size() -> None:
    boxes = npx.multibox_prior(Tensor(np.zeros((1, 3, 4, 8))), sizes=(0.5, 0.25), ratios=(1.0, 4.0)).asnumpy()
    assert boxes.shape == (1, 4 * 8 * 3, 4) and boxes.dtype == "float32"
    first = boxes[0, :3]
    np.testing.assert_allclose((first[:, :2] + first[:, 2:]) / 2, [[1 / 16, 1 / 8]] * 3, atol=1e-6)
    np.testing.assert_allclose(first[:, 2:] - first[:, :2], [[0.25, 0.5], [0.125, 0.25], [0.5, 0.25]], atol=1e-6)
    clipped = npx.multibox_prior(Tensor(np.zeros((1, 3, 4, 8))), sizes=(0.9,), clip=True).asnumpy()
    assert clipped.min() == 0 and clipped.max() == 1
    with pytest.raises(ConfigError, match="sizes"):
        npx.multibox_prior(Tensor(np.zeros((1, 3, 4, 8))), sizes=())


def test_objects_go_to_the_anchors_that_overlap_them() -> None:
    moved, mask, classes = npx.multibox_target(Tensor(ANCHORS), Tensor(LABELS), Tensor(SCORES))
    assert classes.tolist() == [[2.0, 2.0, 1.0, 0.0]]
    assert mask.asnumpy().reshape(4, 4)[:, 0].tolist() == [1, 1, 1, 0]
    found = moved.asnumpy().reshape(4, 4)
    np.testing.assert_allclose(found[2], [(0.7 - 0.75) / 0.3 / 0.1, 0, np.log(0.2 / 0.3) / 0.2, 0], atol=1e-5)
    assert not found[3].any()
    _, _, strict = npx.multibox_target(Tensor(ANCHORS), Tensor(LABELS), Tensor(SCORES), overlap_threshold=0.9)
    assert strict.tolist() == [[2.0, 0.0, 1.0, 0.0]]


def test_mining_takes_the_anchors_that_look_least_like_background() -> None:
    scores = SCORES.copy()
    scores[0, 0] = [0, 3.0, 0, 1.0]
    words: dict[str, Any] = {"overlap_threshold": 0.9, "negative_mining_ratio": 0.5, "negative_mining_thresh": 0.9}
    _, _, classes = npx.multibox_target(Tensor(ANCHORS), Tensor(LABELS), Tensor(scores), **words)
    assert classes.tolist() == [[2.0, -1.0, 1.0, 0.0]]
    _, _, more = npx.multibox_target(
        Tensor(ANCHORS), Tensor(LABELS), Tensor(scores), minimum_negative_samples=2, **words
    )
    assert more.tolist() == [[2.0, 0.0, 1.0, 0.0]]


def test_an_image_without_objects_counts_as_nothing() -> None:
    empty = np.full((1, 2, 5), -1.0, "float32")
    moved, mask, classes = npx.multibox_target(Tensor(ANCHORS), Tensor(empty), Tensor(SCORES), ignore_label=-5)
    assert not moved.asnumpy().any() and not mask.asnumpy().any() and (classes.asnumpy() == -5).all()


def test_detection_is_the_reverse_of_the_targets() -> None:
    moved, _, _ = npx.multibox_target(Tensor(ANCHORS), Tensor(LABELS), Tensor(SCORES))
    prob = np.array([[[0.1, 0.2, 0.1, 0.995], [0.1, 0.1, 0.8, 0.005], [0.8, 0.7, 0.1, 0.0]]], "float32")
    args = Tensor(prob), moved, Tensor(ANCHORS)
    found = npx.multibox_detection(*args).asnumpy()[0]
    np.testing.assert_allclose(found[0], [1, 0.8, *LABELS[0, 0, 1:]], atol=1e-5)
    np.testing.assert_allclose(found[1], [0, 0.8, *LABELS[0, 1, 1:]], atol=1e-5)
    assert (found[2:] == -1).all()  # one overlaps the first, the other is background
    graph = Compiled(lambda p, m, a: npx.multibox_detection(p, m, a), "detection")(*args)
    np.testing.assert_allclose(graph.asnumpy()[0], found, atol=1e-6)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ShapeError, match=r"\(1, 3, 4\)"):
        npx.multibox_detection(Tensor(SCORES), Tensor(np.zeros((1, 12))), Tensor(ANCHORS))
    with pytest.raises((ShapeError, ValueError), match=r"label \(1, 3, 4\)"):
        npx.match_boxes(Tensor(ANCHORS), Tensor(LABELS[..., :4]), Tensor(SCORES))
