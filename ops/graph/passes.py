"""Passes: pure functions from graph to graph. The values of the outputs never change, not by one bit.

`optimize` is their composition. Inputs are kept even where nothing uses them, so that the arguments of a run
stay what the caller knows.
"""

import math
from collections.abc import Callable
from typing import Any

from shoal.ops.graph.ir import Call, Graph, Operand, Ref, frozen, positions

__all__ = ["eliminate_common", "fold_constants", "optimize", "remove_dead", "remove_identities"]

Evaluate = Callable[[Call, list[Any]], tuple[Any, ...]]

IDENTITIES = frozenset(["astype", "broadcast_to", "reshape", "stop_gradient"])
"""Operators that give their input if shape and dtype stay the same."""

FOLD_LIMIT_BYTES = 1 << 20
"""A constant larger than this is computed at each run instead of being kept in the graph."""


def remove_dead(graph: Graph) -> Graph:
    """Without the calls that no output depends on."""
    live = positions(graph, graph.outputs) | set(graph.inputs)
    return _keep(graph, sorted(live))


def eliminate_common(graph: Graph) -> Graph:
    """One call for all calls of the same operator with the same inputs and attributes, one leaf for equal constants.

    Safe because every operator is a function of its inputs and attributes: random ones take their key as an input.
    """
    first: dict[Any, int] = {}
    same: dict[int, int] = {}
    for position, call in enumerate(graph.calls):
        if call.is_input:
            continue
        to = call.moved(lambda ref: (same.get(ref[0], ref[0]), ref[1]))
        key = (call.op, frozen(to.inputs), frozen(call.attrs), frozen(call.value))
        same[position] = first.setdefault(key, position)
    moved = {p: to for p, to in same.items() if p != to}
    return remove_dead(_redirect(graph, moved)) if moved else graph


def fold_constants(graph: Graph, evaluate: Evaluate) -> Graph:
    """With calls on constants replaced by their values.

    Args:
        evaluate: computes one call from its arrays, as the executor would.
    """
    values: dict[Operand, Any] = {(i, 0): c.value for i, c in enumerate(graph.calls) if c.is_const}
    calls: list[Call] = []
    at: dict[Ref, Ref] = {}
    for position, call in enumerate(graph.calls):
        if call.op and all(ref in values for ref in call.refs) and _small(call):
            results = evaluate(call, [values[x] if isinstance(x, tuple) else x for x in call.inputs])
            for n, result in enumerate(results):
                values[position, n] = result
                at[position, n] = (len(calls), 0)
                calls.append(Call("", specs=(call.specs[n],), value=result))
        else:
            at.update({(position, n): (len(calls), n) for n in range(len(call.specs))})
            calls.append(call.moved(at.__getitem__))
    inputs = tuple(at[p, 0][0] for p in graph.inputs)
    return remove_dead(Graph(tuple(calls), inputs, tuple(at[ref] for ref in graph.outputs)))


def remove_identities(graph: Graph) -> Graph:
    """Without conversions to the dtype, and reshapings to the shape, that a value has already.

    Where the result is an output of the graph they stay: the caller must not be handed the memory of an input.
    """
    outputs = {position for position, _ in graph.outputs}
    moved: dict[int, Ref] = {}
    for position, call in enumerate(graph.calls):
        if call.op in IDENTITIES and position not in outputs and graph.spec(call.refs[0]) == call.specs[0]:
            source = call.refs[0]
            moved[position] = moved.get(source[0], source)
    calls = tuple(call.moved(lambda ref: moved.get(ref[0], ref)) for call in graph.calls)
    return remove_dead(Graph(calls, graph.inputs, graph.outputs)) if moved else graph


def optimize(graph: Graph, evaluate: Evaluate) -> Graph:
    """`remove_dead`, `remove_identities`, `fold_constants` and `eliminate_common`."""
    return eliminate_common(fold_constants(remove_identities(remove_dead(graph)), evaluate))


def _small(call: Call) -> bool:
    return sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in call.specs) <= FOLD_LIMIT_BYTES


def _redirect(graph: Graph, moved: dict[int, int]) -> Graph:
    """With each value of a call in ``moved`` replaced by the same value of an earlier call."""

    def to(ref: Ref) -> Ref:
        return moved.get(ref[0], ref[0]), ref[1]

    return Graph(tuple(call.moved(to) for call in graph.calls), graph.inputs, tuple(map(to, graph.outputs)))


def _keep(graph: Graph, kept: list[int]) -> Graph:
    """The calls at the positions ``kept``, which must include all that they depend on."""
    new = {old: i for i, old in enumerate(kept)}

    def to(ref: Ref) -> Ref:
        return new[ref[0]], ref[1]

    calls = tuple(graph.calls[p].moved(to) for p in kept)
    return Graph(calls, tuple(new[p] for p in graph.inputs), tuple(map(to, graph.outputs)))
