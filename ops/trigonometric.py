"""Trigonometric and hyperbolic functions, element by element, and their inverses. Angles are in radians."""

import math
from typing import Any

from shoal.ops.elementwise import ufunc
from shoal.ops.registry import Array


@ufunc(expr="sin({0})")
def sin(xp: Any, x: Array) -> Any:
    """The sine."""
    return xp.sin(x)


@sin.vjp
def _sin_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.cos(x),)


@ufunc(expr="cos({0})")
def cos(xp: Any, x: Array) -> Any:
    """The cosine."""
    return xp.cos(x)


@cos.vjp
def _cos_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (-g * xp.sin(x),)


@ufunc(expr="tan({0})")
def tan(xp: Any, x: Array) -> Any:
    """The tangent."""
    return xp.tan(x)


@tan.vjp
def _tan_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (out * out + 1.0),)


@ufunc(expr="asin({0})")
def arcsin(xp: Any, x: Array) -> Any:
    """The inverse sine, between -pi/2 and pi/2."""
    return xp.arcsin(x)


@arcsin.vjp
def _arcsin_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / xp.sqrt(1.0 - x * x),)


@ufunc(expr="acos({0})")
def arccos(xp: Any, x: Array) -> Any:
    """The inverse cosine, between 0 and pi."""
    return xp.arccos(x)


@arccos.vjp
def _arccos_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (-g / xp.sqrt(1.0 - x * x),)


@ufunc(expr="atan({0})")
def arctan(xp: Any, x: Array) -> Any:
    """The inverse tangent, between -pi/2 and pi/2."""
    return xp.arctan(x)


@arctan.vjp
def _arctan_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / (x * x + 1.0),)


@ufunc(expr="atan2({0}, {1})")
def arctan2(xp: Any, x: Array, y: Array) -> Any:
    """The angle of the point (y, x): arctan(x / y) in the right quadrant."""
    return xp.arctan2(x, y)


@arctan2.vjp
def _arctan2_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * y / (x * x + y * y), lambda: -g * x / (x * x + y * y)


@ufunc(expr="sinh({0})")
def sinh(xp: Any, x: Array) -> Any:
    """The hyperbolic sine."""
    return xp.sinh(x)


@sinh.vjp
def _sinh_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.cosh(x),)


@ufunc(expr="cosh({0})")
def cosh(xp: Any, x: Array) -> Any:
    """The hyperbolic cosine."""
    return xp.cosh(x)


@cosh.vjp
def _cosh_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.sinh(x),)


@ufunc(expr="asinh({0})")
def arcsinh(xp: Any, x: Array) -> Any:
    """The inverse hyperbolic sine."""
    return xp.arcsinh(x)


@arcsinh.vjp
def _arcsinh_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / xp.sqrt(x * x + 1.0),)


@ufunc(expr="acosh({0})")
def arccosh(xp: Any, x: Array) -> Any:
    """The inverse hyperbolic cosine; x at least 1."""
    return xp.arccosh(x)


@arccosh.vjp
def _arccosh_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / xp.sqrt(x * x - 1.0),)


@ufunc(expr="atanh({0})")
def arctanh(xp: Any, x: Array) -> Any:
    """The inverse hyperbolic tangent; x between -1 and 1."""
    return xp.arctanh(x)


@arctanh.vjp
def _arctanh_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / (1.0 - x * x),)


@ufunc
def deg2rad(xp: Any, x: Array) -> Any:
    """An angle of x degrees, in radians."""
    return xp.deg2rad(x)


@deg2rad.vjp
def _deg2rad_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (math.pi / 180.0),)


@ufunc
def rad2deg(xp: Any, x: Array) -> Any:
    """An angle of x radians, in degrees."""
    return xp.rad2deg(x)


@rad2deg.vjp
def _rad2deg_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (180.0 / math.pi),)
