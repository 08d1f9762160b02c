"""Sequences of arrays, which are Python lists here, and optional values, of which None is the empty one."""

from typing import Any

import numpy as np

from shoal.ops import shape as shaping
from shoal.ops.onnx.nodes import Call, node
from shoal.ops.onnx.proto import Graph

__all__: list[str] = []


@node("SequenceEmpty")
def sequence_empty(c: Call) -> Any:
    """No arrays."""
    return []


@node("SequenceConstruct")
def sequence_construct(c: Call, *xs: Any) -> Any:
    """These arrays."""
    return list(xs)


@node("SequenceInsert", known=[2])
def sequence_insert(c: Call, xs: list[Any], x: Any, where: Any = None) -> Any:
    """One more, at a position; at the end if none is given."""
    i = len(xs) if where is None else c.ints(where, "the position")[0]
    i = i + len(xs) if i < 0 else i
    return [*xs[:i], x, *xs[i:]]


@node("SequenceErase", known=[1])
def sequence_erase(c: Call, xs: list[Any], where: Any = None) -> Any:
    """Without one of them; the last if none is named."""
    i = -1 if where is None else c.ints(where, "the position")[0]
    i %= len(xs)
    return [*xs[:i], *xs[i + 1 :]]


@node("SequenceAt", known=[1])
def sequence_at(c: Call, xs: list[Any], where: Any) -> Any:
    """One of them."""
    return xs[c.ints(where, "the position")[0]]


@node("SequenceLength")
def sequence_length(c: Call, xs: list[Any]) -> Any:
    """How many there are."""
    return np.array(len(xs), np.int64)


@node("SplitToSequence", known=[1])
def split_to_sequence(c: Call, x: Any, parts: Any = None) -> Any:
    """Pieces of given lengths, of one length, or single ones."""
    axis = int(c.get("axis", 0)) % x.ndim
    n = int(x.shape[axis])
    if parts is None:
        sizes = [1] * n
    else:
        given = c.ints(parts, "the lengths")
        one = given[0]
        sizes = list(given) if parts.ndim else [min(one, n - i) for i in range(0, n, one)]
    ends = np.cumsum(sizes)
    cuts = [(slice(None),) * axis + (slice(int(e - s), int(e)),) for s, e in zip(sizes, ends, strict=True)]
    made = [x[cut] for cut in cuts]
    if parts is None and not c.get("keepdims", 1):
        made = [shaping.squeeze(p, axis=axis) for p in made]
    return made


@node("ConcatFromSequence")
def concat_from_sequence(c: Call, xs: list[Any]) -> Any:
    """One behind the other, or along a new axis."""
    axis = int(c.get("axis"))
    return shaping.stack(xs, axis=axis) if c.get("new_axis", 0) else shaping.concatenate(xs, axis=axis)


@node("SequenceMap")
def sequence_map(c: Call, xs: list[Any], *others: Any) -> Any:
    """A graph for each array, with those at the same place in other sequences."""
    body: Graph = c.get("body")
    rows = []
    for i, x in enumerate(xs):
        given = [x, *(o[i] if isinstance(o, list) else o for o in others)]
        rows.append(c.run(body, dict(zip(body.inputs, given, strict=True))))
    return tuple(list(column) for column in zip(*rows, strict=True)) if rows else tuple([] for _ in body.outputs)


@node("Optional")
def optional(c: Call, x: Any = None) -> Any:
    """A value, or none."""
    return x


@node("OptionalHasElement")
def optional_has_element(c: Call, x: Any = None) -> Any:
    """Whether there is a value."""
    return np.array(x is not None)


@node("OptionalGetElement")
def optional_get_element(c: Call, x: Any) -> Any:
    """The value."""
    if x is None:
        raise c.refuse("there is no value")
    return x
