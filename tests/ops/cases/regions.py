"""Cases of boxes and regions."""

from typing import Any

import numpy as np

from tests.ops.cases.making import Case, case


def _boxes(rng: np.random.Generator) -> Any:
    low = rng.uniform(0, 4, (2, 6, 2))
    return np.concatenate([low, low + rng.uniform(1, 4, (2, 6, 2))], axis=-1)


def _rois(rng: np.random.Generator) -> Any:
    return np.array([[0, 0, 0, 3, 2], [1, 1.4, 1, 4, 4], [1, -3, -3, -2, -2]], np.float64)


def _anchors(rng: np.random.Generator) -> Any:
    return _boxes(rng)[:1] / 8.0


def _objects(rng: np.random.Generator) -> Any:
    found = np.concatenate([rng.integers(0, 3, (2, 6, 1)), _boxes(rng) / 8.0], axis=-1)
    found[1, 2:, 0] = -1.0
    return found


CASES: dict[str, list[Case]] = {
    "match_boxes": [
        case(_anchors, _objects, (2, 4, 6)),
        case(_anchors, _objects, (2, 4, 6), overlap_threshold=0.3, negative_mining_ratio=2.0),
    ],
    "suppressed": [case(_boxes, (2, 6)), case(_boxes, (2, 6), iou_threshold=0.1, score_threshold=-1.0, topk=3)],
    "roi_pool_index": [
        case((2, 3, 6, 5), _rois, size=(2, 2)),
        case((2, 1, 6, 5), _rois, size=(3, 1), spatial_scale=0.5),
    ],
}
NO_GRADIENT = frozenset({"suppressed", "roi_pool_index", "match_boxes"})
