"""Element by element: arithmetic, comparison, logic, bits, activations, conversion of dtypes."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from shoal.ops import activation, compare, elementwise, threshold, trigonometric
from shoal.ops.onnx.nodes import Call, node
from shoal.ops.onnx.proto import require

__all__ = ["cast", "dtype_of"]

UNARY: dict[str, Callable[[Any], Any]] = {
    "Abs": elementwise.abs_,
    "Acos": trigonometric.arccos,
    "Acosh": trigonometric.arccosh,
    "Asin": trigonometric.arcsin,
    "Asinh": trigonometric.arcsinh,
    "Atan": trigonometric.arctan,
    "Atanh": trigonometric.arctanh,
    "BitwiseNot": compare.invert,
    "Ceil": elementwise.ceil,
    "Cos": trigonometric.cos,
    "Cosh": trigonometric.cosh,
    "Erf": elementwise.erf,
    "Exp": elementwise.exp,
    "Floor": elementwise.floor,
    "HardSwish": activation.hard_swish,
    "IsNaN": compare.isnan,
    "Log": elementwise.log,
    "Mish": activation.mish,
    "Neg": elementwise.negative,
    "Not": compare.logical_not,
    "Reciprocal": elementwise.reciprocal,
    "Relu": activation.relu,
    "Round": elementwise.rint,
    "Sigmoid": activation.sigmoid,
    "Sign": elementwise.sign,
    "Sin": trigonometric.sin,
    "Sinh": trigonometric.sinh,
    "Softplus": activation.softplus,
    "Softsign": activation.softsign,
    "Sqrt": elementwise.sqrt,
    "Tan": trigonometric.tan,
    "Tanh": elementwise.tanh,
}

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": elementwise.add,
    "And": compare.logical_and,
    "BitwiseAnd": compare.bitwise_and,
    "BitwiseOr": compare.bitwise_or,
    "BitwiseXor": compare.bitwise_xor,
    "Equal": compare.equal,
    "Greater": compare.greater,
    "GreaterOrEqual": compare.greater_equal,
    "Less": compare.less,
    "LessOrEqual": compare.less_equal,
    "Mul": elementwise.multiply,
    "Or": compare.logical_or,
    "Sub": elementwise.subtract,
    "Xor": compare.logical_xor,
}


def _unary(name: str, f: Callable[[Any], Any]) -> None:
    @node(name)
    def apply(c: Call, x: Any) -> Any:
        return f(x)


def _binary(name: str, f: Callable[[Any, Any], Any]) -> None:
    @node(name)
    def apply(c: Call, x: Any, y: Any) -> Any:
        return f(x, _placed(c, x, y))


def _placed(c: Call, x: Any, y: Any) -> Any:
    """The second operand where opsets before 7 put it: ``axis`` says where its first axis is."""
    if not c.get("broadcast") or "axis" not in c.attrs:
        return y
    axis = int(c.get("axis")) % x.ndim
    return y.reshape(tuple(y.shape) + (1,) * (x.ndim - axis - y.ndim))


for _name, _f in UNARY.items():
    _unary(_name, _f)
for _name, _g in BINARY.items():
    _binary(_name, _g)


def is_whole(x: Any) -> bool:
    """Whether its dtype is an integer one."""
    return np.dtype(x.dtype).kind in "iu"


@node("Div")
def divide(c: Call, x: Any, y: Any) -> Any:
    """Integers are cut off towards zero, as in C."""
    y = _placed(c, x, y)
    if not is_whole(x):
        return elementwise.divide(x, y)
    down, rest = elementwise.floor_divide(x, y), elementwise.mod(x, y)
    if np.dtype(x.dtype).kind == "u":
        return down
    crossed = compare.logical_and(compare.not_equal(rest, 0), compare.not_equal(x < 0, y < 0))
    return down + crossed.astype(x.dtype)


@node("Mod")
def modulo(c: Call, x: Any, y: Any) -> Any:
    """With ``fmod`` the sign is that of x, else that of y."""
    rest = elementwise.mod(x, y)
    if not c.get("fmod", 0):
        return rest
    other = compare.logical_and(compare.not_equal(rest, 0), compare.not_equal(rest < 0, x < 0))
    return elementwise.where(other, rest - y, rest)


@node("Pow")
def power(c: Call, x: Any, y: Any) -> Any:
    """With the dtype of the base."""
    dtype = np.dtype(x.dtype)
    if dtype == np.dtype(y.dtype):
        return elementwise.power(x, _placed(c, x, y))
    if is_whole(x):
        return elementwise.power(x.astype("float64"), y.astype("float64")).astype(dtype.name)
    return elementwise.power(x, y.astype(dtype.name))


def _folded(name: str, f: Callable[[Any, Any], Any], mean: bool = False) -> None:
    @node(name)
    def apply(c: Call, *xs: Any) -> Any:
        total = reduce(f, xs)
        return total / float(len(xs)) if mean else total


_folded("Max", elementwise.maximum)
_folded("Min", elementwise.minimum)
_folded("Sum", elementwise.add)
_folded("Mean", elementwise.add, mean=True)


@node("BitShift")
def bit_shift(c: Call, x: Any, y: Any) -> Any:
    """Of unsigned integers, "LEFT" or "RIGHT"."""
    shift = np.left_shift if c.get("direction") == "LEFT" else np.right_shift
    return shift(c.known(x, "x"), c.known(y, "y"))


@node("BitCast")
def bit_cast(c: Call, x: Any) -> Any:
    """The same bits as another dtype of the same size."""
    return c.known(x, "its bits").view(dtype_of(int(c.get("to"))))


@node("IsInf")
def is_inf(c: Call, x: Any) -> Any:
    """Plus or minus infinity, or only one of them."""
    found = compare.isinf(x)
    if not c.get("detect_positive", 1):
        found = compare.logical_and(found, x < 0)
    if not c.get("detect_negative", 1):
        found = compare.logical_and(found, x > 0)
    return found


@node("Where")
def where(c: Call, condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, y elsewhere."""
    return elementwise.where(condition, x, y)


