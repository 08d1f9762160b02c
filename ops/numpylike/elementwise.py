"""NumPy's element-wise functions: the operators under NumPy's names, and what is made of several of them."""

from typing import Any

import numpy as np

from shoal.ops import elementwise as ew
from shoal.ops.bits import bitwise_count, gcd, lcm, left_shift, right_shift
from shoal.ops.compare import (
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    equal,
    greater,
    greater_equal,
    invert,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    not_equal,
)
from shoal.ops.creation import asarray
from shoal.ops.elementwise import abs_ as absolute
from shoal.ops.elementwise import (
    add,
    cbrt,
    ceil,
    copy,
    divide,
    exp,
    exp2,
    expm1,
    floor,
    floor_divide,
    hypot,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    maximum,
    minimum,
    mod,
    multiply,
    negative,
    power,
    reciprocal,
    rint,
    rsqrt,
    sign,
    sqrt,
    square,
    subtract,
    tanh,
    trunc,
)
from shoal.ops.parts import (
    copysign,
    fmax,
    fmin,
    fmod,
    frexp,
    heaviside,
    ldexp,
    logaddexp2,
    modf,
    nextafter,
    positive,
    signbit,
    spacing,
)
from shoal.ops.trigonometric import (
    arccos,
    arccosh,
    arcsin,
    arcsinh,
    arctan,
    arctan2,
    arctanh,
    cos,
    cosh,
    deg2rad,
    rad2deg,
    sin,
    sinh,
    tan,
)

__all__ = [
    "abs",
    "absolute",
    "acos",
    "acosh",
    "add",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "around",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_count",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "cbrt",
    "ceil",
    "clip",
    "copy",
    "copysign",
    "cos",
    "cosh",
    "deg2rad",
    "degrees",
    "divide",
    "divmod",
    "equal",
    "exp",
    "exp2",
    "expm1",
    "fabs",
    "fix",
    "float_power",
    "floor",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "frexp",
    "gcd",
    "greater",
    "greater_equal",
    "heaviside",
    "hypot",
    "invert",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "lcm",
    "ldexp",
    "left_shift",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logaddexp2",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "mod",
    "modf",
    "multiply",
    "nan_to_num",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "power",
    "rad2deg",
    "radians",
    "reciprocal",
    "remainder",
    "right_shift",
    "rint",
    "round",
    "rsqrt",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "spacing",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "true_divide",
    "trunc",
]


abs = absolute
true_divide, remainder, pow = divide, mod, power
radians, degrees = deg2rad, rad2deg
bitwise_not = bitwise_invert = invert
bitwise_left_shift, bitwise_right_shift = left_shift, right_shift
acos, acosh, asin, asinh, atan, atan2, atanh = arccos, arccosh, arcsin, arcsinh, arctan, arctan2, arctanh


def divmod(x: Any, y: Any) -> tuple[Any, Any]:
    """The pair ``(x // y, x % y)``."""
    return floor_divide(x, y), mod(x, y)


def fabs(x: Any) -> Any:
    """The absolute value, always of floating-point numbers."""
    return absolute(_float(x))


def float_power(x: Any, y: Any) -> Any:
    """x to the power y in float64."""
    return power(ew.astype(asarray(x), dtype="float64"), y)


def fix(x: Any) -> Any:
    """The integer part of x."""
    return trunc(x)


def round(x: Any, decimals: int = 0) -> Any:
    """To that many decimals; halves go to the even neighbour."""
    if not decimals:
        return rint(x) if asarray(x).dtype.kind not in "iub" else positive(x)
    scale = 10.0**decimals
    return rint(x * scale) * (1.0 / scale)


around = round


def clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    """x limited to the range from ``a_min`` to ``a_max``: numbers or arrays; None is no limit.

    Args:
        min, max: other names of ``a_min`` and ``a_max``.
    """
    low, high = a_min if min is None else min, a_max if max is None else max
    if all(v is None or isinstance(v, (int, float)) for v in (low, high)):
        return ew.clip(x, a_min=low, a_max=high)
    x = x if low is None else maximum(x, low)
    return x if high is None else minimum(x, high)


def isposinf(x: Any) -> Any:
    """Whether x is plus infinity."""
    return equal(x, float("inf"))


def isneginf(x: Any) -> Any:
    """Whether x is minus infinity."""
    return equal(x, float("-inf"))


def nan_to_num(
    x: Any, copy: bool = True, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """With numbers in the place of nan and infinities (by default the largest of the dtype); always a copy."""
    if x.dtype.kind in "iub":
        return positive(x) if x.dtype.kind != "b" else ew.copy(x)
    largest = float(np.finfo(x.dtype).max)
    x = ew.where(x == x, x, nan)
    x = ew.where(x == float("inf"), largest if posinf is None else posinf, x)
    return ew.where(x == float("-inf"), -largest if neginf is None else neginf, x)


def _float(x: Any) -> Any:
    """x, with integers and booleans as the floats that NumPy makes of them."""
    x = asarray(x)
    return x if x.dtype.kind not in "iub" else ew.astype(x, dtype=np.result_type(x.dtype, np.float16).name)
