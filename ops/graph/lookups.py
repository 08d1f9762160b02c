"""Gradients of tables that are only looked up: the rows that occur, without a whole array in the graph.

The gradient graph of an embedding whose parameter has ``grad_stype="row_sparse"`` ends at what was looked up; the rows
and their numbers are outputs of it, and are put together here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from shoal.ops.graph.symbol import Node, Symbol, nodes_of
from shoal.ops.registry import operator
from shoal.ops.rows import RowSparse

__all__ = ["Pairs", "gathered", "lookups", "streamed"]

Pairs: TypeAlias = list[tuple[int, int]]
"""Which of a graph's gradients are rows of one table, and which the numbers of these rows."""


def lookups(results: Sequence[Symbol], table: Symbol) -> list[Node]:
    """The calls that look ``table`` up, if its gradient is to be row-sparse and nothing else uses it; else none."""
    if getattr(table.node.source, "grad_stype", "default") != "row_sparse":
        return []
    uses = [n for n in nodes_of(results) if any(_is(x, table) for x in n.inputs)]
    found = [n for n in uses if n.op is not None and n.op.name == "sparse_take" and not _is(n.inputs[1], table)]
    shown = any(_is(s, table) for s in results)
    return found if len(found) == len(uses) and not shown else []


def _is(x: Any, table: Symbol) -> bool:
    return isinstance(x, Symbol) and x.node is table.node


def gathered(pairs: Pairs, grads: Sequence[Any] | dict[int, Any], shape: tuple[int, ...]) -> Any:
    """The gradient of a table: row-sparse of arrays in host memory, a whole array (or Tensor, or Symbol) else."""
    parts = [(grads[rows], grads[ids]) for rows, ids in pairs]
    if all(type(rows) is np.ndarray and rows.dtype.kind != "c" for rows, _ in parts):
        found = [_rows(rows, ids, shape) for rows, ids in parts]
        return sum(found[1:], start=found[0])
    whole = [operator("take_add")(rows, ids, axis=0, shape=shape) for rows, ids in parts]
    return sum(whole[1:], start=whole[0])


def _rows(rows: Any, ids: Any, shape: tuple[int, ...]) -> RowSparse:
    places = np.asarray(ids).reshape(-1)
    return RowSparse(np.where(places < 0, places + shape[0], places), rows.reshape(places.size, *shape[1:]), shape)


def streamed(
    tables: dict[int, Pairs], shapes: Sequence[Any], needed: Sequence[bool], arrived: Callable[[int, Any], None]
) -> Callable[[int, Any], None]:
    """What to call with each gradient of a graph as it comes; ``arrived`` gets a table's when all parts are there.

    Args:
        tables: by the number of the input.
        shapes: of the inputs.
    """
    owners: dict[int, list[int]] = {}
    for i, slot in _slots(tables):
        if needed[i]:
            owners.setdefault(slot, []).append(i)
    missing = {i: {slot for j, slot in _slots(tables) if j == i} for i in tables}
    have: dict[int, Any] = {}

    def part(slot: int, c: Any) -> None:
        for i in owners.get(slot, ()):
            have[slot] = c
            missing[i].discard(slot)
            if not missing[i]:
                arrived(i, gathered(tables[i], have, shapes[i]))

    return part


def _slots(tables: dict[int, Pairs]) -> Iterator[tuple[int, int]]:
    return ((i, slot) for i, pairs in tables.items() for pair in pairs for slot in pair)
