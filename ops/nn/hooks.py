"""Hooks on the backward pass of a block: they see the gradients of its inputs and of its outputs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import GraphError, ShapeError
from shoal.ops import lines, tape
from shoal.ops.graph.tree import leaves, mapped
from shoal.ops.registry import OPERATORS, Traced
from shoal.ops.tensor import Tensor

if TYPE_CHECKING:
    from shoal.ops.nn.block import Block

__all__ = ["BackwardHook", "BackwardPreHook", "run_with_hooks"]

BackwardHook = Callable[["Block", tuple[Any, ...], tuple[Any, ...]], Any]
"""``hook(block, gradients of inputs, gradients of outputs)``; None for what has no gradient."""

BackwardPreHook = Callable[["Block", tuple[Any, ...]], Any]
"""``hook(block, gradients of outputs)``."""


class _Edge:
    """Where gradients enter or leave a block: what the tape sees as an operator that changes nothing."""

    def __init__(self, name: str, fn: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> None:
        self.name, self.fn = name, fn

    def cotangents(
        self, xp: Any, g: Any, out: Any, inputs: Sequence[Any], attrs: dict[str, Any], needed: Sequence[bool]
    ) -> list[Any]:
        """The gradients, as the hooks leave them."""
        if xp is OPERATORS:
            return list(self.fn(g))
        found = self.fn(tuple(None if c is None else Tensor(c) for c in g))
        return [None if c is None else c.data for c in found]

    def passed(self, tensors: Sequence[Any]) -> list[Any]:
        """The same tensors, seen by the tape as results of this."""
        on = [x for x in tensors if isinstance(x, Tensor) and x.node is not None]
        if not on:
            return list(tensors)
        node = tape.Node(self, tuple(on), {}, tuple(x.data for x in on))
        place = lines.here()
        if place is not None:
            node.line = place
        new = iter(Tensor(x.data, node, i) for i, x in enumerate(on))
        return [next(new) if isinstance(x, Tensor) and x.node is not None else x for x in tensors]


class _Pass:
    """One call of a block, and the backward pass through it."""

    def __init__(self, block: "Block", pre: Sequence[BackwardPreHook], post: Sequence[BackwardHook]) -> None:
        self.block, self.pre, self.post = block, pre, post
        self.inputs: list[bool] = []  # which values among the arguments have a gradient
        self.outputs: list[bool] = []
        self.entered: tuple[Any, ...] = ()

    def leave(self, g: tuple[Any, ...]) -> tuple[Any, ...]:
        """The backward pass comes to the outputs."""
        self.entered = _placed(g, self.outputs)
        for hook in self.pre:
            self.entered = _replaced(self.entered, hook(self.block, self.entered), "backward pre-hook")
        if True not in self.inputs:
            for last in self.post:
                last(self.block, (None,) * len(self.inputs), self.entered)
        return tuple(c for c, on in zip(self.entered, self.outputs, strict=True) if on)

    def enter(self, g: tuple[Any, ...]) -> tuple[Any, ...]:
        """The backward pass has come to the inputs."""
        given = _placed(g, self.inputs)
        for hook in self.post:
            given = _replaced(given, hook(self.block, given, self.entered), "backward hook")
        return tuple(c for c, on in zip(given, self.inputs, strict=True) if on)


def run_with_hooks(
    block: "Block",
    run: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pre: Sequence[BackwardPreHook],
    post: Sequence[BackwardHook],
) -> Any:
    """``run(*args, **kwargs)``, with the hooks of ``block`` on its backward pass.

    Raises:
        GraphError: the block is part of a graph, whose backward pass calls no Python.
    """
    if any(isinstance(x, Traced) and not isinstance(x, Tensor) for x in leaves((args, kwargs))):
        raise GraphError(
            f"{block._label()} has backward hooks, and is part of a hybridized block (or under vmap): a graph calls no "
            "Python in its backward pass. Put the hook on the outermost hybridized block, remove it, or hybridize with "
            "strict=False, which then runs that block imperatively."
        )
    if not tape.state.recording:
        return run(*args, **kwargs)
    made = _Pass(block, pre, post)
    args, made.inputs = _through(_Edge(f"inputs of {block._label()}", made.enter), args)
    out = run(*args, **kwargs)
    out, made.outputs = _through(_Edge(f"outputs of {block._label()}", made.leave), out)
    return out


def _through(edge: _Edge, tree: Any) -> tuple[Any, list[bool]]:
    """``tree`` with its tensors passed through an edge, and which of its values are on the tape."""
    values = list(leaves(tree))
    new = iter(edge.passed(values))
    on = [isinstance(x, Tensor) and x.node is not None for x in values]
    return mapped(lambda _: next(new), tree), on


def _placed(g: Sequence[Any], on: Sequence[bool]) -> tuple[Any, ...]:
    fresh = iter(g)
    return tuple(next(fresh) if flag else None for flag in on)


def _replaced(old: tuple[Any, ...], new: Any, what: str) -> tuple[Any, ...]:
    """The gradients after a hook, which may return others."""
    if new is None:
        return old
    given: tuple[Any, ...] = new if isinstance(new, tuple) else (new,)
    shapes = [[None if c is None else c.shape for c in gs] for gs in (old, given)]
    if shapes[0] != shapes[1]:
        raise ShapeError(f"a {what} was given gradients of shape {shapes[0]} and returned {shapes[1]}")
    return given
