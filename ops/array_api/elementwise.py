"""Element-wise functions of the standard. A Python number may stand for one of two arrays."""

from collections.abc import Callable
from typing import Any

from shoal.ops.numpylike import complexes
from shoal.ops.numpylike import elementwise as names

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "clip",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "imag",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "real",
    "reciprocal",
    "remainder",
    "round",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
]


def _unary(function: Callable[..., Any], whole: bool = False) -> Callable[[Any], Any]:
    """``function`` of one array. With ``whole``, integers are what they would be rounded to."""

    def run(x: Any, /) -> Any:
        return names.positive(x) if whole and x.dtype.kind in "iu" else function(x)

    run.__name__, run.__doc__ = getattr(function, "__name__", "run"), function.__doc__
    return run


def _binary(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """``function`` of two arrays, one of which may be a number."""

    def run(x1: Any, x2: Any, /) -> Any:
        return function(x1, x2)

    run.__name__, run.__doc__ = getattr(function, "__name__", "run"), function.__doc__
    return run


abs = _unary(names.abs)
acos = _unary(names.acos)
acosh = _unary(names.acosh)
asin = _unary(names.asin)
asinh = _unary(names.asinh)
atan = _unary(names.atan)
atanh = _unary(names.atanh)
bitwise_invert = _unary(names.bitwise_invert)
ceil = _unary(names.ceil, whole=True)
conj = _unary(complexes.conj)
cos = _unary(names.cos)
cosh = _unary(names.cosh)
exp = _unary(names.exp)
expm1 = _unary(names.expm1)
floor = _unary(names.floor, whole=True)
imag = _unary(complexes.imag)
isfinite = _unary(names.isfinite)
isinf = _unary(names.isinf)
isnan = _unary(names.isnan)
log = _unary(names.log)
log1p = _unary(names.log1p)
log2 = _unary(names.log2)
log10 = _unary(names.log10)
logical_not = _unary(names.logical_not)
negative = _unary(names.negative)
positive = _unary(names.positive)
real = _unary(complexes.real)
reciprocal = _unary(names.reciprocal)
round = _unary(names.round, whole=True)
sign = _unary(names.sign)
signbit = _unary(names.signbit)
sin = _unary(names.sin)
sinh = _unary(names.sinh)
square = _unary(names.square)
sqrt = _unary(names.sqrt)
tan = _unary(names.tan)
tanh = _unary(names.tanh)
trunc = _unary(names.trunc, whole=True)

add = _binary(names.add)
atan2 = _binary(names.atan2)
bitwise_and = _binary(names.bitwise_and)
bitwise_left_shift = _binary(names.bitwise_left_shift)
bitwise_or = _binary(names.bitwise_or)
bitwise_right_shift = _binary(names.bitwise_right_shift)
bitwise_xor = _binary(names.bitwise_xor)
copysign = _binary(names.copysign)
divide = _binary(names.divide)
equal = _binary(names.equal)
floor_divide = _binary(names.floor_divide)
greater = _binary(names.greater)
greater_equal = _binary(names.greater_equal)
hypot = _binary(names.hypot)
less = _binary(names.less)
less_equal = _binary(names.less_equal)
logaddexp = _binary(names.logaddexp)
logical_and = _binary(names.logical_and)
logical_or = _binary(names.logical_or)
logical_xor = _binary(names.logical_xor)
maximum = _binary(names.maximum)
minimum = _binary(names.minimum)
multiply = _binary(names.multiply)
nextafter = _binary(names.nextafter)
not_equal = _binary(names.not_equal)
pow = _binary(names.pow)
remainder = _binary(names.remainder)
subtract = _binary(names.subtract)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """x limited to the range from ``min`` to ``max``: numbers or arrays; None is no limit."""
    out = names.positive(x) if min is None and max is None and x.dtype.kind != "b" else names.clip(x, min, max)
    return out if out.dtype == x.dtype else out.astype(x.dtype)
