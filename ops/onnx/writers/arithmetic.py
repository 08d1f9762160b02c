"""Element by element."""

import math
from collections.abc import Sequence

import numpy as np

from shoal.ops.graph.ir import Call
from shoal.ops.onnx.writing import Writer, writes

__all__: list[str] = []

UNARY = {
    "abs": "Abs",
    "arccos": "Acos",
    "arccosh": "Acosh",
    "arcsin": "Asin",
    "arcsinh": "Asinh",
    "arctan": "Atan",
    "arctanh": "Atanh",
    "ceil": "Ceil",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "isinf": "IsInf",
    "isnan": "IsNaN",
    "log": "Log",
    "logical_not": "Not",
    "negative": "Neg",
    "reciprocal": "Reciprocal",
    "relu": "Relu",
    "rint": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
    "copy": "Identity",
    "positive": "Identity",
    "stop_gradient": "Identity",
}

BINARY = {
    "add": "Add",
    "divide": "Div",
    "equal": "Equal",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
    "maximum": "Max",
    "minimum": "Min",
    "multiply": "Mul",
    "power": "Pow",
    "subtract": "Sub",
}

COMPARES = frozenset(["equal", "greater", "greater_equal", "less", "less_equal", "not_equal"])
LOGICAL = frozenset(["logical_and", "logical_not", "logical_or", "logical_xor"])


def common(w: Writer, c: Call, inputs: Sequence[str]) -> list[str]:
    """The operands in one dtype, as NumPy promotes them: ONNX does not."""
    dtypes = [w.specs[x].dtype for x in inputs]
    if c.op in LOGICAL:
        wanted = np.dtype(bool)
    elif c.op in COMPARES:
        wanted = np.result_type(*dtypes)
    else:
        wanted = c.specs[0].dtype
    return [x if d == wanted else w.cast(x, wanted) for x, d in zip(inputs, dtypes, strict=True)]


def _simple(name: str, onnx: str) -> None:
    @writes(name)
    def write(w: Writer, c: Call, *inputs: str) -> str:
        found: str = w.node(onnx, *common(w, c, inputs))
        return found


for _name, _onnx in {**UNARY, **BINARY}.items():
    if _name not in ("isinf", "isnan"):
        _simple(_name, _onnx)


@writes("isinf", "isnan")
def is_special(w: Writer, c: Call, x: str) -> str:
    """Of floats as they are."""
    found: str = w.node(UNARY[c.op], x)
    return found


def number(w: Writer, c: Call, value: float) -> str:
    """A constant in the dtype of the output."""
    return w.const(value, c.specs[0].dtype)


@writes("not_equal")
def not_equal(w: Writer, c: Call, x: str, y: str) -> str:
    """The opposite of equal."""
    found: str = w.node("Not", w.node("Equal", *common(w, c, (x, y))))
    return found


@writes("isfinite")
def is_finite(w: Writer, c: Call, x: str) -> str:
    """Neither infinite nor nan."""
    found: str = w.node("Not", w.node("Or", w.node("IsInf", x), w.node("IsNaN", x)))
    return found


@writes("square")
def square(w: Writer, c: Call, x: str) -> str:
    """A product with itself."""
    found: str = w.node("Mul", x, x)
    return found


@writes("rsqrt")
def rsqrt(w: Writer, c: Call, x: str) -> str:
    """One over the root."""
    found: str = w.node("Reciprocal", w.node("Sqrt", *common(w, c, (x,))))
    return found


@writes("expm1")
def expm1(w: Writer, c: Call, x: str) -> str:
    """exp(x) - 1, with less precision near 0."""
    found: str = w.node("Sub", w.node("Exp", *common(w, c, (x,))), number(w, c, 1.0))
    return found


@writes("log1p")
def log1p(w: Writer, c: Call, x: str) -> str:
    """log(1 + x), with less precision near 0."""
    found: str = w.node("Log", w.node("Add", *common(w, c, (x,)), number(w, c, 1.0)))
    return found


@writes("exp2")
def exp2(w: Writer, c: Call, x: str) -> str:
    """2 ** x."""
    found: str = w.node("Pow", number(w, c, 2.0), *common(w, c, (x,)))
    return found


@writes("log2", "log10")
def log_of(w: Writer, c: Call, x: str) -> str:
    """A logarithm of another base."""
    factor = 1.0 / math.log(2.0 if c.op == "log2" else 10.0)
    found: str = w.node("Mul", w.node("Log", *common(w, c, (x,))), number(w, c, factor))
    return found


@writes("cbrt")
def cbrt(w: Writer, c: Call, x: str) -> str:
    """The third root, of negative numbers too."""
    (x,) = common(w, c, (x,))
    found: str = w.node("Mul", w.node("Sign", x), w.node("Pow", w.node("Abs", x), number(w, c, 1 / 3)))
    return found


@writes("hypot")
def hypot(w: Writer, c: Call, x: str, y: str) -> str:
    """The root of the sum of squares."""
    a, b = common(w, c, (x, y))
    found: str = w.node("Sqrt", w.node("Add", w.node("Mul", a, a), w.node("Mul", b, b)))
    return found


@writes("logaddexp")
def logaddexp(w: Writer, c: Call, x: str, y: str) -> str:
    """The larger one plus softplus of minus the distance."""
    a, b = common(w, c, (x, y))
    away = w.node("Neg", w.node("Abs", w.node("Sub", a, b)))
    found: str = w.node("Add", w.node("Max", a, b), w.node("Softplus", away))
    return found


