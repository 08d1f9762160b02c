"""The table that `Block.summary` returns."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.errors import ConfigError
from shoal.ops.graph import trace

if TYPE_CHECKING:
    from shoal.ops.nn.block import Block

__all__ = ["summarize"]

Row = tuple[str, str, str]


def summarize(block: "Block", inputs: tuple[Any, ...]) -> str:
    """Run ``block`` on ``inputs`` once, and describe each block that was called: output shape, own parameters.

    Raises:
        ConfigError: there is nothing to run the model on.
    """
    if not inputs:
        raise ConfigError("summary needs the inputs of one forward pass: summary(*inputs)")
    rows: list[Row] = [("Input", _shapes(inputs), "")]
    counted: set[int] = set()

    def note(path: str) -> Callable[["Block", Any, Any], None]:
        return lambda part, args, out: rows.append(_row(path, part, out, counted))

    handles = [part.register_forward_hook(note(path)) for path, part in block.blocks()]
    try:
        with trace.imperatively(), trace.mode(recording=False, training=False):
            block(*inputs)
    finally:
        for handle in handles:
            handle.detach()
    return _table(rows, block)


def _row(path: str, block: "Block", out: Any, counted: set[int]) -> Row:
    own = [p for p in block.params.values() if id(p) not in counted]
    counted.update(map(id, own))
    label = f"{path or '(model)'}: {type(block).__name__}"
    return label, _shapes(out), f"{sum(math.prod(p.shape or ()) for p in own):,}"


def _shapes(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_shapes, value))
    return str(getattr(value, "shape", type(value).__name__))


def _table(rows: list[Row], block: "Block") -> str:
    params = list(block.collect_params().values())
    total = sum(math.prod(p.shape or ()) for p in params)
    learned = sum(math.prod(p.shape or ()) for p in params if p.grad_req != "null")
    head: Row = ("Layer", "Output shape", "Parameters")
    width = [max(len(row[i]) for row in (head, *rows)) for i in range(3)]
    lines = [f"{a:<{width[0]}}  {b:<{width[1]}}  {c:>{width[2]}}".rstrip() for a, b, c in (head, *rows)]
    rule = "-" * (sum(width) + 4)
    tail = f"{total:,} parameters: {learned:,} learned, {total - learned:,} fixed"
    return "\n".join([lines[0], rule, *lines[1:], rule, tail])
