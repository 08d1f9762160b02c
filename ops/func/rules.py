"""What each operator does on a batch: the rules of `vmap`.

A rule is given the inputs with the batch along the first axis (those that have one: ``on``) and returns the outputs
with the batch along theirs. Most are derived: element-wise operators align their axes; operators with ``axis`` count
one further. An operator without a rule is applied to one example after the other, which is said once.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from shoal.ops.func.batched import Batched, Level
from shoal.ops.registry import OPS, Op, Spec, Traced, spec_of

__all__ = ["RULES", "Batch", "apply", "batching", "has_rule", "loop"]


class Batch(NamedTuple):
    """What a rule is told of the inputs.

    Attributes:
        on: which inputs have the batch.
        size: examples of the batch.
        level: the `vmap` it belongs to.
    """

    on: Sequence[bool]
    size: int
    level: Level

    def all(self, values: Sequence[Any]) -> list[Any]:
        """All inputs with the batch: those that have none are repeated, as a view."""
        return [x if flag or x is None else self.spread(x) for x, flag in zip(values, self.on, strict=True)]

    def spread(self, x: Any) -> Any:
        """An input that has no batch, repeated."""
        x = x if isinstance(x, Traced) else _array(x)
        return OPS["broadcast_to"](x, shape=(self.size, *x.shape))

    def logical(self, values: Sequence[Any]) -> list[Any]:
        """The inputs as one example has them, for rules that are written in terms of other operators."""
        return [Batched(x, self.level) if flag else x for x, flag in zip(values, self.on, strict=True)]


def _array(x: Any) -> Any:
    from shoal.ops.tensor import Tensor

    return Tensor(x)


Rule: TypeAlias = Callable[..., Any]
"""``rule(op, batch, *values, **attrs) -> values``"""

RULES: dict[str, Rule] = {}
"""By the operator's name."""

_said: set[str] = set()