@writes("floor_divide")
def floor_divide(w: Writer, c: Call, x: str, y: str) -> str:
    """The quotient, rounded down; of whole numbers by their remainder."""
    a, b = common(w, c, (x, y))
    if c.specs[0].dtype.kind == "f":
        found: str = w.node("Floor", w.node("Div", a, b))
    else:
        found = w.node("Div", w.node("Sub", a, w.node("Mod", a, b)), b)
    return found


@writes("mod")
def mod(w: Writer, c: Call, x: str, y: str) -> str:
    """With the sign of y."""
    a, b = common(w, c, (x, y))
    if c.specs[0].dtype.kind != "f":
        found: str = w.node("Mod", a, b)
    else:
        found = w.node("Sub", a, w.node("Mul", w.node("Floor", w.node("Div", a, b)), b))
    return found


@writes("trunc")
def trunc(w: Writer, c: Call, x: str) -> str:
    """Towards 0."""
    found: str = w.node("Mul", w.node("Sign", x), w.node("Floor", w.node("Abs", x)))
    return found


@writes("deg2rad", "rad2deg")
def angle(w: Writer, c: Call, x: str) -> str:
    """Degrees and radians."""
    factor = math.pi / 180 if c.op == "deg2rad" else 180 / math.pi
    found: str = w.node("Mul", *common(w, c, (x,)), number(w, c, factor))
    return found


@writes("clip")
def clip(w: Writer, c: Call, x: str) -> str:
    """Between two numbers."""
    low, high = c.attrs["a_min"], c.attrs["a_max"]
    made = x if low is None else w.node("Max", x, number(w, c, low))
    found: str = made if high is None else w.node("Min", made, number(w, c, high))
    return found if found != x else w.node("Identity", x)


@writes("where")
def where(w: Writer, c: Call, condition: str, x: str, y: str) -> str:
    """One or the other."""
    truth = condition if w.specs[condition].dtype == np.dtype(bool) else w.cast(condition, bool)
    found: str = w.node("Where", truth, *common(w, c, (x, y)))
    return found


@writes("astype")
def astype(w: Writer, c: Call, x: str) -> str:
    """Another dtype."""
    return w.cast(x, c.specs[0].dtype)


@writes("zeros_like", "ones_like")
def filled_like(w: Writer, c: Call, x: str) -> str:
    """The same number everywhere."""
    value = w.onnx.numpy_helper.from_array(np.full(1, c.op == "ones_like", c.specs[0].dtype))
    found: str = w.node("ConstantOfShape", w.node("Shape", x), value=value)
    return found


# --- activations ------------------------------------------------------------------------------------------------------


@writes("leaky_relu")
def leaky_relu(w: Writer, c: Call, x: str) -> str:
    """A slope below 0."""
    found: str = w.node("LeakyRelu", x, alpha=float(c.attrs["slope"]))
    return found


@writes("prelu")
def prelu(w: Writer, c: Call, x: str, slope: str) -> str:
    """A learned slope below 0, one for all or one for each channel (axis 1)."""
    ndim = w.specs[x].ndim
    if w.specs[slope].ndim == 1 and ndim > 2:
        slope = w.node("Reshape", slope, w.ints(-1, *[1] * (ndim - 2)))
    below = w.node("Mul", x, slope)
    found: str = w.node("Where", w.node("Less", x, number(w, c, 0.0)), below, x)
    return found


@writes("elu", "celu")
def elu(w: Writer, c: Call, x: str) -> str:
    """Exponential below 0."""
    found: str = w.node("Elu" if c.op == "elu" else "Celu", x, alpha=float(c.attrs["alpha"]))
    return found


@writes("gelu")
def gelu(w: Writer, c: Call, x: str) -> str:
    """One node from opset 20 on; before that, what it means."""
    tanh = c.attrs["approximation"] == "tanh"
    if w.opset >= 20:
        found: str = w.node("Gelu", x, approximate="tanh" if tanh else "none")
        return found
    half, one = number(w, c, 0.5), number(w, c, 1.0)
    if tanh:
        cube = w.node("Mul", w.node("Mul", x, x), x)
        inner = w.node("Add", x, w.node("Mul", cube, number(w, c, 0.044715)))
        part = w.node("Tanh", w.node("Mul", inner, number(w, c, math.sqrt(2 / math.pi))))
    else:
        part = w.node("Erf", w.node("Mul", x, number(w, c, math.sqrt(0.5))))
    found = w.node("Mul", w.node("Mul", x, half), w.node("Add", part, one))
    return found


@writes("silu")
def silu(w: Writer, c: Call, x: str) -> str:
    """x sigmoid(x)."""
    found: str = w.node("Mul", x, w.node("Sigmoid", x))
    return found


@writes("log_sigmoid")
def log_sigmoid(w: Writer, c: Call, x: str) -> str:
    """Minus softplus of -x."""
    found: str = w.node("Neg", w.node("Softplus", w.node("Neg", x)))
    return found


@writes("hard_sigmoid")
def hard_sigmoid(w: Writer, c: Call, x: str) -> str:
    """A line between 0 and 1."""
    found: str = w.node("HardSigmoid", x, alpha=float(c.attrs["alpha"]), beta=float(c.attrs["beta"]))
    return found


@writes("hard_tanh")
def hard_tanh(w: Writer, c: Call, x: str) -> str:
    """Between two numbers."""
    low, high = (number(w, c, float(c.attrs[n])) for n in ("min_val", "max_val"))
    found: str = w.node("Min", w.node("Max", x, low), high)
    return found
