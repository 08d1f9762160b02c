"""Cases of combining values at places."""

from tests.ops.cases.making import Case, case, whole

ROWS = ("array", (None, None, None))


CASES: dict[str, list[Case]] = {
    "combine_at": [
        case((4, 3), (6, 3), whole((6,), 4), key=ROWS, mode="add"),
        case((4, 3), (6, 3), whole((6,), 4), key=ROWS, mode="multiply", low=0.5),
        case((4, 3), (6, 3), whole((6,), 4), key=ROWS, mode="maximum"),
        case((4, 3), (6, 1), whole((6,), 4), key=ROWS, mode="minimum"),
        case((4, 3), 2.0, whole((5,), 4), whole((5,), 3), key=("array", "array"), mode="add"),
    ],
}
