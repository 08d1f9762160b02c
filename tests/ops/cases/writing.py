"""Cases of assignment to a part of an array."""

from typing import Any

from tests.ops.cases.making import Case, case, whole

FULL: tuple[Any, ...] = (None, None, None)

CASES: dict[str, list[Case]] = {
    "setitem": [
        case((4, 5), (5,), key=(1,)),
        case((4, 5), (1, 2), key=((None, None, -2), (1, 4, 2))),
        case((4, 5), 2.0, key=((1, 3, None),), empty=((0, 5),)),
        case((4, 5), (2, 3, 5), whole((2, 3), 4), key=("array",)),
        case((4, 5, 3), (6, 1), whole((6,), 4), whole((6,), 3), key=("array", FULL, "array")),
        case((), (), key=()),
    ],
    "assigned_last": [
        case(whole((2, 3), 4), key=("array",), shape=(4, 5)),
        case(whole((6,), 4), whole((6,), 3), key=("array", FULL, "array"), shape=(4, 5, 3)),
    ],
}

NO_GRADIENT = frozenset(["assigned_last"])
