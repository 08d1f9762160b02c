"""Blocks that call other blocks one after the other, or side by side."""

from collections.abc import Iterator
from typing import Any

from shoal.errors import ConfigError
from shoal.ops import shape
from shoal.ops.nn.block import Block
from shoal.ops.nn.hybrid import HybridBlock

__all__ = ["Concatenate", "HybridConcatenate", "HybridSequential", "Sequential"]


class _List(Block):
    """What containers share: children by number."""

    def __init__(self, *blocks: Block) -> None:
        super().__init__()
        self.add(*blocks)

    def add(self, *blocks: Block) -> None:
        """Append blocks. Their names are their numbers."""
        for block in blocks:
            self.register_child(block)

    def __len__(self) -> int:
        return len(self._children)

    def __iter__(self) -> Iterator[Block]:
        return iter(tuple(self._children.values()))

    def __getitem__(self, key: int | slice) -> Any:
        """The block number ``key``; for a slice, a container of the same kind with the same blocks."""
        blocks = list(self._children.values())
        if isinstance(key, slice):
            return type(self)(*blocks[key])
        if not -len(blocks) <= key < len(blocks):
            raise IndexError(f"{self._label()} has {len(blocks)} blocks; there is no block {key}")
        return blocks[key]


class Sequential(_List):
    """Each block is applied to what the one before it returns.

    >>> from shoal import nn
    >>> nn.Sequential(nn.Dense(4), nn.Dense(2))
    Sequential(
      (0): Dense(? -> 4, linear)
      (1): Dense(? -> 2, linear)
    )
    """

    def forward(self, x: Any, *args: Any) -> Any:
        """Apply the blocks in order; a tuple is passed on as several arguments."""
        for block in self._children.values():
            x = block(x, *args)
            args = ()
            if isinstance(x, (tuple, list)):
                x, args = x[0], tuple(x[1:])
        return (x, *args) if args else x


class HybridSequential(Sequential, HybridBlock):
    """A `Sequential` of hybrid blocks, so that the whole is one graph."""

    def register_child(self, block: Block, name: str | None = None) -> None:
        """Make ``block`` a part of this one.

        Raises:
            ConfigError: it is not a `HybridBlock`.
        """
        _require_hybrid(self, block)
        super().register_child(block, name)


class Concatenate(_List):
    """Every block is applied to the same input; what they return is joined along ``axis``."""

    def __init__(self, *blocks: Block, axis: int = -1) -> None:
        super().__init__(*blocks)
        self.axis = axis

    def __getitem__(self, key: int | slice) -> Any:
        found = super().__getitem__(key)
        if isinstance(found, Concatenate) and isinstance(key, slice):
            found.axis = self.axis
        return found

    def forward(self, x: Any) -> Any:
        """Join the blocks' outputs."""
        return shape.concatenate([block(x) for block in self._children.values()], axis=self.axis)


class HybridConcatenate(Concatenate, HybridBlock):
    """A `Concatenate` of hybrid blocks."""

    def register_child(self, block: Block, name: str | None = None) -> None:
        """Make ``block`` a part of this one.

        Raises:
            ConfigError: it is not a `HybridBlock`.
        """
        _require_hybrid(self, block)
        super().register_child(block, name)


def _require_hybrid(parent: Block, child: Block) -> None:
    if not isinstance(child, HybridBlock):
        raise ConfigError(
            f"{type(parent).__name__} takes HybridBlocks only, got {type(child).__name__}: "
            f"use {type(parent).__name__.removeprefix('Hybrid')}, or derive the block from HybridBlock"
        )
