"""Cases of special functions."""

from typing import Any

import numpy as np

from tests.ops.cases.making import Case, case

X = (3, 4)
_E = {"empty": ((0, 4),)}
_EE = {"empty": ((0, 4), (0, 4))}


def fixed(value: Any) -> Any:
    """Numbers that are no variable: integers."""
    return lambda rng: np.asarray(value)


CASES: dict[str, list[Case]] = {
    "gammaln": [case(X, low=0.3, high=6.0, **_E), case(X, low=-1.9, high=-1.1, half=False)],
    "gamma": [case(X, low=0.3, high=4.0, **_E), case(X, low=-1.9, high=-1.1, half=False)],
    "digamma": [case(X, low=0.3, high=6.0, **_E), case(X, low=-1.9, high=-1.1, half=False)],
    "polygamma": [case(X, n=1, low=0.5, high=6.0, **_E), case(X, n=2, low=0.7, high=6.0), case(X, n=0, low=0.7)],
    "erfc": [case(X, **_E), case(X, low=2.0, high=3.0, half=False)],
    "erfinv": [case(X, low=-0.9, high=0.9, **_E)],
    "i0": [case(X, **_E), case(X, low=18.0, high=22.0, half=False)],
    "i0e": [case(X, **_E), case(X, low=18.0, high=22.0)],
    "i1": [case(X, **_E)],
    "i1e": [case(X, **_E)],
    "sinc": [case(X, **_E), case(X, low=-0.2, high=0.2)],
    "xlogy": [case(X, (4,), low=0.3, **_EE), case(2.0, X, low=0.3), case(X, 3.0)],
    "xlog1py": [case(X, (4,), low=-0.5, **_EE), case(2.0, X, low=-0.5)],
    "logit": [case(X, low=0.1, high=0.9, **_E), case(X, low=0.1, high=0.9, eps=0.2)],
    "entr": [case(X, low=0.3, **_E)],
    "gammainc": [case(fixed([1, 2, 5, 9]), X, low=0.5, high=9.0, half=False)],
    "gammaincc": [case(fixed([1, 2, 5, 9]), X, low=0.5, high=9.0, half=False)],
    "betainc": [case(fixed([1, 2, 5, 9]), fixed([[1], [2], [7]]), X, low=0.1, high=0.9, half=False)],
}
