"""Cases of what gradients of graphs are made of."""

from tests.ops.cases.making import Case, case

CASES: dict[str, list[Case]] = {
    "barrier": [case((3, 4), region=1, empty=((0, 4),))],
}
