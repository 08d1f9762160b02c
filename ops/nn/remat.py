"""A block whose inside is computed again in the backward pass."""

from typing import Any

from shoal.ops.func.remat import checkpoint
from shoal.ops.nn.block import Block
from shoal.ops.nn.hybrid import HybridBlock

__all__ = ["Checkpoint"]


class Checkpoint(HybridBlock):
    """A block, of which nothing is kept for the backward pass but its inputs and outputs; see `autograd.checkpoint`.

    >>> from shoal import nn
    >>> nn.Checkpoint(nn.Dense(4, in_units=2))
    Checkpoint(
      (body): Dense(2 -> 4, linear)
    )
    """

    def __init__(self, body: Block) -> None:
        super().__init__()
        self.body = body

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block returns."""
        return checkpoint(self.body, *args, **kwargs)
