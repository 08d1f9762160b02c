"""Operators of integers: shifts, bit counts, common divisors. None of these has a gradient."""

from typing import Any

from shoal.ops.elementwise import ufunc
from shoal.ops.registry import Array


@ufunc
def left_shift(xp: Any, x: Array, y: Array) -> Any:
    """x with its bits moved up by y: x * 2**y."""
    return xp.left_shift(x, y)


@ufunc
def right_shift(xp: Any, x: Array, y: Array) -> Any:
    """x with its bits moved down by y: x / 2**y, rounded down."""
    return xp.right_shift(x, y)


@ufunc
def bitwise_count(xp: Any, x: Array) -> Any:
    """How many bits of the absolute value of x are set, uint8."""
    return xp.bitwise_count(x)


@ufunc
def gcd(xp: Any, x: Array, y: Array) -> Any:
    """The greatest common divisor of the absolute values."""
    return xp.gcd(x, y)


@ufunc
def lcm(xp: Any, x: Array, y: Array) -> Any:
    """The least common multiple of the absolute values."""
    return xp.lcm(x, y)
