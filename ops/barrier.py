"""What keeps a graph from using a value that is there already."""

from typing import Any

from shoal.ops import specs
from shoal.ops.registry import Array, op


@op(specs.same, view=True)
def barrier(xp: Any, x: Array, region: int = 0) -> Any:
    """x itself. A graph does not join what is computed from it with what is computed from x.

    So a part of a graph can be computed again in the backward pass, instead of being kept: `shoal.ops.graph.gradient`.

    Args:
        region: barriers of different regions are different values.
    """
    return x


@barrier.vjp
def _barrier_vjp(xp: Any, g: Any, out: Any, x: Any, region: int = 0) -> Any:
    return (g,)
