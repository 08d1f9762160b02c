"""Conversions to half precision in graphs that exist already.

What is traced under `shoal.amp` has its conversions from `shoal.ops.casting`. `place_casts` puts the same ones into a
graph that was traced without: one that was saved, imported, or is to be converted once and for all
(`shoal.amp.convert_hybrid_block`, `convert_symbol`).
"""

from typing import Any

import numpy as np

from shoal.ops.casting import Policy
from shoal.ops.graph.algebra import simplify
from shoal.ops.graph.ir import Call, Graph, Operand, Ref
from shoal.ops.graph.passes import eliminate_common, remove_identities
from shoal.ops.registry import Spec, operator

__all__ = ["place_casts"]


def place_casts(graph: Graph, policy: Policy) -> Graph:
    """The graph with the conversions that the policy's operators want, each made once; dtypes follow.

    Chains of conversions are folded: a half that was made wide, and becomes half again, stays what it was.

    Outputs have the dtypes that the conversions give them: those of imperative execution under the same policy.

    Raises:
        ShapeError, DTypeError: an operator does not take what its inputs have become.
    """
    calls: list[Call] = []
    moved: dict[Ref, Ref] = {}

    def spec(x: Operand) -> Any:
        return calls[x[0]].specs[x[1]] if isinstance(x, tuple) else x

    for position, call in enumerate(graph.calls):
        new = call.moved(moved.__getitem__)
        if call.op:
            dtypes = [x.dtype if isinstance(x, Spec) else None for x in map(spec, new.inputs)]
            inputs = list(new.inputs)
            for i, to in enumerate(policy.targets(call.op, dtypes, call.attrs) or ()):
                if to is not None:
                    inputs[i] = _convert(calls, inputs[i], to, call)
            found = operator(call.op).infer(*map(spec, inputs), **call.attrs)
            specs = (found,) if isinstance(found, Spec) else tuple(found)
            new = Call(call.op, tuple(inputs), call.attrs, specs, call.name, call.value, call.line)
        moved.update({(position, n): (len(calls), n) for n in range(len(new.specs))})
        calls.append(new)
    placed = Graph(tuple(calls), tuple(moved[p, 0][0] for p in graph.inputs), tuple(moved[r] for r in graph.outputs))
    return eliminate_common(simplify(remove_identities(placed)))


def _convert(calls: list[Call], x: Any, to: np.dtype[Any], user: Call) -> Ref:
    """Append a conversion of the value ``x``; where it is."""
    shape = calls[x[0]].specs[x[1]].shape
    calls.append(Call("astype", (x,), {"dtype": to.name}, (Spec(shape, to),), line=user.line))
    return len(calls) - 1, 0
