"""Recomputation: memory for time. What a function computes inside is thrown away, and computed again when needed."""

from collections.abc import Callable, Sequence
from typing import Any

from shoal.errors import AutogradError
from shoal.ops import casting, lines, random, tape
from shoal.ops.func.batched import Batched
from shoal.ops.graph import trace
from shoal.ops.graph.symbol import recomputed
from shoal.ops.graph.tree import leaves, mapped
from shoal.ops.registry import OPERATORS, OPS
from shoal.ops.tensor import Tensor

__all__ = ["checkpoint"]


def checkpoint(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``fn(*args, **kwargs)`` returns; of what it computes inside nothing is kept for the backward pass.

    The backward pass calls ``fn`` again, with the same random numbers (dropout drops the same elements, because they
    are addressed: see `shoal.random`), in the same mode; what it writes to running statistics counts once. Gradients
    also go to the parameters and other tensors that ``fn`` uses without being given them. T. Chen et al., "Training
    deep nets with sublinear memory cost", arXiv:1604.06174.

    In a hybridized graph the backward part computes the inside again too. Without recording, and under `vmap`, it just
    calls ``fn``.

    Args:
        fn: takes and returns tensors, nested in lists, tuples and dictionaries; the same ones for the same arguments.
    """
    given = list(leaves((args, kwargs)))
    if trace.active() is not None:
        with recomputed():
            return fn(*args, **kwargs)
    if not tape.state.recording or not all(map(_plain, given)):
        return fn(*args, **kwargs)
    made = _Recomputed(fn, args, kwargs)
    with trace.mode(recording=True):
        variables, out = made.run([None] * len(given))
    results = list(leaves(out))
    heads = [x for x in results if isinstance(x, Tensor) and x.node is not None]
    made.captured = _captured(heads, made.began)
    inputs = [x for x, v in zip(given, variables, strict=True) if v is not None]
    if not heads or not (inputs or made.captured):
        return mapped(lambda x: x.detach() if isinstance(x, Tensor) else x, out)
    node = tape.Node(made, (*inputs, *made.captured), {}, tuple(h.data for h in heads))
    place = lines.here()
    if place is not None:
        node.line = place
    outs = iter(Tensor(h.data, node, i) for i, h in enumerate(heads))
    fresh = [next(outs) if isinstance(x, Tensor) and x.node is not None else x for x in results]
    again = iter(fresh)
    return mapped(lambda _: next(again), out)


def _plain(x: Any) -> bool:
    return not isinstance(x, Batched) and not trace.is_symbol(x)


class _Recomputed:
    """A call of a function that is made again in the backward pass: what the tape sees as an operator."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name = f"checkpoint of {getattr(fn, '__name__', type(fn).__name__)}"
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.training, self.address = tape.state.training, random.address()
        self.casts = casting.state.policy
        self.captured: list[Tensor] = []
        self.began = tape.mark()

    def run(self, connected: Sequence[Any]) -> tuple[list[Any], Any]:
        """Call the function on variables of its own; these, None where an argument has no gradient, and the results.

        Args:
            connected: for each argument, the tensor to which its variable is to stay connected, or None.
        """
        variables: list[Any] = []
        links = iter(connected)

        def fresh(x: Any) -> Any:
            link = next(links)
            if not isinstance(x, Tensor) or x.node is None:
                variables.append(None)
                return x
            node: Any = tape.Leaf(None, "write")
            if link is not None:
                node = tape.Node(OPS["copy"], (link,), {}, link.data)
            variables.append(Tensor(x.data, node))
            return variables[-1]

        args, kwargs = mapped(fresh, (self.args, self.kwargs))
        return variables, self.fn(*args, **kwargs)

    def cotangents(
        self, xp: Any, g: Any, out: Any, inputs: Sequence[Any], attrs: dict[str, Any], needed: Sequence[bool]
    ) -> list[Any]:
        """Gradients of the arguments and of what was captured: by computing forward again, and backward."""
        create = xp is OPERATORS
        given = list(leaves((self.args, self.kwargs)))
        began = tape.mark()
        with (
            trace.mode(recording=True, training=self.training),
            random.at(self.address),
            trace.recomputing(),
            casting.using(self.casts),
        ):
            variables, result = self.run([x if create and isinstance(x, Tensor) else None for x in given])
        heads = [x for x in leaves(result) if isinstance(x, Tensor) and x.node is not None]
        if [h.shape for h in heads] != [o.shape for o in out]:
            raise AutogradError(
                f"{self.name}: the function returned tensors of shape {[o.shape for o in out]}, and then, when it was "
                f"computed again, {[h.shape for h in heads]}. It must return the same for the same arguments."
            )
        pairs = [(h, c) for h, c in zip(heads, g, strict=True) if c is not None]
        targets = [*(v for v in variables if v is not None), *self.captured]
        found = tape.backward(
            [h for h, _ in pairs], [c for _, c in pairs], targets, retain=True, create=create, floor=began
        )
        assert found is not None
        return [c if need else None for c, need in zip(found, needed, strict=True)]


def _captured(heads: Sequence[Tensor], began: int) -> list[Tensor]:
    """The tensors on the tape that are older than ``began`` and that ``heads`` were computed from."""
    found: dict[tuple[Any, int], Tensor] = {}
    seen, stack = set(), [h.node for h in heads]
    for head in heads:
        node: Any = head.node
        if node.number < began:
            found[node, head.index] = head
    while stack:
        node = stack.pop()
        if node in seen or node.number < began:
            continue
        seen.add(node)
        for x in node.inputs:
            parent = getattr(x, "node", None)
            if parent is not None:
                if parent.number < began:
                    found[parent, x.index] = x
                stack.append(parent)
    return list(found.values())
