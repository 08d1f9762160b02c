"""Element-wise operators: arithmetic, exponentials, rounding, selection.

Inputs broadcast against each other; result dtypes are NumPy's. Names and meanings are NumPy's. Gradient rules are
written for equal shapes: `Op.cotangents` undoes the broadcasting.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, ParamSpec, overload

import numpy as np

from shoal.ops import specs
from shoal.ops.precision import is_float
from shoal.ops.registry import Array, Op, Spec, op

P = ParamSpec("P")


_elementwise = op(specs.elementwise, elementwise=True)


@overload
def ufunc(forward: Callable[Concatenate[Any, P], Any], /) -> Op[P]: ...
@overload
def ufunc(*, expr: str) -> Callable[[Callable[Concatenate[Any, P], Any]], Op[P]]: ...
def ufunc(forward: Any = None, /, *, expr: str = "") -> Any:
    """Declare an operator that is exactly the NumPy ufunc of its name.

    Args:
        expr: one element of it as C; see `shoal.ops.registry.Op`.
    """
    if forward is None:
        return partial(_ufunc, expr)
    return _ufunc(expr, forward)


def _ufunc(expr: str, forward: Callable[Concatenate[Any, P], Any]) -> Op[P]:
    return op(specs.elementwise, elementwise=True, ufunc=forward.__name__.rstrip("_"), expr=expr)(forward)


def _constant(xp: Any, g: Any, out: Any, *inputs: Any, **attrs: Any) -> Any:
    """The gradient of a function that is constant almost everywhere: none."""
    return (None,) * len(inputs)


# -- arithmetic


@ufunc(expr="{0} + {1}")
def add(xp: Any, x: Array, y: Array) -> Any:
    """x + y."""
    return xp.add(x, y)


@add.vjp
def _add_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return g, g


@ufunc(expr="{0} - {1}")
def subtract(xp: Any, x: Array, y: Array) -> Any:
    """x - y."""
    return xp.subtract(x, y)


@subtract.vjp
def _subtract_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return g, lambda: -g


@ufunc(expr="{0} * {1}")
def multiply(xp: Any, x: Array, y: Array) -> Any:
    """x * y."""
    return xp.multiply(x, y)


@multiply.vjp
def _multiply_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * y, lambda: g * x


@ufunc(expr="{0} / {1}")
def divide(xp: Any, x: Array, y: Array) -> Any:
    """x / y; integers give floats."""
    return xp.divide(x, y)


@divide.vjp
def _divide_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g / y, lambda: -g * out / y


@ufunc
def floor_divide(xp: Any, x: Array, y: Array) -> Any:
    """The largest integer not above x / y."""
    return xp.floor_divide(x, y)


floor_divide.vjp(_constant)


@ufunc
def mod(xp: Any, x: Array, y: Array) -> Any:
    """x - y * floor(x / y); it has the sign of y."""
    return xp.mod(x, y)


@mod.vjp
def _mod_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return g, lambda: -g * xp.floor(x / y)


@ufunc(expr="pow({0}, {1})")
def power(xp: Any, x: Array, y: Array) -> Any:
    """x to the power y."""
    return xp.power(x, y)


@power.vjp
def _power_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    def wrt_x() -> Any:
        if isinstance(y, (int, float)):
            return g * (x * 2.0 if y == 2 else y * xp.power(x, float(y) - 1.0)) if y else xp.zeros_like(g)
        return g * y * xp.power(x, xp.where(y == 0, 1.0, y - 1.0))  # x**0 is flat, also at x = 0

    def wrt_y() -> Any:
        if isinstance(x, (int, float)):
            return g * out * (math.log(x) if x > 0 else 0.0)
        return g * out * xp.log(xp.where(x > 0, x, 1.0))  # 0**y is flat for y > 0

    return wrt_x, wrt_y


@ufunc(expr="-{0}")
def negative(xp: Any, x: Array) -> Any:
    """-x."""
    return xp.negative(x)


@negative.vjp
def _negative_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (-g,)


@ufunc(expr="1.0 / {0}")
def reciprocal(xp: Any, x: Array) -> Any:
    """1 / x."""
    return xp.reciprocal(x)


@reciprocal.vjp
def _reciprocal_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (-g * out * out,)


@op(specs.elementwise, elementwise=True, expr="fabs({0})")
def abs_(xp: Any, x: Array) -> Any:
    """The absolute value; its gradient at 0 is 0."""
    return xp.abs(x)


@abs_.vjp
def _abs_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    if x.dtype.kind == "c":
        return (g * xp.conj(x) / xp.where(out == 0, 1.0, out),)
    return (g * xp.sign(x),)


@ufunc(expr="{0} != {0} ? {0} : ({0} > 0) - ({0} < 0)")
def sign(xp: Any, x: Array) -> Any:
    """-1, 0 or 1."""
    return xp.sign(x)


sign.vjp(_constant)


@ufunc(expr="{0} * {0}")
def square(xp: Any, x: Array) -> Any:
    """x * x."""
    return xp.square(x)


@square.vjp
def _square_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (x * 2.0),)


@ufunc(expr="sqrt({0})")
def sqrt(xp: Any, x: Array) -> Any:
    """The square root."""
    return xp.sqrt(x)


@sqrt.vjp
def _sqrt_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * 0.5 / out,)


@_elementwise
def rsqrt(xp: Any, x: Array) -> Any:
    """1 / sqrt(x)."""
    return 1.0 / xp.sqrt(x)


@rsqrt.vjp
def _rsqrt_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * out * -0.5 / x,)


@ufunc(expr="cbrt({0})")
def cbrt(xp: Any, x: Array) -> Any:
    """The cube root."""
    return xp.cbrt(x)


@cbrt.vjp
def _cbrt_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / (out * out * 3.0),)


@ufunc(expr="hypot({0}, {1})")
def hypot(xp: Any, x: Array, y: Array) -> Any:
    """sqrt(x**2 + y**2)."""
    return xp.hypot(x, y)


@hypot.vjp
def _hypot_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * x / out, lambda: g * y / out


# -- exponential


@ufunc(expr="exp({0})")
def exp(xp: Any, x: Array) -> Any:
    """e to the power x."""
    return xp.exp(x)


@exp.vjp
def _exp_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * out,)


@ufunc(expr="exp2({0})")
def exp2(xp: Any, x: Array) -> Any:
    """2 to the power x."""
    return xp.exp2(x)


@exp2.vjp
def _exp2_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * out * math.log(2.0),)


@ufunc(expr="expm1({0})")
def expm1(xp: Any, x: Array) -> Any:
    """exp(x) - 1, accurate for small x."""
    return xp.expm1(x)


@expm1.vjp
def _expm1_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (out + 1.0),)


@ufunc(expr="log({0})")
def log(xp: Any, x: Array) -> Any:
    """The natural logarithm."""
    return xp.log(x)


@log.vjp
def _log_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / x,)


@ufunc(expr="log1p({0})")
def log1p(xp: Any, x: Array) -> Any:
    """log(1 + x), accurate for small x."""
    return xp.log1p(x)


@log1p.vjp
def _log1p_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / (x + 1.0),)


@ufunc(expr="log2({0})")
def log2(xp: Any, x: Array) -> Any:
    """The logarithm to base 2."""
    return xp.log2(x)


@log2.vjp
def _log2_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / (x * math.log(2.0)),)


@ufunc(expr="log10({0})")
def log10(xp: Any, x: Array) -> Any:
    """The logarithm to base 10."""
    return xp.log10(x)


@log10.vjp
def _log10_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g / (x * math.log(10.0)),)


@ufunc
def logaddexp(xp: Any, x: Array, y: Array) -> Any:
    """log(exp(x) + exp(y)) without overflow."""
    return xp.logaddexp(x, y)


@logaddexp.vjp
def _logaddexp_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * xp.exp(x - out), lambda: g * xp.exp(y - out)


@op(specs.elementwise, elementwise=True, expr="erf({0})")
def erf(xp: Any, x: Array) -> Any:
    """The error function, 2/sqrt(pi) times the integral of exp(-t**2) from 0 to x."""
    return xp.raw_erf(x)


@erf.vjp
def _erf_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * xp.exp(-x * x) * (2.0 / math.sqrt(math.pi)),)


@ufunc(expr="tanh({0})")
def tanh(xp: Any, x: Array) -> Any:
    """The hyperbolic tangent."""
    return xp.tanh(x)


@tanh.vjp
def _tanh_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g * (1.0 - out * out),)


# -- rounding


@ufunc(expr="floor({0})")
def floor(xp: Any, x: Array) -> Any:
    """The largest integer not above x."""
    return xp.floor(x)


@ufunc(expr="ceil({0})")
def ceil(xp: Any, x: Array) -> Any:
    """The smallest integer not below x."""
    return xp.ceil(x)


@ufunc(expr="trunc({0})")
def trunc(xp: Any, x: Array) -> Any:
    """The integer part of x."""
    return xp.trunc(x)


@ufunc(expr="rint({0})")
def rint(xp: Any, x: Array) -> Any:
    """The nearest integer; halves go to the even one."""
    return xp.rint(x)


for _flat in (floor, ceil, trunc, rint):
    _flat.vjp(_constant)


# -- choosing


@ufunc(expr="({0} >= {1}) | ({0} != {0}) ? {0} : {1}")
def maximum(xp: Any, x: Array, y: Array) -> Any:
    """The larger of x and y; where they are equal, x has the gradient."""
    return xp.maximum(x, y)


@maximum.vjp
def _maximum_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * (x >= y), lambda: g * (x < y)


@ufunc(expr="({0} <= {1}) | ({0} != {0}) ? {0} : {1}")
def minimum(xp: Any, x: Array, y: Array) -> Any:
    """The smaller of x and y; where they are equal, x has the gradient."""
    return xp.minimum(x, y)


@minimum.vjp
def _minimum_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    return lambda: g * (x <= y), lambda: g * (x > y)


@_elementwise
def clip(xp: Any, x: Array, a_min: float | None = None, a_max: float | None = None) -> Any:
    """x limited to the range from ``a_min`` to ``a_max``; None is no limit. The gradient is 1 at the limits."""
    if a_min is not None:
        x = xp.maximum(x, a_min)
    return xp.minimum(x, a_max) if a_max is not None else xp.positive(x)


@clip.vjp
def _clip_vjp(xp: Any, g: Any, out: Any, x: Any, a_min: float | None = None, a_max: float | None = None) -> Any:
    return (g * (x == out),)


@op(specs.elementwise, elementwise=True, expr="{0} ? {1} : {2}")
def where(xp: Any, condition: Array, x: Array, y: Array) -> Any:
    """x where the condition holds, elsewhere y."""
    return xp.where(condition, x, y)


@where.vjp
def _where_vjp(xp: Any, g: Any, out: Any, condition: Any, x: Any, y: Any) -> Any:
    return None, lambda: xp.where(condition, g, 0.0), lambda: xp.where(condition, 0.0, g)


# -- the same values


def _as_type(op: Op[Any], x: Spec, *, dtype: str) -> Spec:
    return Spec(x.shape, np.dtype(dtype))


@op(_as_type, elementwise=True, expr="{0}")
def astype(xp: Any, x: Array, dtype: str) -> Any:
    """x converted to ``dtype``; the gradient is converted back."""
    return x.astype(dtype)


@astype.vjp
def _astype_vjp(xp: Any, g: Any, out: Any, x: Any, dtype: str) -> Any:
    return (g if is_float(out.dtype) else None,)


@op(specs.same, elementwise=True, expr="{0}")
def copy(xp: Any, x: Array) -> Any:
    """x in memory of its own."""
    return x.copy()


@copy.vjp
def _copy_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
    return (g,)


@op(specs.same, elementwise=True, view=True, expr="{0}")
def stop_gradient(xp: Any, x: Array) -> Any:
    """x, as a constant."""
    return x


stop_gradient.vjp(_constant)


@op(specs.same, elementwise=True, expr="0")
def zeros_like(xp: Any, x: Array) -> Any:
    """Zeros in the shape and dtype of x."""
    return xp.zeros_like(x)


@op(specs.same, elementwise=True, expr="1")
def ones_like(xp: Any, x: Array) -> Any:
    """Ones in the shape and dtype of x."""
    return xp.ones_like(x)


zeros_like.vjp(_constant)
ones_like.vjp(_constant)
