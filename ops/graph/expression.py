"""Operators as text: one printer for C and CUDA.

A `Printer` writes one statement per operator, on one element. Operators that have an ``expr`` are printed as it says;
all other element-wise ones are carried out on `Value`s, so that their forward itself says what they are composed of,
and nothing is written down twice. Types are NumPy's: each operand is converted to the type of the ufunc's loop.

In an ``expr``, numbers with a point get the type of the computation, and functions the name that the target has for
that type. A target that has none cannot print the operator: `Unprintable`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.ops.precision import is_half
from shoal.ops.registry import OPS, Spec

__all__ = ["CUDA", "C_HELPERS", "C", "Printer", "Target", "Unprintable", "Value", "printable"]

TYPES = {"?": "uint8_t", "b": "int8_t", "i": "int32_t", "l": "int64_t", "q": "int64_t", "f": "float", "d": "double"}
"""Names of types by NumPy's characters; others are not printed."""

_SAME = {"absolute": "abs", "positive": "copy", "raw_erf": "erf", "true_divide": "divide"}
"""Functions of the array module that forwards call, and that are operators under another name."""

_TOKENS = re.compile(r"\b(?P<function>[a-z]\w*)\(|(?P<number>\b\d+\.\d*)|(?P<limit>\bREAL_MAX\b)")


class Unprintable(Exception):
    """The target has no text for an operator on these types."""


@dataclass(frozen=True)
class Target:
    """A language.

    Attributes:
        name: of it.
        functions: what it calls a function of float32 and of float64; a missing one cannot be printed.
        halves: whether half precision is computed with, as float32.
    """

    name: str
    functions: dict[str, tuple[str, str]]
    halves: bool = False

    def computed(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The type that elements of a type are computed in.

        Raises:
            Unprintable: it has no name.
        """
        found = np.dtype(np.float32) if self.halves and is_half(dtype) else dtype
        type_name(found)
        return found


_EXACT = {name: (name + "f", name) for name in ("fabs", "sqrt", "floor", "ceil", "trunc", "rint")}

C = Target(
    "C",
    {
        **_EXACT,
        "exp": ("shoal_expf", ""),
        "log": ("shoal_logf", ""),
        "tanh": ("shoal_tanhf", ""),
        "erf": ("shoal_erff", ""),
        "expm1": ("fused_expm1f", ""),
        "log1p": ("fused_log1pf", ""),
    },
)
"""C with the prelude of `shoal.ops.native.compiler`. Only functions that loops can be vectorised over are here; float64
has none, and NumPy's are as good."""

_MORE = "exp2 log2 log10 cbrt hypot pow sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh"

CUDA = Target(
    "CUDA",
    {
        **_EXACT,
        **{name: (name + "f", name) for name in f"exp log tanh erf expm1 log1p {_MORE}".split()},
    },
    halves=True,
)
"""CUDA C++, as NVRTC compiles it."""

C_HELPERS = """#ifndef FUSED_HELPERS
#define FUSED_HELPERS
/* After W. Kahan: the error of 1 + x, and of exp(x), is made again below, and cancels. */
INLINE float fused_log1pf(float x) {
    float u = 1.0f + x, y = shoal_logf(u) * (x / (u - 1.0f));
    y = u == 1.0f ? x : y;
    return x > 1e30f ? shoal_logf(x) : y;
}
INLINE float fused_expm1f(float x) {
    float u = shoal_expf(x), d = u - 1.0f, y = d * (x / shoal_logf(u));
    y = u == 1.0f ? x : y;
    y = d == -1.0f ? -1.0f : y;
    return u > FLT_MAX ? u : y;
}
#endif
"""
"""What C text needs beyond the prelude."""


class Value:
    """An element in text that is being printed: a name and a type. Arithmetic prints statements."""

    __slots__ = ("dtype", "printer", "text")

    def __init__(self, printer: "Printer", text: str, dtype: Any) -> None:
        self.printer, self.text, self.dtype = printer, text, np.dtype(dtype)

    def astype(self, dtype: Any, copy: bool = True) -> "Value":
        """Converted."""
        return self.printer.apply("astype", (self,), {"dtype": np.dtype(dtype).name})

    def __eq__(self, other: object) -> "Value":  # type: ignore[override]  # as arrays compare
        return self.printer.apply("equal", (self, other), {})

    def __ne__(self, other: object) -> "Value":  # type: ignore[override]
        return self.printer.apply("not_equal", (self, other), {})

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise Unprintable("a choice by value")  # a forward that looks at its numbers has no text

    def __neg__(self) -> "Value":
        return self.printer.apply("negative", (self,), {})

    def __abs__(self) -> "Value":
        return self.printer.apply("abs", (self,), {})


def _binary(name: str, swapped: bool = False) -> Any:
    def method(self: Value, other: Any) -> Value:
        return self.printer.apply(name, (other, self) if swapped else (self, other), {})

    return method


for _symbol, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
}.items():  # fmt: skip
    setattr(Value, f"__{_symbol}__", _binary(_name))
    setattr(Value, f"__r{_symbol}__", _binary(_name, swapped=True))