# --- activations ------------------------------------------------------------------------------------------------------


@node("Clip")
def clip(c: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    """Between two numbers; the upper one wins where they cross."""
    low = c.get("min") if low is None else low
    high = c.get("max") if high is None else high
    x = x if low is None else elementwise.maximum(x, low)
    return x if high is None else elementwise.minimum(x, high)


@node("LeakyRelu")
def leaky_relu(c: Call, x: Any) -> Any:
    """A slope of ``alpha`` below 0."""
    return elementwise.where(x < 0, x * c.get("alpha", 0.01), x)


@node("PRelu")
def prelu(c: Call, x: Any, slope: Any) -> Any:
    """A learned slope below 0."""
    return elementwise.where(x < 0, x * slope, x)


@node("Elu")
def elu(c: Call, x: Any) -> Any:
    """``alpha`` (exp(x) - 1) below 0."""
    return elementwise.where(x < 0, elementwise.expm1(elementwise.minimum(x, 0.0)) * c.get("alpha", 1.0), x)


@node("Selu")
def selu(c: Call, x: Any) -> Any:
    """A scaled `Elu`."""
    below = elementwise.expm1(elementwise.minimum(x, 0.0)) * c.get("alpha", 1.67326319217681884765625)
    return elementwise.where(x > 0, x, below) * c.get("gamma", 1.05070102214813232421875)


@node("Celu")
def celu(c: Call, x: Any) -> Any:
    """A continuously differentiable `Elu`."""
    return threshold.celu(x, alpha=c.get("alpha", 1.0))


@node("Gelu")
def gelu(c: Call, x: Any) -> Any:
    """With the error function, or the approximation by tanh."""
    return activation.gelu(x, approximation="tanh" if c.get("approximate", "none") == "tanh" else "erf")


@node("Swish")
def swish(c: Call, x: Any) -> Any:
    """x sigmoid(``alpha`` x)."""
    return x * activation.sigmoid(x * c.get("alpha", 1.0))


@node("HardSigmoid")
def hard_sigmoid(c: Call, x: Any) -> Any:
    """``alpha`` x + ``beta`` between 0 and 1."""
    return activation.hard_sigmoid(x, alpha=c.get("alpha", 0.2), beta=c.get("beta", 0.5))


@node("ThresholdedRelu")
def thresholded_relu(c: Call, x: Any) -> Any:
    """x above ``alpha``, else 0."""
    return threshold.threshold(x, threshold=c.get("alpha", 1.0), value=0.0)


@node("Shrink")
def shrink(c: Call, x: Any) -> Any:
    """Towards 0 by ``bias``; 0 within ``lambd`` of it."""
    edge, bias = c.get("lambd", 0.5), c.get("bias", 0.0)
    zero = elementwise.zeros_like(x)
    moved = elementwise.where(x < -edge, x + bias, elementwise.where(x > edge, x - bias, zero))
    return moved.astype(np.dtype(x.dtype).name)


# --- dtypes -----------------------------------------------------------------------------------------------------------


def dtype_of(number: int) -> np.dtype[Any]:
    """The NumPy dtype of ONNX's number for it."""
    found: np.dtype[Any] = np.dtype(require().helper.tensor_dtype_to_np_dtype(number))
    return found


def cast(x: Any, dtype: np.dtype[Any]) -> Any:
    """As another dtype."""
    return x.astype(dtype) if isinstance(x, np.ndarray) else x.astype(dtype.name)


@node("Cast")
def cast_to(c: Call, x: Any) -> Any:
    """To the dtype with the number ``to``."""
    return cast(x, dtype_of(int(c.get("to"))))


@node("CastLike")
def cast_like(c: Call, x: Any, like: Any) -> Any:
    """To the dtype of another value."""
    return cast(x, np.dtype(like.dtype))


@node("Identity")
def identity(c: Call, x: Any) -> Any:
    """The value itself."""
    return x
