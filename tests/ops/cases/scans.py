"""Cases of running results, partitions and searches."""

from typing import Any

import numpy as np

from tests.ops.cases.making import Case, case

X = (3, 4)
_E = {"empty": ((0, 4),)}


def ascending(*shape: int) -> Any:
    return lambda rng: np.sort(rng.standard_normal(shape), axis=-1)


def with_zeros(rng: np.random.Generator) -> Any:
    return np.array([[2.0, 0.0, -1.5, 0.5], [0.0, 1.0, 0.0, 3.0], [1.0, 2.0, 0.5, 0.0]])


CASES: dict[str, list[Case]] = {
    "cumprod": [
        case(X, **_E),
        case(X, axis=1),
        case((2, 3, 4), axis=-2),
        case(with_zeros, axis=1, half=False),
        case(with_zeros, half=False),
    ],
    "cummax": [case(X, **_E), case((2, 5, 3), axis=1)],
    "cummin": [case(X, **_E), case((2, 5, 3), axis=1)],
    "logcumsumexp": [case(X, **_E), case(X, axis=1), case((2, 3, 4), axis=-2)],
    "linear_recurrence": [
        case(X, X, empty=((0, 4), (0, 4))),
        case((9, 2), (9, 2), axis=0, reverse=True),
        case((2, 7, 3), (7, 1), axis=1),
        case((2, 1), (1,)),
    ],
    "argpartition": [case((3, 9), kth=4), case((9, 2), kth=(1, 5), axis=0)],
    "searchsorted": [
        case(ascending(7), X, half=False),
        case(ascending(7), 0.3, side="right", half=False),
        case(ascending(2, 3, 5), (2, 3, 4), half=False),
    ],
}

NO_GRADIENT = frozenset(["argpartition", "searchsorted"])
