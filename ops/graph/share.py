"""The pass that opens composite operators for what a gradient has computed anyway: `share`.

The gradient of GELU needs the same error function of the same values as GELU itself, that of SiLU the same sigmoid. A
graph that goes to a compiler computes both in loops, which costs little. Where NumPy carries out each call by itself,
an operator that has no kernel is replaced by the simpler ones of which its forward is composed, if a costly one of them
is in the graph already; `shoal.ops.graph.passes.eliminate_common` then makes one of the two. These simpler calls are
what the forward does, in its order, so that no bit changes.
"""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ShoalError
from shoal.ops.graph.ir import Call, Graph, Operand, Ref, frozen
from shoal.ops.graph.symbol import Symbol, flatten, variable
from shoal.ops.native.table import In, bound
from shoal.ops.registry import OPERATORS, OPS

__all__ = ["COSTLY", "share"]

COSTLY = frozenset(["arctan", "cos", "erf", "exp", "expm1", "log", "log1p", "sigmoid", "sin", "softplus", "tanh"])
"""Operators that take much longer than reading their input: computing one of them twice is worth avoiding."""


def share(graph: Graph) -> Graph:
    """With the composite operators opened that compute something costly that another call computes too."""
    there = {_key(c.op, c.inputs, c.attrs): (p, 0) for p, c in graph.operators() if len(c.specs) == 1}
    if not any(op in COSTLY for op, *_ in there):
        return graph
    opened = {}
    for position, call in graph.operators():
        inner = _opened(graph, call)
        if inner is not None and _meets(inner, call, there):
            opened[position] = inner
    return _with(graph, opened) if opened else graph


def _key(op: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> tuple[Any, ...]:
    return op, frozen(tuple(inputs)), frozen(attrs)


def _opened(graph: Graph, call: Call) -> Graph | None:
    """What the call is composed of, on inputs that are its values in order; None if its forward does not say."""
    op = OPS[call.op]
    floats = all(s.dtype.char in "fd" for s in (*call.specs, *(graph.spec(ref) for ref in call.refs)))
    if not op.elementwise or op.ufunc or len(call.specs) != 1 or call.op == "fused" or not floats:
        return None
    if bound(call.op, [In(*graph.spec(x)) if isinstance(x, tuple) else x for x in call.inputs], call.attrs) is not None:
        return None  # its kernel has bits of its own
    variables = [variable(f"in{i}", graph.spec(ref)) for i, ref in enumerate(call.refs)]
    fresh = iter(variables)
    try:
        out = op.plain(OPERATORS, *(next(fresh) if isinstance(x, tuple) else x for x in call.inputs), **call.attrs)
    except (ShoalError, AttributeError, TypeError, ValueError):  # it needs arrays
        return None
    if type(out) is not Symbol or out.spec != call.specs[0]:
        return None
    inner, _ = flatten([out], variables)
    return inner if len(inner.inputs) == len(variables) else None


def _meets(inner: Graph, call: Call, there: dict[Any, Ref]) -> bool:
    """Whether a costly call of the inner graph is in the outer one."""
    at: dict[Ref, Operand] = {(p, 0): ref for p, ref in zip(inner.inputs, call.refs, strict=True)}
    for position, part in inner.operators():
        inputs = [at.get(x, "own") if isinstance(x, tuple) else x for x in part.inputs]
        known = there.get(_key(part.op, inputs, part.attrs))
        if known is not None:
            if part.op in COSTLY:
                return True
            at[position, 0] = known
    return False


def _with(graph: Graph, opened: dict[int, Graph]) -> Graph:
    """The graph with the calls at some positions replaced by graphs of one output."""
    calls: list[Call] = []
    at: dict[Ref, Ref] = {}
    for position, call in enumerate(graph.calls):
        inner = opened.get(position)
        if inner is None:
            at.update({(position, n): (len(calls), n) for n in range(len(call.specs))})
            calls.append(call.moved(at.__getitem__))
            continue
        within = {(p, 0): at[ref] for p, ref in zip(inner.inputs, call.refs, strict=True)}
        for p, part in enumerate(inner.calls):
            if p not in inner.inputs:
                within.update({(p, n): (len(calls), n) for n in range(len(part.specs))})
                calls.append(_said(part.moved(within.__getitem__), call))
        at[position, 0] = within[inner.outputs[0]]
    inputs = tuple(at[p, 0][0] for p in graph.inputs)
    return Graph(tuple(calls), inputs, tuple(at[ref] for ref in graph.outputs))


def _said(part: Call, of: Call) -> Call:
    """The part of a call, at the line of the whole."""
    return Call(part.op, part.inputs, part.attrs, part.specs, part.name, part.value, of.line)
