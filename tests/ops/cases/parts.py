"""Cases of operators on the parts of floating-point numbers and on the bits of integers."""

import numpy as np

from tests.ops.cases.making import Case, case, whole

X = (3, 4)
_E = {"empty": ((0, 4),)}
_EE = {"empty": ((0, 4), (0, 4))}

CASES: dict[str, list[Case]] = {
    "positive": [case(X, **_E), case(())],
    "copysign": [case(X, (4,), **_EE), case(X, -1.0)],
    "signbit": [case(X, **_E)],
    "nextafter": [case(X, (4,), **_EE)],
    "spacing": [case(X, **_E)],
    "heaviside": [case(X, (4,), **_EE), case(lambda rng: np.array([-1, 0, 1]), (3,), half=False)],
    "fmod": [case(X, (3, 1), low=0.5, **_EE)],
    "fmax": [case(X, (4,), **_EE), case(X, 0.5)],
    "fmin": [case(X, (4,), **_EE), case(0.5, X)],
    "logaddexp2": [case(X, (4,), **_EE)],
    "ldexp": [case(X, whole(X, 5, -5)), case(X, 3)],
    "frexp": [case(X, low=0.51, high=0.99, **_E), case(X, low=2.2, high=3.8)],
    "modf": [case(X, **_E)],
    "deg2rad": [case(X, **_E)],
    "rad2deg": [case(X, **_E)],
    "left_shift": [case(whole(X, 9), whole((4,), 5)), case(whole(X, 9), 2)],
    "right_shift": [case(whole(X, 99), whole((4,), 5))],
    "bitwise_count": [case(whole(X, 99, -99))],
    "gcd": [case(whole(X, 99, -99), whole((4,), 99))],
    "lcm": [case(whole(X, 99, -99), whole((4,), 99))],
}

NO_GRADIENT = frozenset(["signbit", "nextafter", "spacing", "left_shift", "right_shift", "bitwise_count", "gcd", "lcm"])
