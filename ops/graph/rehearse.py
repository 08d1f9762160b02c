"""How values will lie in memory, found without computing them: a rehearsal of a program before its first run.

Kernels are chosen, and memory is planned, for arrays with known strides; a kernel that sums in another order than the
operator's own forward should be there from the first run on, so that all runs have the same bits. So each operator is
applied to arrays that stand in for the real ones. The costly ones are not even applied: `STAND_INS` says how their
results lie.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.ops.graph.code import Layout
from shoal.ops.graph.ir import Call, Graph, Ref
from shoal.ops.registry import OPS, Spec

__all__ = ["STAND_INS", "rehearse"]

StandIn = Callable[[Call, Sequence[Any]], Any]


def _channels_last(call: Call, inputs: Sequence[Any]) -> Any:
    """Zeros of (batch, channels, *space) with the channels last in memory."""
    (spec,) = call.specs
    return np.moveaxis(np.zeros((spec.shape[0], *spec.shape[2:], spec.shape[1]), spec.dtype), -1, 1)


def _in_c_order(call: Call, inputs: Sequence[Any]) -> Any:
    return np.zeros(call.specs[0].shape, call.specs[0].dtype)


def _like_image(call: Call, inputs: Sequence[Any]) -> Any:
    """The first result lies as the first input of its shape; the others are vectors."""
    image = next(x for x in inputs if isinstance(x, np.ndarray) and x.shape == call.specs[0].shape)
    return (np.zeros_like(image), *(np.zeros(s.shape, s.dtype) for s in call.specs[1:]))


STAND_INS: dict[str, StandIn] = {
    "batch_norm": _like_image,
    "batch_norm_grad": _like_image,
    "batch_norm_relu": _like_image,
    "convolution": _channels_last,
    "convolution_data": _channels_last,
    "convolution_relu": _channels_last,
    "convolution_weight": _in_c_order,
    "fully_connected": _in_c_order,
    "matmul": _in_c_order,
}
"""What costly operators would return: zeros, in the memory order in which the result is wanted."""


def rehearse(graph: Graph, xp: Any, arrays: Sequence[Any]) -> Layout | None:
    """The layout of all values of a graph; None if an operator does not get along with stand-ins.

    Args:
        arrays: of the first inputs of the graph. The others are cotangents of some of its first outputs, in order; they
            are taken to lie in memory as those do.
    """
    layout, values = Layout(), dict[Ref, Any]()
    given = dict(zip(graph.inputs, arrays, strict=False))
    heads = _heads(graph, len(given))
    last = _last_uses(graph)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for position, call in enumerate(graph.calls):
            try:
                if position in heads and heads[position] in layout.strides:
                    given[position] = _lying(call.specs[0], layout.order(heads[position]))
                found = _carried_out(call, xp, values, given.get(position))
            except Exception:  # zeros may be what an operator refuses: then the first real run is looked at
                return None
            if [_spec(x) for x in found] != list(call.specs):
                return None
            layout.note(position, found, call.refs[0] if call.op and OPS[call.op].view else None)
            values.update({(position, n): x for n, x in enumerate(found)})
            for ref in last.get(position, ()):
                values.pop(ref, None)
    return layout


def _heads(graph: Graph, known: int) -> dict[int, Ref]:
    """The output that each late input is a cotangent of, as far as specs tell."""
    found: dict[int, Ref] = {}
    outputs = iter(graph.outputs)
    for position in graph.inputs[known:]:
        ref = next((ref for ref in outputs if graph.spec(ref) == graph.calls[position].specs[0]), None)
        if ref is not None:
            found[position] = ref
    return found


def _lying(spec: Spec, order: Sequence[int]) -> Any:
    """Zeros in a memory order."""
    there = np.zeros([spec.shape[axis] for axis in order], spec.dtype)
    return there.transpose([list(order).index(axis) for axis in range(len(order))])


def _spec(x: Any) -> Spec:
    return Spec(x.shape, x.dtype)


def _carried_out(call: Call, xp: Any, values: dict[Ref, Any], given: Any) -> list[Any]:
    if call.is_const:
        return [call.value]
    if not call.op:
        return [np.zeros(call.specs[0].shape, call.specs[0].dtype) if given is None else given]
    inputs = [values[x] if isinstance(x, tuple) else x for x in call.inputs]
    stand_in = STAND_INS.get(call.op)
    out = OPS[call.op].forward(xp, *inputs, **call.attrs) if stand_in is None else stand_in(call, inputs)
    return list(out) if isinstance(out, tuple) else [out]


def _last_uses(graph: Graph) -> dict[int, list[Ref]]:
    """The values that each call is the last one to need."""
    last = {(p, n): p for p, call in enumerate(graph.calls) for n in range(len(call.specs))}
    for position, call in enumerate(graph.calls):
        last.update(dict.fromkeys(call.refs, position))
    found: dict[int, list[Ref]] = {}
    for ref, position in last.items():
        found.setdefault(position, []).append(ref)
    return found