for _symbol, _name in {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}.items():
    setattr(Value, f"__{_symbol}__", _binary(_name))


class Printer:
    """Writes statements.

    Args:
        target: the language.
        prefix: what the names of results begin with.
    Attributes:
        lines: what was written.
    """

    def __init__(self, target: Target, prefix: str = "t") -> None:
        self.target, self.prefix = target, prefix
        self.lines: list[str] = []
        self._count = 0
        self._known: dict[tuple[str, str], Value] = {}
        self._inside: list[str] = []  # operators whose forward is being carried out

    def __getattr__(self, name: str) -> Any:
        """As the ``xp`` of a forward: an operator that prints."""
        name = _SAME.get(name, name)
        if name not in OPS:
            raise Unprintable(name)
        return lambda *inputs, **attrs: self.apply(name, *OPS[name].bind(inputs, attrs))

    def apply(self, name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> Value:
        """Print an operator on Values and scalars.

        Raises:
            Unprintable: it cannot be.
        """
        op = OPS.get(_SAME.get(name, name))
        if op is None or not (op.elementwise or name == "broadcast_to"):
            raise Unprintable(name)
        if name == "broadcast_to":
            return inputs[0]  # type: ignore[no-any-return]  # indices are the same; the loop repeats it
        if op.expr:
            return self._primitive(op, inputs, attrs)
        if op.ufunc is not None or op.name in self._inside:  # the forward calls the array module's function of its name
            raise Unprintable(name)
        self._inside.append(op.name)
        try:
            out = op.forward(self, *inputs, **attrs)
        except (AttributeError, TypeError, ValueError) as error:  # it does more than operators can say
            raise Unprintable(f"{name}: {error}") from None
        finally:
            self._inside.pop()
        return out if isinstance(out, Value) else self.value(out, self._result(op, inputs, attrs))

    def value(self, scalar: Any, dtype: Any) -> Value:
        """A number as a Value."""
        return Value(self, literal(scalar, np.dtype(dtype)), dtype)

    def _primitive(self, op: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> Value:
        result = self._result(op, inputs, attrs)
        loop = self._loop(op, inputs, result)
        if op.name in ("add", "subtract", "negative", "square") and loop[0] == np.bool_:
            raise Unprintable(f"{op.name} of booleans")
        if op.name == "astype" and result.kind in "iub" and inputs[0].dtype.kind == "f" and result != np.bool_:
            raise Unprintable("conversion of floats to integers")  # undefined outside the range
        texts = [self._operand(x, dtype) for x, dtype in zip(inputs, loop, strict=True)]
        text = self._typed(op.expr, loop[-1] if op.name == "where" else loop[0] if loop else result)
        text = text.format(*texts)
        if op.name == "astype" and result == np.bool_:
            text = f"{text} != 0"
        return self._assign(text, result)

    def _result(self, op: Any, inputs: Sequence[Any], attrs: dict[str, Any]) -> np.dtype[Any]:
        spec = op.infer(*(Spec((1,), x.dtype) if isinstance(x, Value) else x for x in inputs), **attrs)
        return self.target.computed(spec.dtype)

    def _loop(self, op: Any, inputs: Sequence[Any], result: np.dtype[Any]) -> list[np.dtype[Any]]:
        """The types that the operands are converted to."""
        if op.ufunc is not None:
            given = tuple(x.dtype if isinstance(x, Value) else type(x) for x in inputs)
            if not any(isinstance(x, Value) for x in inputs):
                return [result] * len(inputs)
            if bool in given:
                given = tuple(np.dtype(bool) if t is bool else t for t in given)
            ufunc = getattr(np, op.ufunc)
            return list(ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))[: len(inputs)])
        if op.name == "where":
            return [np.dtype(bool), result, result]
        if op.name == "astype":
            return [inputs[0].dtype]
        return [result] * len(inputs)

    def _operand(self, x: Any, dtype: np.dtype[Any]) -> str:
        if not isinstance(x, Value):
            return literal(x, dtype)
        if x.dtype == dtype:
            return x.text
        if dtype == np.bool_:
            return f"({x.text} != 0)"
        return f"(({type_name(dtype)}){x.text})"

    def _typed(self, expr: str, dtype: np.dtype[Any]) -> str:
        """The expression with the functions and numbers of a type."""
        double = dtype == np.float64

        def token(match: re.Match[str]) -> str:
            if match["function"]:
                if dtype.kind != "f":
                    if match["function"] == "fabs" and dtype.kind == "i":
                        return "abs("
                    raise Unprintable(f"{match['function']} of {dtype}")
                name = self.target.functions.get(match["function"], ("", ""))[double]
                if not name:
                    raise Unprintable(f"{self.target.name} has no {match['function']} of {dtype}")
                return name + "("
            if match["limit"]:
                return "DBL_MAX" if double else "FLT_MAX"
            return match["number"] + ("" if double else "f")

        return _TOKENS.sub(token, expr)

    def _assign(self, text: str, dtype: np.dtype[Any]) -> Value:
        kind = "int" if dtype == np.bool_ else type_name(dtype)  # as wide as floats, so that loops become vectors
        if (text, kind) not in self._known:
            name = f"{self.prefix}{self._count}"
            self._count += 1
            self.lines.append(f"const {kind} {name} = {text};")
            self._known[text, kind] = Value(self, name, dtype)
        return self._known[text, kind]


