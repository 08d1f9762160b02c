"""What floating-point numbers are made of: sign, mantissa, exponent, neighbours; remainders and extremes of C.

Inputs broadcast against each other. Names and meanings are NumPy's, which are those of C's ``math.h``.
"""

from typing import Any

import numpy as np

from shoal.ops import specs
from shoal.ops.elementwise import ufunc
from shoal.ops.precision import BFLOAT16, wide
from shoal.ops.registry import Array, Op, Spec, op


@ufunc
def positive(xp: Any, x: Array) -> Any:
    """+x: a copy."""
    return xp.positive(x)


@positive.vjp
def _positive_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g,)


@ufunc
def copysign(xp: Any, x: Array, y: Array) -> Any:
    """The absolute value of x with the sign of y, be it that of a zero."""
    return xp.copysign(x, y)


@copysign.vjp
def _copysign_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * xp.sign(x) * xp.copysign(xp.ones_like(x), y), lambda: xp.zeros_like(g)


@ufunc
def signbit(xp: Any, x: Array) -> Any:
    """Whether the sign is negative, be it that of a zero."""
    return xp.signbit(x)


@ufunc
def nextafter(xp: Any, x: Array, y: Array) -> Any:
    """The number next to x in the direction of y."""
    return xp.nextafter(x, y)


@ufunc
def spacing(xp: Any, x: Array) -> Any:
    """The distance from x to the next number away from 0."""
    if xp.host:
        return xp.spacing(x)
    away = xp.where(x < 0, -np.inf, np.inf).astype(x.dtype)  # CuPy has no spacing
    return xp.nextafter(x, away) - x


@ufunc
def heaviside(xp: Any, x: Array, y: Array) -> Any:
    """0 where x is negative, 1 where it is positive, y where it is 0."""
    return xp.heaviside(x, y)


@heaviside.vjp
def _heaviside_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: xp.zeros_like(g), lambda: g * xp.equal(x, 0)


@ufunc
def fmod(xp: Any, x: Array, y: Array) -> Any:
    """x - y * trunc(x / y); it has the sign of x, unlike `mod`."""
    return xp.fmod(x, y)


@fmod.vjp
def _fmod_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return g, lambda: -g * xp.trunc(x / y)


@ufunc
def fmax(xp: Any, x: Array, y: Array) -> Any:
    """The larger of x and y; if one of them is not a number, the other. Where they are equal, x has the gradient."""
    return xp.fmax(x, y)


@fmax.vjp
def _fmax_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    chosen = xp.logical_or(xp.greater_equal(x, y), xp.isnan(y))
    return lambda: g * chosen, lambda: g * xp.logical_not(chosen)


@ufunc
def fmin(xp: Any, x: Array, y: Array) -> Any:
    """The smaller of x and y; if one of them is not a number, the other. Where they are equal, x has the gradient."""
    return xp.fmin(x, y)


@fmin.vjp
def _fmin_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    chosen = xp.logical_or(xp.less_equal(x, y), xp.isnan(y))
    return lambda: g * chosen, lambda: g * xp.logical_not(chosen)


@ufunc
def logaddexp2(xp: Any, x: Array, y: Array) -> Any:
    """log2(2**x + 2**y) without overflow."""
    return xp.logaddexp2(x, y)


@logaddexp2.vjp
def _logaddexp2_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * xp.exp2(x - out), lambda: g * xp.exp2(y - out)


@ufunc
def ldexp(xp: Any, x: Array, n: Array) -> Any:
    """x times 2 to the power of the integer n."""
    if getattr(x, "dtype", None) == BFLOAT16:
        return xp.ldexp(wide(x), n).astype(BFLOAT16)
    return xp.ldexp(x, n)


ldexp.direct = None  # NumPy's gives float32 for bfloat16


@ldexp.vjp
def _ldexp_vjp(xp: Any, g: Any, out: Any, x: Any, n: Any) -> Any:
    return lambda: xp.ldexp(g, n), None


def _two(op: Op[Any], x: Spec) -> tuple[Spec, Spec]:
    return Spec(x.shape, specs.result_dtype(op, [x], output=0)), Spec(x.shape, specs.result_dtype(op, [x], output=1))


@op(_two)
def frexp(xp: Any, x: Array) -> Any:
    """Mantissa, of a size from 0.5 to 1, and exponent (int32), such that x = mantissa * 2**exponent."""
    mantissa, exponent = xp.frexp(x)
    return mantissa, exponent


@frexp.vjp
def _frexp_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (None if g[0] is None else xp.ldexp(g[0], -out[1]),)


@op(_two)
def modf(xp: Any, x: Array) -> Any:
    """What is behind the point, and the whole number before it; both have the sign of x."""
    behind, whole = xp.modf(x)
    return behind, whole


@modf.vjp
def _modf_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g[0],)
