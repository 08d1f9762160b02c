"""Algebraic simplification: `simplify`, rule by rule.

The rules of `EXACT` keep every bit: x*1 and x/1, x-0, -(-x), chains of transposes, reshapings, broadcasts and widening
conversions, division by powers of two. Those of `LOOSE` may change the last bits, or the sign of a zero: x+0, powers as
products, products of constants. They are used only where the pass ``loose`` is asked for.

A rule sees the call in the graph that is being built, and gives the value that it equals, or another call, or None.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from shoal.ops.graph.ir import Call, Graph, Operand, Ref
from shoal.ops.graph.passes import remove_dead
from shoal.ops.registry import OPS, Spec

__all__ = ["EXACT", "LOOSE", "simplify"]


class _Seen:
    """The calls so far, for rules to look back."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def spec(self, x: Operand) -> Spec | None:
        """Of a value; None for scalars."""
        return self.calls[x[0]].specs[x[1]] if isinstance(x, tuple) else None

    def of(self, x: Operand, *names: str) -> Call | None:
        """The call that made ``x``, if it is one of these operators."""
        call = self.calls[x[0]] if isinstance(x, tuple) else None
        return call if call is not None and call.op in names else None


Found: TypeAlias = "Ref | Call | None"
Rule: TypeAlias = Callable[[_Seen, Call], Found]


def simplify(graph: Graph, *, loose: bool = False) -> Graph:
    """The graph with simpler calls.

    Args:
        loose: also by rules that may change the last bits.
    """
    seen = _Seen()
    at: dict[Ref, Ref] = {}
    outputs = {p for p, _ in graph.outputs}
    rules = [*EXACT, *LOOSE] if loose else EXACT
    changed = False
    for position, call in enumerate(graph.calls):
        found, again = _simplest(seen, call.moved(at.__getitem__), rules, position in outputs)
        changed = changed or again
        if isinstance(found, Call):
            at.update({(position, n): (len(seen.calls), n) for n in range(len(found.specs))})
            seen.calls.append(found)
        else:
            at[position, 0] = found
    if not changed:
        return graph
    inputs = tuple(at[p, 0][0] for p in graph.inputs)
    return remove_dead(Graph(tuple(seen.calls), inputs, tuple(at[ref] for ref in graph.outputs)))


def _simplest(seen: _Seen, call: Call, rules: Sequence[Rule], is_output: bool) -> tuple[Call | Ref, bool]:
    """What is left when no rule fits any more, and whether one did."""
    changed = False
    while call.op and len(call.specs) == 1:
        found = next(
            (f for rule in rules if (f := rule(seen, call)) is not None and _allowed(seen, f, call, is_output)), None
        )
        if found is None:
            break
        changed = True
        if not isinstance(found, Call):
            return found, True
        call = found
    return call, changed


def _allowed(seen: _Seen, found: "Ref | Call", call: Call, is_output: bool) -> bool:
    """A value has the spec of the call; an output of the graph stays a call, so that it is no memory of an input."""
    if isinstance(found, Call):
        return found.specs == call.specs
    return not is_output and seen.spec(found) == call.specs[0]


def _other(call: Call, op: str, *inputs: Operand, **attrs: Any) -> Call:
    """A call of another operator with the result of ``call``."""
    return Call(op, inputs, attrs, call.specs, call.name, None, call.line)


def _is(x: Operand, value: float) -> bool:
    """Whether ``x`` is that number, with that sign."""
    number = isinstance(x, (int, float)) and not isinstance(x, bool)
    return number and x == value and math.copysign(1.0, x) == math.copysign(1.0, value)  # type: ignore[arg-type]


# -- rules that keep every bit


def _neutral(seen: _Seen, call: Call) -> Found:
    """x * 1, 1 * x, x / 1, x ** 1, x - 0, x + (-0)."""
    if len(call.inputs) != 2:
        return None
    x, y = call.inputs
    if call.op in ("multiply", "divide", "power") and _is(y, 1.0) and isinstance(x, tuple):
        return x
    if call.op == "multiply" and _is(x, 1.0) and isinstance(y, tuple):
        return y
    gone = -0.0 if call.op == "add" else 0.0
    return x if call.op in ("add", "subtract") and _is(y, gone) and isinstance(x, tuple) else None


def _signs(seen: _Seen, call: Call) -> Found:
    """-(-x), x + (-y), x - (-y), x * -1."""
    if call.op == "negative":
        inner = seen.of(call.inputs[0], "negative")
        return None if inner is None else inner.refs[0]
    if call.op == "multiply" and _is(call.inputs[1], -1.0) and isinstance(call.inputs[0], tuple):
        return _other(call, "negative", call.inputs[0])
    if call.op in ("add", "subtract"):
        inner = seen.of(call.inputs[1], "negative")
        if inner is not None and call.specs[0].dtype.kind == "f":
            return _other(call, "subtract" if call.op == "add" else "add", call.inputs[0], inner.inputs[0])
    return None


def _halves(seen: _Seen, call: Call) -> Found:
    """x / 2**k as a product, which is exact and takes a fraction of the time."""
    if call.op != "divide" or not isinstance(call.inputs[0], tuple) or call.specs[0].dtype.char not in "fd":
        return None
    y = call.inputs[1]
    if not isinstance(y, (int, float)) or isinstance(y, bool) or not math.isfinite(y) or y == 0:
        return None
    power, exponent = math.frexp(y)
    same = seen.spec(call.inputs[0])
    if abs(power) != 0.5 or not -100 < exponent < 100 or same is None or same.dtype != call.specs[0].dtype or y == 1:
        return None
    return _other(call, "multiply", call.inputs[0], 1.0 / y)


