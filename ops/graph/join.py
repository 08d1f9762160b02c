"""The pass that lets convolutions and batch normalizations take over what comes behind them: `join`.

``relu(convolution(x))`` becomes `shoal.ops.joined.convolution_relu`, and ``relu(batch_norm(x) [+ shortcut])`` becomes
`batch_norm_relu`, where nobody else uses the values in between: a kernel then writes the result once instead of writing
and reading two or three arrays of that size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.ops import joined
from shoal.ops.graph.ir import Call, Graph, Ref

__all__ = ["join"]

assert joined  # imported for the operators that it registers


@dataclass
class _Found:
    """Calls that are replaced: ``calls`` by the position of the last one of each, and where old values are found."""

    calls: dict[int, Call] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    moved: dict[Ref, Ref] = field(default_factory=dict)


def join(graph: Graph) -> Graph:
    """With a convolution, or a batch normalization, and what only it feeds as one call."""
    users: dict[Ref, list[int]] = {ref: [len(graph.calls)] for ref in graph.outputs}
    for position, call in enumerate(graph.calls):
        for ref in call.refs:
            users.setdefault(ref, []).append(position)
    found = _Found()
    for position, call in enumerate(graph.calls):
        if call.op == "relu" and isinstance(call.inputs[0], tuple):
            _take(graph, users, position, found)
    return _rebuilt(graph, found) if found.calls else graph


def _take(graph: Graph, users: dict[Ref, list[int]], relu: int, found: _Found) -> None:
    """Join the call at ``relu`` with what it is applied to, if that can be."""
    before = graph.calls[relu].refs[0]
    if users[before] != [relu] or before[0] in found.gone:
        return
    source = graph.calls[before[0]]
    if source.op == "convolution":
        found.calls[relu] = _call("convolution_relu", source, source.inputs, graph.calls[relu])
        found.gone.add(before[0])
    elif source.op == "batch_norm" and before[1] == 0:
        _take_norm(graph, before[0], None, relu, found)
    elif source.op == "add" and all(isinstance(x, tuple) and graph.spec(x) == source.specs[0] for x in source.inputs):
        for (position, number), other in (source.refs, source.refs[::-1]):
            norm = graph.calls[position]
            alone = number == 0 and users[position, number] == [before[0]] and position not in found.gone
            if norm.op == "batch_norm" and alone and other != (position, number):
                found.gone.add(before[0])
                _take_norm(graph, position, other, relu, found)
                return


def _take_norm(graph: Graph, norm: int, residual: Ref | None, relu: int, found: _Found) -> None:
    source = graph.calls[norm]
    found.calls[relu] = _call("batch_norm_relu", source, (*source.inputs, residual), graph.calls[relu])
    found.gone.add(norm)
    found.moved.update({(norm, n): (relu, n) for n in (1, 2)})


def _call(op: str, source: Call, inputs: Sequence[Any], last: Call) -> Call:
    specs = (last.specs[0], *source.specs[1:])
    return Call(op, tuple(inputs), source.attrs, specs, line=source.line or last.line)


def _rebuilt(graph: Graph, found: _Found) -> Graph:
    """The graph with the calls replaced, each call after what it needs, otherwise in the order in which they were."""
    calls = [
        found.calls.get(p, call).moved(lambda ref: found.moved.get(ref, ref)) for p, call in enumerate(graph.calls)
    ]
    new: dict[int, int] = {}
    order: list[int] = []
    for position in range(len(calls)):
        stack = [] if position in found.gone else [position]
        while stack:
            waiting = [p for p, _ in calls[stack[-1]].refs if p not in new]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            done = stack.pop()
            if done not in new:
                new[done] = len(order)
                order.append(done)

    def to(ref: Ref) -> Ref:
        ref = found.moved.get(ref, ref)
        return new[ref[0]], ref[1]

    placed = tuple(calls[p].moved(lambda ref: (new[ref[0]], ref[1])) for p in order)
    return Graph(placed, tuple(new[p] for p in graph.inputs), tuple(map(to, graph.outputs)))
