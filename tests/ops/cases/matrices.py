"""Cases of linear algebra and complex numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ops.cases.making import Case, case, definite

X = (3, 4)


def complexes(*shape: int) -> Callable[[np.random.Generator], Any]:
    """Random complex numbers."""
    return lambda rng: rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def hermitian(n: int) -> Callable[[np.random.Generator], Any]:
    """A Hermitian matrix with distinct eigenvalues."""

    def make(rng: np.random.Generator) -> Any:
        a = complexes(n, n)(rng)
        return a + a.conj().T + np.diag(np.arange(n) * 3.0)

    return make


def skewed(rng: np.random.Generator) -> Any:
    """A matrix that is not symmetric and has real eigenvalues, so that its eigenvectors have no phase to choose."""
    v = rng.standard_normal((3, 3)) + 2 * np.eye(3)
    return v @ np.diag([1.0, -2.0, 4.0]) @ np.linalg.inv(v)


CASES: dict[str, list[Case]] = {
    # complex numbers
    "real": [case(complexes(3, 4)), case(X)],
    "imag": [case(complexes(3, 4)), case(X)],
    "conj": [case(complexes(3, 4)), case(X)],
    "angle": [case(complexes(3, 4)), case(X)],
    "complex": [case(X, (4,), half=False, empty=((0, 4), (0, 4)))],
    # determinants
    "cofactor": [case((3, 3), half=False), case((2, 4, 4), half=False)],
    # eigenvalues, singular values
    "eigh": [case(definite(3), half=False), case(definite(4), half=False, UPLO="U")],
    "eigvalsh": [case(definite(3), half=False), case(hermitian(3), half=False)],
    "eig": [case(skewed, half=False)],
    "svd": [
        case((4, 3), half=False, full_matrices=False),
        case((2, 3, 4), half=False, full_matrices=False),
        case((3, 3), half=False),
    ],
    "svdvals": [case((4, 3), half=False), case((2, 3, 4), half=False)],
    "qr": [
        case((4, 3), half=False),
        case((2, 3, 5), half=False),
        case((3, 3), half=False, mode="complete"),
    ],
    "pinv": [case((4, 3), half=False), case((2, 3, 4), half=False), case((3, 3), half=False, rcond=1e-9)],
    "matrix_exp": [case((3, 3), half=False), case((2, 2, 2), half=False, low=-9.0, high=9.0)],
    "least_squares": [
        case((5, 3), (5, 2), half=False),
        case((2, 3, 4), (2, 3, 1), half=False),
    ],
}