_MOVES = ("transpose", "swapaxes", "moveaxis")
_RESHAPES = ("reshape", "squeeze", "expand_dims")


def _permutation(seen: _Seen, call: Call) -> tuple[int, ...]:
    """Which axis of its input each axis of a move's result is."""
    spec = seen.spec(call.inputs[0])
    assert spec is not None
    numbers = np.empty(tuple(range(2, spec.ndim + 2)), np.int8)  # every axis has a length of its own
    moved = getattr(np, call.op)(numbers, *_arguments(call))
    return tuple(n - 2 for n in moved.shape)


def _arguments(call: Call) -> list[Any]:
    names = OPS[call.op].attrs
    return [call.attrs.get(n, OPS[call.op].defaults.get(n)) for n in names]


def _moves(seen: _Seen, call: Call) -> Found:
    """A chain of transposes is one, or none."""
    if call.op not in _MOVES:
        return None
    outer = _permutation(seen, call)
    inner = seen.of(call.inputs[0], *_MOVES)
    if inner is None:
        return call.refs[0] if outer == tuple(range(len(outer))) else None
    first = _permutation(seen, inner)
    both = tuple(first[a] for a in outer)
    if both == tuple(range(len(both))):
        return inner.refs[0]
    return _other(call, "transpose", inner.inputs[0], axes=both)


def _reshapes(seen: _Seen, call: Call) -> Found:
    """A chain of reshapings is one, or none."""
    if call.op not in _RESHAPES:
        return None
    if seen.spec(call.inputs[0]) == call.specs[0]:
        return call.refs[0]
    inner = seen.of(call.inputs[0], *_RESHAPES)
    if inner is None:
        return None
    return _other(call, "reshape", inner.inputs[0], shape=call.specs[0].shape)


def _spreads(seen: _Seen, call: Call) -> Found:
    """A chain of broadcasts is one, or none."""
    if call.op != "broadcast_to":
        return None
    if seen.spec(call.inputs[0]) == call.specs[0]:
        return call.refs[0]
    inner = seen.of(call.inputs[0], "broadcast_to")
    return None if inner is None else _other(call, "broadcast_to", inner.inputs[0], shape=call.specs[0].shape)


def _conversions(seen: _Seen, call: Call) -> Found:
    """A conversion of what was widened before is one from the narrow type, or none."""
    if call.op != "astype":
        return None
    inner = seen.of(call.inputs[0], "astype")
    if inner is None:
        return None
    narrow, wide, to = seen.spec(inner.inputs[0]), inner.specs[0].dtype, call.specs[0].dtype
    if narrow is None or not np.can_cast(narrow.dtype, wide, "safe") or narrow.dtype.kind == "c":
        return None
    return inner.refs[0] if narrow.dtype == to else _other(call, "astype", inner.inputs[0], dtype=to.name)


def _same_choice(seen: _Seen, call: Call) -> Found:
    """where(c, x, x)."""
    same = call.op == "where" and call.inputs[1] == call.inputs[2] and isinstance(call.inputs[1], tuple)
    return call.refs[-1] if same else None


def _sums_of_one(seen: _Seen, call: Call) -> Found:
    """A sum over axes of length 1."""
    if call.op not in ("sum", "sum_to", "max", "min"):
        return None
    spec = seen.spec(call.inputs[0])
    if spec is None or spec.dtype != call.specs[0].dtype or math.prod(spec.shape) != math.prod(call.specs[0].shape):
        return None
    if 0 in spec.shape:
        return None
    return call.refs[0] if spec == call.specs[0] else _other(call, "reshape", call.inputs[0], shape=call.specs[0].shape)


EXACT: list[Rule] = [_neutral, _signs, _halves, _moves, _reshapes, _spreads, _conversions, _same_choice, _sums_of_one]
"""Rules that change no bit."""


# -- rules that may change the last bits


def _plus_zero(seen: _Seen, call: Call) -> Found:
    """x + 0: it would turn -0 into 0."""
    if call.op != "add":
        return None
    x, y = call.inputs
    if _is(y, 0.0) and isinstance(x, tuple):
        return x
    return y if _is(x, 0.0) and isinstance(y, tuple) else None


def _powers(seen: _Seen, call: Call) -> Found:
    """Small constant powers as products, roots and reciprocals."""
    if call.op != "power" or not isinstance(call.inputs[0], tuple) or isinstance(call.inputs[1], (tuple, bool)):
        return None
    spec = seen.spec(call.inputs[0])
    if spec is None or spec != call.specs[0] or spec.dtype.kind != "f":
        return None
    operators = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    for value, name in operators.items():
        if _is(call.inputs[1], value):
            return _other(call, name, call.inputs[0])
    return None


def _constant_factors(seen: _Seen, call: Call) -> Found:
    """(x * a) * b as x * (a * b)."""
    if call.op != "multiply" or not isinstance(call.inputs[1], float):
        return None
    inner = seen.of(call.inputs[0], "multiply")
    if inner is None or not isinstance(inner.inputs[1], float) or inner.specs != call.specs:
        return None
    return _other(call, "multiply", inner.inputs[0], inner.inputs[1] * call.inputs[1])


LOOSE: list[Rule] = [_plus_zero, _powers, _constant_factors]
"""Rules that change last bits, or the sign of a zero."""
