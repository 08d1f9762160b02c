"""Gradients by composition: of a function written with operators, for an operator that has no rule of its own for it.

A fused operator has a fast gradient, which is an operator too. The gradient of *that* one is needed seldom (second
derivatives), so it is not written down a second time: `pullback` differentiates the same function made of small
operators. It works on whatever a gradient rule is run on: raw arrays, Tensors, Symbols.
"""

from collections.abc import Callable, Sequence
from typing import Any

from shoal.ops import tape
from shoal.ops.registry import OPS, Traced
from shoal.ops.tensor import Tensor

__all__ = ["pullback"]


def pullback(fn: Callable[..., Any], inputs: Sequence[Any], g: Sequence[Any]) -> list[Any]:
    """Cotangents of ``inputs``, given those of the outputs of ``fn``.

    Args:
        fn: takes ``inputs`` as Tensors or Symbols and returns a tuple of such; uses operators only. An output may be
            None where its cotangent is.
        inputs: arrays, Tensors or Symbols; None and integers have no cotangent.
        g: one cotangent per output, None where nothing depends on it.
    Returns:
        One per input, of the kind that the inputs are; None where no output depends on the input.
    """
    if any(isinstance(x, Traced) and not isinstance(x, Tensor) for x in (*inputs, *g)):
        return _symbolic(fn, inputs, g)
    if any(isinstance(x, Tensor) for x in (*inputs, *g)):
        return _taped(fn, inputs, g)
    given = [None if c is None else Tensor(c) for c in g]
    found = _taped(fn, [Tensor(x) if hasattr(x, "shape") else x for x in inputs], given, create=False)
    return [c.data if isinstance(c, Tensor) else c for c in found]


def _is_variable(x: Any) -> bool:
    return hasattr(x, "shape") and x.dtype.kind not in "biu"


def _symbolic(fn: Callable[..., Any], inputs: Sequence[Any], g: Sequence[Any]) -> list[Any]:
    from shoal.ops.graph.gradient import gradients
    from shoal.ops.graph.symbol import as_operand

    operands = [as_operand(x) for x in inputs]
    own = [OPS["copy"](x) if _is_variable(x) else x for x in operands]  # so that paths between inputs do not count
    outputs = fn(*own)
    pairs = [(o, as_operand(c)) for o, c in zip(outputs, g, strict=True) if c is not None and hasattr(o, "node")]
    wanted = [x for x in own if _is_variable(x)]
    found = iter(gradients([o for o, _ in pairs], [c for _, c in pairs], wanted))
    return [next(found) if _is_variable(x) else None for x in own]


def _taped(fn: Callable[..., Any], inputs: Sequence[Any], g: Sequence[Any], create: bool = True) -> list[Any]:
    before = tape.state.recording
    tape.state.recording = True
    try:
        own = [_own(x, create) if _is_variable(x) else x for x in inputs]
        pairs = [
            (o, c) for o, c in zip(fn(*own), g, strict=True) if c is not None and getattr(o, "node", None) is not None
        ]
        if not pairs:
            return [None] * len(own)
        tape.state.recording = create
        cotangents = [_kind(c, create) for _, c in pairs]
        wanted = [x for x in own if _is_variable(x)]
        made = tape.backward([o for o, _ in pairs], cotangents, wanted, retain=create, create=create)
    finally:
        tape.state.recording = before
    found = iter(made or ())
    return [_kind(next(found), True) if _is_variable(x) else None for x in own]


def _own(x: Any, create: bool) -> Tensor:
    """A tensor of its own for an input: linked to it, if what is computed from it is to be differentiated again."""
    if create and isinstance(x, Tensor) and x.node is not None:
        return OPS["copy"](x)  # type: ignore[no-any-return]  # operators return Any
    return Tensor(x.data if isinstance(x, Tensor) else x, tape.Leaf(None, "write"))


def _kind(c: Any, tensor: bool) -> Any:
    if tensor:
        return c if c is None or isinstance(c, Tensor) else Tensor(c)
    return c.data if isinstance(c, Tensor) else c
