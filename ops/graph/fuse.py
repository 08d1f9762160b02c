"""The pass that joins element-wise calls: `fuse`.

Each call gets a depth: the largest depth of its inputs, plus one for each input of another kind or shape. Calls of the
same shape and depth that are connected become one call of `fused`. Whatever leads out of such a group and back into it
would pass through a greater depth, so a group never waits for itself. A call that is alone then joins the group that
all its users are in.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Any

from shoal.ops.graph.ir import Call, Graph, Ref, positions
from shoal.ops.registry import OPS

__all__ = ["fits", "fuse", "grouped", "joined"]

CALL_US = 1.0
"""What a call of NumPy costs beyond its work, in microseconds: about."""

ELEMENTS_PER_US = 2000.0
"""How many elements an operator of NumPy takes in a microsecond: about."""

WORTH_US = 100.0
"""A graph from which fusion takes less than this in a run is left as it is: compiling would take longer."""

Able = Callable[[str, Sequence[Any], dict[str, Any]], bool]


def fuse(graph: Graph, able: Able, *, forward: int | None = None, worth_us: float = WORTH_US) -> Graph:
    """With connected element-wise calls of one shape as one call.

    Args:
        able: whether a kernel can be made of an operator on inputs of these specs.
        forward: how many of the outputs are those of the forward part; no group has calls of both parts.
        worth_us: how much time a run must gain, estimated, for anything to be done.
    """
    first = graph.outputs[: len(graph.outputs) if forward is None else forward]
    early = positions(graph, first)
    kinds = [
        (c.specs[0].shape, p in early) if c.op and fits(graph, c, able) else None for p, c in enumerate(graph.calls)
    ]
    groups = [g for g in grouped(graph, kinds) if _gain_us(graph, g) > 0]
    if sum(_gain_us(graph, g) for g in groups) < worth_us:
        return graph
    return joined(graph, groups, "fused")


def _gain_us(graph: Graph, group: Sequence[int]) -> float:
    """Microseconds that a run gains, estimated: one pass over memory instead of one per operator."""
    size = math.prod(graph.calls[group[0]].specs[0].shape)
    passes = sum(_passes(graph.calls[p]) for p in group) - 1
    return (len(group) - 2) * CALL_US + passes * size / ELEMENTS_PER_US


def _passes(call: Call) -> int:
    """As how many simple operators its forward counts: compositions and functions are many."""
    expr = OPS[call.op].expr
    return 1 if call.op == "broadcast_to" or (expr and "(" not in expr) else 6


def grouped(graph: Graph, kinds: Sequence[Any]) -> list[list[int]]:
    """Positions of the calls of each group, in order.

    Args:
        kinds: of each call; only calls of one kind make a group, and None never does.
    """
    depth, root = [0] * len(graph.calls), list(range(len(graph.calls)))

    def find(p: int) -> int:
        while root[p] != p:
            root[p] = root[root[p]]
            p = root[p]
        return p

    for p, call in enumerate(graph.calls):
        kind = kinds[p]
        before = [(q, depth[q] + (kind is None or kinds[q] != kind)) for q, _ in call.refs]
        depth[p] = max((d for _, d in before), default=0)
        for q, _ in call.refs:
            if kind is not None and kinds[q] == kind and depth[q] == depth[p]:
                root[find(q)] = find(p)
    _sink(graph, kinds, find, root)
    found: dict[int, list[int]] = {}
    for p, kind in enumerate(kinds):
        if kind is not None:
            found.setdefault(find(p), []).append(p)
    return list(found.values())


def _sink(graph: Graph, kinds: Sequence[Any], find: Callable[[int], int], root: list[int]) -> None:
    """Let a call that is alone join the group that all its users are in: where a gradient is 0, say, is known early.

    Such a call has a smaller depth than the group, so it cannot depend on it; and nothing else depends on the call.
    """
    size = [0] * len(root)
    users: dict[int, set[int]] = {}
    for p, call in enumerate(graph.calls):
        size[find(p)] += 1
        for q, _ in call.refs:
            users.setdefault(q, set()).add(p)
    outputs = {p for p, _ in graph.outputs}
    for p in reversed(range(len(root))):
        alike = kinds[p] is not None and all(kinds[u] == kinds[p] for u in users.get(p, ()))
        roots = {find(u) for u in users.get(p, ())}
        if alike and len(roots) == 1 and size[find(p)] == 1 and p not in outputs:
            root[p] = roots.pop()


def fits(graph: Graph, call: Call, able: Able) -> bool:
    """Whether a call can be part of a group."""
    spreads = call.op == "broadcast_to"
    if not (OPS[call.op].elementwise or spreads) or len(call.specs) != 1 or call.op == "fused":
        return False
    if 0 in call.specs[0].shape or not call.specs[0].shape:
        return False
    return able(call.op, [graph.spec(x) if isinstance(x, tuple) else x for x in call.inputs], call.attrs)


def joined(graph: Graph, groups: list[list[int]], op: str) -> Graph:
    """The graph with each group as one call of ``op``, in an order in which everything comes before its use."""
    unit = list(range(len(graph.calls)))  # the call that stands for each: the last of its group
    for group in groups:
        for p in group:
            unit[p] = group[-1]
    members = {g[-1]: g for g in groups}
    used = _used_outside(graph, unit)
    calls: list[Call] = []
    at: dict[Ref, Ref] = {}
    for u in _order(graph, unit):
        if u not in members:
            calls.append(graph.calls[u].moved(at.__getitem__))
            at.update({(u, n): (len(calls) - 1, n) for n in range(len(graph.calls[u].specs))})
            continue
        call, results = _one_call(graph, members[u], used, op)
        at.update({(p, 0): (len(calls), n) for n, p in enumerate(results)})
        calls.append(call.moved(at.__getitem__))
    inputs = tuple(at[p, 0][0] for p in graph.inputs)
    return Graph(tuple(calls), inputs, tuple(at[ref] for ref in graph.outputs))


def _used_outside(graph: Graph, unit: list[int]) -> set[int]:
    """Calls whose result is an output, or used by a call of another unit."""
    used = {p for p, _ in graph.outputs}
    for p, call in enumerate(graph.calls):
        used.update(q for q, _ in call.refs if unit[q] != unit[p])
    return used


def _one_call(graph: Graph, group: list[int], used: set[int], op: str) -> tuple[Call, list[int]]:
    """The call for a group, on the values that the group's calls were on, and the calls whose results it has."""
    number = {p: n for n, p in enumerate(group)}
    inputs: dict[Ref, int] = {}
    body = []
    for p in group:
        call = graph.calls[p]
        operands: list[Any] = []
        for x in call.inputs:
            if not isinstance(x, tuple):
                operands.append(x)
            elif x[0] in number:
                operands.append(f"t{number[x[0]]}")
            else:
                operands.append(f"i{inputs.setdefault(x, len(inputs))}")
        body.append((call.op, tuple(operands), tuple(call.attrs.items())))
    results = [p for p in group if p in used]
    attrs = {"body": tuple(body), "results": tuple(number[p] for p in results)}
    specs = tuple(graph.calls[p].specs[0] for p in results)
    return Call(op, tuple(inputs), attrs, specs, line=graph.calls[group[-1]].line), results


def _order(graph: Graph, unit: list[int]) -> list[int]:
    """The units, each after those that it depends on, otherwise in the order in which they were."""
    waits: dict[int, set[int]] = {}
    followers: dict[int, list[int]] = {}
    for p, call in enumerate(graph.calls):
        needs = waits.setdefault(unit[p], set())
        for q, _ in call.refs:
            if unit[q] != unit[p] and unit[q] not in needs:
                needs.add(unit[q])
                followers.setdefault(unit[q], []).append(unit[p])
    ready = [u for u, needs in waits.items() if not needs]
    heapq.heapify(ready)
    order = []
    while ready:
        u = heapq.heappop(ready)
        order.append(u)
        for v in followers.get(u, ()):
            waits[v].discard(u)
            if not waits[v]:
                heapq.heappush(ready, v)
    assert len(order) == len(waits), "a fused group waits for itself"
    return order