def type_name(dtype: np.dtype[Any]) -> str:
    """What a type is called.

    Raises:
        Unprintable: it has no name here.
    """
    if dtype.char not in TYPES:
        raise Unprintable(str(dtype))
    return TYPES[dtype.char]


def literal(x: Any, dtype: np.dtype[Any]) -> str:
    """A number of a type, to the bit."""
    type_name(dtype)
    if dtype.kind != "f":
        return f"{int(x)}"
    value = float(dtype.type(x))
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{value:.9g}" if dtype == np.float32 else repr(value)
    text = text if "." in text or "e" in text else text + ".0"
    return f"{'(' if text[0] == '-' else ''}{text}{'f' if dtype == np.float32 else ''}{')' if text[0] == '-' else ''}"


def printable(target: Target, name: str, specs: Sequence[Any], attrs: dict[str, Any]) -> bool:
    """Whether the operator ``name`` can be printed on inputs of these specs (Spec or scalar each)."""
    printer = Printer(target)
    try:
        inputs = []
        for i, s in enumerate(specs):
            if isinstance(s, Spec):
                inputs.append(Value(printer, f"x{i}", target.computed(s.dtype)))
            else:
                inputs.append(s)
        printer.apply(name, inputs, attrs)
    except (Unprintable, TypeError):
        return False
    return True
