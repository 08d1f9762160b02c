"""Cases of the activations in `shoal.ops.threshold`, and of those with corners."""

from tests.ops.cases.making import Case, case

X = (3, 4)
_E = {"empty": ((0, 4),)}

CASES: dict[str, list[Case]] = {
    "celu": [case(X, **_E), case(X, alpha=0.5)],
    "hard_tanh": [case(X, **_E), case(X, min_val=-0.5, max_val=1.5)],
    "shrink": [case(X, **_E), case(X, lambd=0.3, bias=0.3), case(X, lambd=0.7, bias=0.2)],
    "threshold": [case(X, threshold=0.3, value=-1.0, **_E)],
}
