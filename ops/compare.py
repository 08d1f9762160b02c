"""Comparison and logic, element by element. None of these has a gradient.

Inputs broadcast against each other. Names and meanings are NumPy's.
"""

from typing import Any

from shoal.ops.elementwise import ufunc
from shoal.ops.registry import Array


@ufunc(expr="{0} == {1}")
def equal(xp: Any, x: Array, y: Array) -> Any:
    """x == y."""
    return xp.equal(x, y)


@ufunc(expr="{0} != {1}")
def not_equal(xp: Any, x: Array, y: Array) -> Any:
    """x != y."""
    return xp.not_equal(x, y)


@ufunc(expr="{0} < {1}")
def less(xp: Any, x: Array, y: Array) -> Any:
    """x < y."""
    return xp.less(x, y)


@ufunc(expr="{0} <= {1}")
def less_equal(xp: Any, x: Array, y: Array) -> Any:
    """x <= y."""
    return xp.less_equal(x, y)


@ufunc(expr="{0} > {1}")
def greater(xp: Any, x: Array, y: Array) -> Any:
    """x > y."""
    return xp.greater(x, y)


@ufunc(expr="{0} >= {1}")
def greater_equal(xp: Any, x: Array, y: Array) -> Any:
    """x >= y."""
    return xp.greater_equal(x, y)


@ufunc(expr="{0} && {1}")
def logical_and(xp: Any, x: Array, y: Array) -> Any:
    """Whether both are not zero."""
    return xp.logical_and(x, y)


@ufunc(expr="{0} || {1}")
def logical_or(xp: Any, x: Array, y: Array) -> Any:
    """Whether one is not zero."""
    return xp.logical_or(x, y)


@ufunc(expr="!{0} != !{1}")
def logical_xor(xp: Any, x: Array, y: Array) -> Any:
    """Whether exactly one is not zero."""
    return xp.logical_xor(x, y)


@ufunc(expr="!{0}")
def logical_not(xp: Any, x: Array) -> Any:
    """Whether x is zero."""
    return xp.logical_not(x)


@ufunc
def bitwise_and(xp: Any, x: Array, y: Array) -> Any:
    """Bits set in both; for booleans, and."""
    return xp.bitwise_and(x, y)


@ufunc
def bitwise_or(xp: Any, x: Array, y: Array) -> Any:
    """Bits set in one; for booleans, or."""
    return xp.bitwise_or(x, y)


@ufunc
def bitwise_xor(xp: Any, x: Array, y: Array) -> Any:
    """Bits set in exactly one; for booleans, either but not both."""
    return xp.bitwise_xor(x, y)


@ufunc
def invert(xp: Any, x: Array) -> Any:
    """All bits flipped."""
    return xp.invert(x)


@ufunc(expr="{0} != {0}")
def isnan(xp: Any, x: Array) -> Any:
    """Whether x is not a number."""
    return xp.isnan(x)


@ufunc(expr="fabs({0}) > REAL_MAX")
def isinf(xp: Any, x: Array) -> Any:
    """Whether x is infinite."""
    return xp.isinf(x)


@ufunc(expr="fabs({0}) <= REAL_MAX")
def isfinite(xp: Any, x: Array) -> Any:
    """Whether x is neither infinite nor not a number."""
    return xp.isfinite(x)
