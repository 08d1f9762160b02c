"""Cases of what images need beside plain convolution and pooling: windows, positions, resampling."""

import numpy as np

from tests.ops.cases.making import Case, case


def _apart(rng: np.random.Generator) -> np.ndarray:
    """Positions of a space of 12 elements, no two alike within a channel."""
    return np.stack([rng.permutation(12)[:6] for _ in range(2 * 3)]).reshape(2, 3, 6)


CASES: dict[str, list[Case]] = {
    "sliding_windows": [
        case((2, 3, 7), kernel=3, empty=((0, 3, 7),)),
        case((2, 2, 6, 5), kernel=(2, 3), stride=2),
        case((1, 2, 7, 6), kernel=(2, 3), dilate=(3, 2)),
        case((1, 1, 4, 3, 3), kernel=2, stride=(2, 1, 1)),
    ],
    "windows_add": [
        case((2, 3, 5, 3), space=(7,), empty=((0, 3, 5, 3),)),
        case((2, 2, 3, 2, 2, 3), space=(6, 5), stride=(2, 2)),
        case((1, 2, 4, 2, 2, 3), space=(7, 6), dilate=(3, 2)),
    ],
    "unpool_at": [case((2, 3, 6), _apart, space=(12,))],
    "resample": [
        case((2, 3, 5), axis=2, size=8, empty=((0, 3, 5),)),
        case((2, 3, 8), axis=-1, size=5, kind="nearest"),
        case((3, 5, 2), axis=1, size=9, kind="nearest", coordinates="half_pixel", rounding="round_prefer_ceil"),
        case((4, 6), axis=0, size=7, kind="cubic"),
        case((4, 9), axis=1, size=4, kind="linear", antialias=True),
        case((4, 9), axis=1, size=4, kind="cubic", antialias=True, cubic=-0.5),
        case((2, 7), axis=1, size=3, kind="area"),
        case((2, 7), axis=1, size=5, coordinates="align_corners"),
        case((2, 7), axis=1, size=11, coordinates="asymmetric", scale=1.6),
        case((2, 7), axis=1, size=1, coordinates="pytorch_half_pixel"),
        case((2, 7), axis=1, size=10, coordinates="half_pixel_symmetric", scale=1.5),
        case((2, 7), axis=1, size=10, kind="nearest", coordinates="align_corners", rounding="round_prefer_floor"),
        case((2, 7), axis=1, size=10, kind="nearest", coordinates="asymmetric", rounding="ceil"),
    ],
    "resample_add": [
        case((2, 3, 8), axis=2, size=5, empty=((0, 3, 8),)),
        case((2, 3), axis=1, size=7, kind="area"),
        case((2, 3), axis=1, size=9, kind="nearest"),
        case((7, 2), axis=0, size=4, kind="cubic"),
    ],
}
