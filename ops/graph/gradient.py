"""The gradient of a graph, as a graph: the same rules that the tape applies to arrays, applied to symbols."""

from collections.abc import Sequence
from typing import Any

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
    for out, head in zip(outputs, heads, strict=True):
        if head is not None:
            _add(found, out, head)
    for node in reversed(nodes):
        if node.op is None or node.serial not in needed:
            continue
        cotangents = [found.get((node.serial, n)) for n in range(len(node.specs))]
        if any(c is not None for c in cotangents):
            _spread(node, cotangents, needed, found)
    return [found.get((s.node.serial, s.index)) for s in wrt]


def _needed(nodes: Sequence[Node], wrt: Sequence[Symbol]) -> set[int]:
    """Serials of the nodes that depend on an element of ``wrt``; operators without a gradient end the dependence."""
    needed = {s.node.serial for s in wrt}
    for node in nodes:
        differentiable = node.op is not None and node.op.rule is not None
        if differentiable and any(isinstance(x, Symbol) and x.node.serial in needed for x in node.inputs):
            needed.add(node.serial)
    return needed


def _spread(
    node: Node, cotangents: list[Symbol | None], needed: set[int], found: dict[tuple[int, int], Symbol]
) -> None:
    """Add what the inputs of ``node`` get from its outputs."""
    op = node.op
    assert op is not None
    g: Any = tuple(cotangents) if node.many else cotangents[0]
    out: Any = tuple(Symbol(node, n) for n in range(len(node.specs))) if node.many else Symbol(node)
    flags = [isinstance(x, Symbol) and x.node.serial in needed for x in node.inputs]
    with called_at(node.line):
        cotangents = op.cotangents(OPERATORS, g, out, node.inputs, node.attrs, flags)
    for x, c in zip(node.inputs, cotangents, strict=True):
        if c is not None:
            _add(found, x, c)


def _add(found: dict[tuple[int, int], Symbol], to: Symbol, g: Any) -> None:
    place = (to.node.serial, to.index)
    found[place] = found[place] + g if place in found else g
