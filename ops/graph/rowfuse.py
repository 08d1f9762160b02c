"""The pass that joins reductions over the last axis with the element-wise calls around them: `fuse_rows`.

Standardizing a row is two sums and what is done to the elements before, between and after them. As one call, a row is
read once and stays in the nearest memory. Groups are found as in `shoal.ops.graph.fuse`: by depth, over calls on rows
of the same number and length.
"""

import math
from typing import TypeAlias

from shoal.ops.graph.fuse import CALL_US, ELEMENTS_PER_US, WORTH_US, Able, fits, grouped, joined
from shoal.ops.graph.ir import Call, Graph, positions
from shoal.ops.registry import Shape

__all__ = ["LONGEST", "REDUCTIONS", "fuse_rows"]

REDUCTIONS = frozenset(["sum", "mean", "max", "min", "sum_to"])
"""Operators that a kernel of rows can end a loop with."""

LONGEST = 8192
"""Elements of a row beyond which it is no longer in the nearest memory."""

Rows: TypeAlias = tuple[Shape, int, bool]
"""What the calls of a group have in common: the shape without the last axis, its length, and the part."""


def fuse_rows(graph: Graph, able: Able, *, forward: int | None = None, worth_us: float = WORTH_US) -> Graph:
    """With reductions over the last axis and the element-wise calls around them as one call each.

    Args:
        able, forward, worth_us: as of `shoal.ops.graph.fuse.fuse`.
    """
    early = positions(graph, graph.outputs[: len(graph.outputs) if forward is None else forward])
    kinds: list[Rows | None] = []
    for p, call in enumerate(graph.calls):
        kinds.append(_kind(graph, call, p in early, kinds, able))
    groups = [g for g in grouped(graph, kinds) if _gain_us(graph, g) > 0]
    if not groups or sum(_gain_us(graph, g) for g in groups) < worth_us:
        return graph
    return joined(graph, groups, "fused_rows")


def reduces(graph: Graph, call: Call) -> tuple[Shape, int] | None:
    """The rows that a call reduces to one number each: (their shape without the last axis, their length)."""
    if call.op not in REDUCTIONS or len(call.specs) != 1 or not call.refs:
        return None
    x, out = graph.spec(call.refs[0]), call.specs[0]
    if x.ndim < 2 or x.dtype != out.dtype or x.dtype.char not in "fd" or not 1 < x.shape[-1] <= LONGEST:
        return None
    axis = call.attrs.get("axis", None if call.op != "sum_to" else -1)
    if call.op != "sum_to" and axis not in (-1, x.ndim - 1, (-1,), (x.ndim - 1,)):
        return None
    lead = x.shape[:-1]
    return (lead, x.shape[-1]) if out.shape in (lead, (*lead, 1)) and 0 not in lead else None


def _kind(graph: Graph, call: Call, early: bool, kinds: list[Rows | None], able: Able) -> Rows | None:
    """The rows that a call is about; None if it cannot be part of a group."""
    if not call.op:
        return None
    rows = reduces(graph, call)
    if rows is not None:
        return (*rows, early)
    shape = call.specs[0].shape
    inherited = next(
        (k for q, _ in call.refs if (k := kinds[q]) is not None and _is_row(shape, k) and k[2] == early), None
    )
    if call.op in ("reshape", "expand_dims", "squeeze"):
        source = graph.spec(call.refs[0]).shape
        return inherited if inherited is not None and _is_row(source, inherited) else None
    if not fits(graph, call, able):
        return None
    if inherited is not None:
        return inherited
    return (shape[:-1], shape[-1], early) if len(shape) > 1 and 1 < shape[-1] <= LONGEST else None


def _is_row(shape: Shape, rows: Rows) -> bool:
    """Whether that is the shape of one number for each row."""
    return shape in (rows[0], (*rows[0], 1))


def _gain_us(graph: Graph, group: list[int]) -> float:
    """As `shoal.ops.graph.fuse` estimates; nothing is gained without a reduction and something before or after it."""
    reductions = [p for p in group if graph.calls[p].op in REDUCTIONS]
    if not reductions:
        return 0.0
    size = math.prod(graph.spec(graph.calls[reductions[0]].refs[0]).shape)
    full = sum(math.prod(graph.calls[p].specs[0].shape) == size for p in group)
    return (len(group) - 2) * CALL_US + (full + len(reductions) - 2) * size / ELEMENTS_PER_US if full else 0.0
