"""Cases of attention."""

from tests.ops.cases.making import Case, case

Q, K, V = (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 2)

CASES: dict[str, list[Case]] = {
    "attention": [
        case(Q, K, V, empty=((0, 3, 4, 5), (0, 3, 6, 5), (0, 3, 6, 2))),
        case(Q, K, V, (4, 6)),
        case(Q, K, V, (2, 1, 1, 6), scale=0.3),
        case(Q, K, V, (6,), causal=True),
        case((4, 5), (7, 5), (7, 3), causal=True),
        case((2, 2, 3, 4, 5), (2, 2, 1, 6, 5), (2, 1, 6, 2), causal=True),
    ],
    "attention_grad": [
        case((2, 4, 2), (2, 4, 2), (2, 4), (2, 4, 5), (2, 6, 5), (2, 6, 2)),
        case((4, 3), (4, 3), (4,), (4, 5), (7, 5), (7, 3), causal=True, scale=0.4),
        case(
            *[(1, 3, 2)] * 2, (1, 3), *[(1, 3, 2)] * 3, causal=True, empty=(*[(0, 3, 2)] * 2, (0, 3), *[(0, 3, 2)] * 3)
        ),
    ],
    "causal_mask": [case((2, 3, 4), value=-5.0, empty=((2, 0, 4),)), case((4, 3), value=0.0)],
}
