"""The gradient of a graph, as a graph: the same rules that the tape applies to arrays, applied to symbols."""

from collections.abc import Sequence
from typing import Any

from shoal.ops import casting
from shoal.ops.barrier import barrier
from shoal.ops.graph.symbol import Node, Symbol, called_at, nodes_of
from shoal.ops.registry import OPERATORS

__all__ = ["depending", "gradients"]


def depending(outputs: Sequence[Symbol], wrt: Sequence[Symbol]) -> list[bool]:
    """For each output, whether it depends on ``wrt`` through operators that have a gradient, be it zero."""
    needed = _needed(nodes_of(outputs), wrt)
    return [s.node.serial in needed for s in outputs]


def gradients(outputs: Sequence[Symbol], heads: Sequence[Symbol | None], wrt: Sequence[Symbol]) -> list[Symbol | None]:
    """Cotangents of ``wrt``, given those of ``outputs``.

    Contributions are added in the order in which the tape adds them, so that the numbers are the same.

    Args:
        heads: one cotangent per output, of its shape and dtype; None if nothing depends on it.
    Returns:
        One per element of ``wrt``; None where no differentiable path leads to it.
    """
    nodes = nodes_of(outputs)
    needed = _needed(nodes, wrt)
    found: dict[tuple[int, int], Symbol] = {}
    again = _Again(nodes)
    for out, head in zip(outputs, heads, strict=True):
        if head is not None:
            _add(found, out, head)
    for node in reversed(nodes):
        if node.op is None or node.serial not in needed:
            continue
        cotangents = [found.get((node.serial, n)) for n in range(len(node.specs))]
        if any(c is not None for c in cotangents):
            _spread(node, cotangents, needed, found, again)
    return [found.get((s.node.serial, s.index)) for s in wrt]


def _needed(nodes: Sequence[Node], wrt: Sequence[Symbol]) -> set[int]:
    """Serials of the nodes that depend on an element of ``wrt``; operators without a gradient end the dependence."""
    needed = {s.node.serial for s in wrt}
    for node in nodes:
        differentiable = node.op is not None and node.op.rule is not None
        if differentiable and any(isinstance(x, Symbol) and x.node.serial in needed for x in node.inputs):
            needed.add(node.serial)
    return needed


class _Again:
    """Regions that are computed again: copies of their nodes, made when the gradient first comes to a region.

    What enters a region goes through a `barrier`, so that no pass joins the copies with what they are copies of.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes, self._copies = nodes, dict[int, Node]()
        self._entered: dict[tuple[int, int, int], Symbol] = {}
        self._done: set[int] = set()

    def of(self, node: Node) -> Node:
        """The node whose values the gradient rule of ``node`` is to use: itself, or its copy."""
        if node.region is None:
            return node
        if node.region not in self._done:
            self._done.add(node.region)
            for inside in self._nodes:
                if inside.region == node.region:
                    self._copies[inside.serial] = self._copy(inside)
        return self._copies[node.serial]

    def _copy(self, node: Node) -> Node:
        with called_at(node.line):
            made = Node(node.op, tuple(self._inside(x, node) for x in node.inputs), node.attrs, node.specs)
        made.many, made.region = node.many, None
        return made

    def _inside(self, x: Any, node: Node) -> Any:
        """An input of ``node`` as its copy has it."""
        if not isinstance(x, Symbol) or x.node.value is not None:
            return x
        if x.node.region == node.region:
            return Symbol(self._copies[x.node.serial], x.index)
        assert node.region is not None
        place = (node.region, x.node.serial, x.index)
        if place not in self._entered:
            self._entered[place] = barrier(x, region=node.region)
        return self._entered[place]


def _spread(
    node: Node,
    cotangents: list[Symbol | None],
    needed: set[int],
    found: dict[tuple[int, int], Symbol],
    again: _Again,
) -> None:
    """Add what the inputs of ``node`` get from its outputs."""
    op = node.op
    assert op is not None
    g: Any = tuple(cotangents) if node.many else cotangents[0]
    used = again.of(node)
    out: Any = tuple(Symbol(used, n) for n in range(len(used.specs))) if used.many else Symbol(used)
    flags = [isinstance(x, Symbol) and x.node.serial in needed for x in node.inputs]
    with called_at(node.line), casting.off():
        cotangents = op.cotangents(OPERATORS, g, out, used.inputs, node.attrs, flags)
    for x, c in zip(node.inputs, cotangents, strict=True):
        if c is not None:
            _add(found, x, c)


def _add(found: dict[tuple[int, int], Symbol], to: Symbol, g: Any) -> None:
    place = (to.node.serial, to.index)
    if place in found:
        with casting.off():
            g = found[place] + g
    found[place] = g