def batching(*names: str) -> Callable[[Rule], Rule]:
    """Declare the rule of the operators called ``names``."""

    def declare(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return declare


def rule_of(op: Op[Any]) -> Rule | None:
    """The rule of ``op``: its own, or the one that follows from what is known of it."""
    from shoal.ops.func import rules_index, rules_linear, rules_neural, rules_shape

    assert rules_index and rules_linear and rules_neural and rules_shape  # imported for their rules
    found = RULES.get(op.name)
    if found is None and "body" in op.attrs:  # several operators as one, or control flow: made by graphs
        return loop
    if found is None and op.elementwise:
        found = aligned
    if found is None and len(op.arrays) == 1 and not op.variadic and "axis" in op.attrs:
        found = reduced if "keepdims" in op.attrs else along_one
    return found


def has_rule(op: Op[Any]) -> bool:
    """Whether ``op`` is applied to a batch at once; else one example after the other."""
    return rule_of(op) is not None


def apply(op: Op[Any], values: Sequence[Any], on: Sequence[bool], level: Level, attrs: dict[str, Any]) -> Any:
    """The outputs of ``op`` for a batch, with the batch along their first axis."""
    batch = Batch(on, level.size, level)
    rule = rule_of(op)
    if rule is None:
        if op.name not in _said:
            _said.add(op.name)
            warnings.warn(
                f"vmap: operator {op.name!r} has no rule for batches, and is applied to one example after the other",
                RuntimeWarning,
                stacklevel=5,
            )
        return loop(op, batch, *values, **attrs)
    return rule(op, batch, *values, **attrs)


def loop(op: Op[Any], batch: Batch, *values: Any, **attrs: Any) -> Any:
    """One example after the other."""
    if not batch.size:
        return _empty(op, batch, values, attrs)
    outs = []
    for i in range(batch.size):
        inputs = [x[i] if flag else x for x, flag in zip(values, batch.on, strict=True)]
        outs.append(op(*inputs, **attrs))
    if isinstance(outs[0], tuple):
        return tuple(OPS["stack"](*parts) for parts in zip(*outs, strict=True))
    return OPS["stack"](*outs)


def _empty(op: Op[Any], batch: Batch, values: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """The outputs for a batch without examples."""
    import numpy as np

    specs = [spec_of(x) for x in values]
    found = op.infer(
        *(Spec(s.shape[1:], s.dtype) if flag else s for s, flag in zip(specs, batch.on, strict=True)), **attrs
    )
    made = [_array(np.zeros((0, *s.shape), s.dtype)) for s in ([found] if isinstance(found, Spec) else found)]
    return made[0] if isinstance(found, Spec) else tuple(made)


# -- derived rules


def lead(x: Any, ndim: int) -> Any:
    """A batch of examples, each with ``ndim`` axes: axes of length 1 are put in front of those that it has."""
    missing = ndim - (x.ndim - 1)
    if missing <= 0:
        return x
    return OPS["reshape"](x, shape=(x.shape[0], *(1,) * missing, *x.shape[1:]))


def ndim_of(x: Any, flag: bool) -> int:
    """Axes of one example."""
    return getattr(x, "ndim", 0) - flag


def aligned(op: Op[Any], batch: Batch, *values: Any, **attrs: Any) -> Any:
    """An element-wise operator: inputs broadcast, so that their axes must be counted from the last."""
    ndim = max(ndim_of(x, flag) for x, flag in zip(values, batch.on, strict=True))
    return op(*(lead(x, ndim) if flag else x for x, flag in zip(values, batch.on, strict=True)), **attrs)


def later(axis: Any) -> Any:
    """``axis`` (an int, a tuple of them) of one example, as an axis of the batch."""
    if isinstance(axis, int):
        return axis + 1 if axis >= 0 else axis
    return tuple(later(a) for a in axis)


def flat(x: Any) -> Any:
    """Each example in one axis."""
    size = 1
    for n in x.shape[1:]:
        size *= n
    return OPS["reshape"](x, shape=(x.shape[0], size))


def reduced(op: Op[Any], batch: Batch, x: Any, axis: Any = None, keepdims: bool = False, **attrs: Any) -> Any:
    """A reduction, or a search: over ``axis``, or over the whole example."""
    if axis is not None:
        op.infer(Spec(tuple(x.shape[1:]), x.dtype), axis=axis, keepdims=keepdims, **attrs)  # -2 may be the batch's axis
        if x.ndim > 1:
            return op(x, axis=later(axis), keepdims=keepdims, **attrs)
    out = op(flat(x), axis=1, **attrs)
    if not keepdims:
        return out
    ones = (x.shape[0],) + (1,) * (x.ndim - 1)
    return (
        tuple(OPS["reshape"](o, shape=ones) for o in out) if isinstance(out, tuple) else OPS["reshape"](out, shape=ones)
    )


def along(op: Op[Any], batch: Batch, *values: Any, axis: Any = None, **attrs: Any) -> Any:
    """An operator along ``axis`` of inputs of one shape."""
    axis = op.defaults.get("axis") if axis is None else axis
    return op(*batch.all(values), axis=later(axis), **attrs)


def along_one(op: Op[Any], batch: Batch, x: Any, axis: Any = None, **attrs: Any) -> Any:
    """An operator along ``axis`` of its only input; without one, along the flattened example, or element by element."""
    axis = op.defaults.get("axis") if axis is None else axis
    if axis is not None:
        return op(x, axis=later(axis), **attrs)
    found = op.infer(Spec(tuple(x.shape[1:]), x.dtype), **attrs)
    first = found if isinstance(found, Spec) else found[0]
    if len(first.shape) != 1:
        return loop(op, batch, x, **attrs)
    return op(flat(x), axis=1, **attrs)


def flattened(op: Op[Any], batch: Batch, x: Any, axis: Any = None, **attrs: Any) -> Any:
    """Along ``axis``, or along the flattened example."""
    return op(flat(x), axis=1, **attrs) if axis is None else op(x, axis=later(axis), **attrs)


def trailing(op: Op[Any], batch: Batch, *values: Any, **attrs: Any) -> Any:
    """An operator on the last axes, which takes any number of others before them."""
    return op(*batch.all(values), **attrs)


def folded(op: Op[Any], batch: Batch, *values: Any, **attrs: Any) -> Any:
    """All inputs have a batch of their own as their first axis, whose elements do not meet: the two are made one."""
    wide = batch.all(values)
    inner = wide[0].shape[1]
    flat_ = [None if x is None else OPS["reshape"](x, shape=(batch.size * inner, *x.shape[2:])) for x in wide]
    return unfolded(op(*flat_, **attrs), batch.size, inner)


def unfolded(out: Any, size: int, inner: int) -> Any:
    """The first axis of one or several outputs as two."""
    if isinstance(out, tuple):
        return tuple(unfolded(o, size, inner) for o in out)
    return OPS["reshape"](out, shape=(size, inner, *out.shape[1:]))


def decomposed(fn: Callable[..., Any]) -> Rule:
    """A rule in terms of other operators: ``fn(*inputs of one example, **attrs)``."""

    def rule(op: Op[Any], batch: Batch, *values: Any, **attrs: Any) -> Any:
        out = fn(*batch.logical(values), **attrs)
        outs = out if isinstance(out, tuple) else (out,)
        made = tuple(
            o.value if isinstance(o, Batched) and o.level is batch.level else None if o is None else batch.spread(o)
            for o in outs
        )
        return made if isinstance(out, tuple) else made[0]

    return rule
