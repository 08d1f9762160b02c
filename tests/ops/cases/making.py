"""A call of an operator, on inputs that are made from a few words.

A shape stands for random floats between ``low`` and ``high``; `whole` for integers, `truth` for booleans; a number for
itself. Keywords are the operator's attributes.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Values = Any


class Case(NamedTuple):
    """A call of an operator.

    Attributes:
        inputs: shapes, makers of arrays, numbers, None.
        attrs: attributes.
        low, high: range of the random floats.
        empty: shapes of the floats for a call in which there are no elements; () if there is no such call.
        half: whether the operator takes float16.
        tied: gives, for the inputs and the attributes, the values of those inputs that are functions of others, by
            position; they have no gradient of their own.
    """

    inputs: tuple[Any, ...]
    attrs: dict[str, Any]
    low: float
    high: float
    empty: tuple[tuple[int, ...], ...]
    half: bool
    tied: Callable[[list[Any], dict[str, Any]], dict[int, Any]] | None = None

    def follow(self, inputs: list[Any]) -> list[Any]:
        """``inputs`` with the tied ones recomputed."""
        found = self.tied(inputs, self.attrs) if self.tied is not None else {}
        return [found.get(i, x) for i, x in enumerate(inputs)]

    def make(self, seed: str, dtype: Any = np.float64, shapes: tuple[tuple[int, ...], ...] = ()) -> list[Any]:
        """The arrays of the call, the same for the same ``seed``; ``shapes`` replace those of the floats."""
        rng = np.random.default_rng(zlib.crc32(seed.encode()))
        given = iter(shapes)
        made: list[Any] = []
        for x in self.inputs:
            if isinstance(x, tuple):
                made.append(np.asarray(rng.uniform(self.low, self.high, next(given) if shapes else x), dtype))
            else:
                made.append(x(rng) if callable(x) else x)
        return self.follow(made)


def case(
    *inputs: Any,
    low: float = -2.0,
    high: float = 2.0,
    empty: tuple[tuple[int, ...], ...] = (),
    half: bool = True,
    tied: Callable[[list[Any], dict[str, Any]], dict[int, Any]] | None = None,
    **attrs: Any,
) -> Case:
    """A `Case`."""
    return Case(inputs, attrs, low, high, empty, half, tied)


def whole(shape: tuple[int, ...], stop: int, start: int = 0) -> Callable[[np.random.Generator], Values]:
    """Random integers from ``start`` up to, but without, ``stop``."""
    return lambda rng: rng.integers(start, stop, shape)


def truth(shape: tuple[int, ...]) -> Callable[[np.random.Generator], Values]:
    """Random booleans."""
    return lambda rng: rng.random(shape) < 0.5


def key(rng: np.random.Generator) -> Values:
    """A random key."""
    return np.array([1, 2, 3, 4, 5], dtype=np.uint64)


def definite(n: int) -> Callable[[np.random.Generator], Values]:
    """A symmetric positive definite matrix."""

    def make(rng: np.random.Generator) -> Values:
        a = rng.standard_normal((n, n))
        return a @ a.T + n * np.eye(n)

    return make
