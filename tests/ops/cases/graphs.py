"""Cases of the operators that passes make."""

from typing import Any

import shoal.ops.graph.fused
from tests.ops.cases.making import Case, case

assert shoal.ops.graph.fused  # imported for the operator that it registers

X = (3, 4)


def body(*steps: tuple[Any, ...]) -> tuple[Any, ...]:
    """Steps of (name, operands, attributes as a dictionary)."""
    return tuple((name, operands, tuple(attrs.items())) for name, operands, attrs in steps)


CASES: dict[str, list[Case]] = {
    "fused": [
        case(
            X,
            (4,),
            body=body(
                ("add", ("i0", "i1"), {}),
                ("square", ("t0",), {}),
                ("multiply", ("t1", 2.0), {}),
                ("greater", ("i0", 0.0), {}),
                ("multiply", ("t2", "t3"), {}),
            ),
            results=(1, 4),
            empty=((0, 4), (4,)),
        ),
        case(
            X, (3, 1), body=body(("broadcast_to", ("i1",), {"shape": X}), ("multiply", ("i0", "t0"), {})), results=(1,)
        ),
    ],
    "fused_rows": [
        case(
            X,
            (3, 1),
            body=body(
                ("max", ("i0",), {"axis": -1, "keepdims": True}),
                ("subtract", ("i0", "t0"), {}),
                ("multiply", ("t1", "i1"), {}),
                ("multiply", ("t0", "i1"), {}),
            ),
            results=(2, 3),
        )
    ],
}
