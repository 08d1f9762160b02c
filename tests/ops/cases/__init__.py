"""One line per operator: inputs on which everything that can be derived is derived and tested.

A module of this package has ``CASES``, and, where it has such operators, ``FLAT`` and ``NO_GRADIENT``. See `making` for
how inputs are written.
"""

from types import ModuleType
from typing import Any

from tests.ops.cases import (
    activations,
    attending,
    basic,
    controls,
    gradients,
    graphs,
    imaging,
    joined,
    matrices,
    parts,
    regions,
    scans,
    scattering,
    sequences,
    special,
    spectra,
    writing,
)
from tests.ops.cases.making import Case

__all__ = ["CASES", "FLAT", "NO_GRADIENT", "Case"]

MODULES: tuple[ModuleType, ...] = (
    activations,
    attending,
    basic,
    controls,
    gradients,
    graphs,
    imaging,
    joined,
    matrices,
    parts,
    regions,
    scans,
    scattering,
    sequences,
    special,
    spectra,
    writing,
)

CASES: dict[str, list[Case]] = {}
"""By the operator's name."""

for _module in MODULES:
    _both = CASES.keys() & _module.CASES.keys()
    assert not _both, f"{_module.__name__} has cases of operators that another module has: {_both}"
    CASES |= _module.CASES


def _joined(name: str) -> frozenset[str]:
    none: Any = frozenset()
    return frozenset().union(*(getattr(m, name, none) for m in MODULES))


FLAT = _joined("FLAT")
"""Operators whose gradient is zero."""

NO_GRADIENT = _joined("NO_GRADIENT")
"""Operators that have no gradient: their results are truths, positions, or do not depend on floats."""
