"""The graph that passes rewrite and the executor runs: a flat list of calls, in an order in which they can be made.

A `Graph` is a value: passes take one and return another. Each `Call` refers to earlier ones by position, so that the
list is its own proof of being acyclic. A leaf is a call without an operator: an input, whose array is given at each
run, or a constant, whose array is in the graph.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from shoal.errors import GraphError
from shoal.ops.lines import Place
from shoal.ops.registry import Spec

__all__ = ["Call", "Graph", "Operand", "Ref", "frozen"]

Ref: TypeAlias = tuple[int, int]
"""A value of a graph: (position of the call, number of its output)."""

Operand: TypeAlias = "Ref | bool | int | float | complex | None"
"""What an operator is applied to: a value, a Python scalar, or None for an optional input that was left out."""


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One operator applied to earlier values; or, with ``op == ""``, an input or a constant (``value`` set).

    Attributes:
        op: the operator's name in the registry.
        inputs: the values and scalars it is applied to.
        attrs: its keyword attributes; never changed after construction.
        specs: shape and dtype of each of its outputs.
        name: what an input is called; a comment elsewhere.
        value: the array of a constant.
        line: where the user called the operator, or that of which this is a part of the gradient; None if unknown.
    """

    op: str
    inputs: tuple[Operand, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    specs: tuple[Spec, ...] = ()
    name: str = ""
    value: Any = None
    line: Place | None = None

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Those of its inputs that are values of the graph."""
        return tuple(x for x in self.inputs if isinstance(x, tuple))

    @property
    def is_const(self) -> bool:
        """Whether this is a constant."""
        return not self.op and self.value is not None

    def moved(self, to: Callable[[Ref], Ref]) -> "Call":
        """The same call on other values."""
        inputs = tuple(to(x) if isinstance(x, tuple) else x for x in self.inputs)
        return Call(self.op, inputs, self.attrs, self.specs, self.name, self.value, self.line)

    @property
    def is_input(self) -> bool:
        """Whether this is an input."""
        return not self.op and self.value is None


@dataclass(frozen=True, eq=False, slots=True)
class Graph:
    """Calls in executable order, the positions of the inputs in the order of the arguments, and the results.

    Attributes:
        calls: each refers to earlier ones only.
        inputs: positions of the input leaves, in the order in which a run receives their arrays.
        outputs: the values that a run returns.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[Ref, ...]

    def spec(self, ref: Ref) -> Spec:
        """Shape and dtype of a value."""
        return self.calls[ref[0]].specs[ref[1]]

    def check(self) -> "Graph":
        """This graph, after proving that it is well formed.

        Raises:
            GraphError: a reference to a later or missing value, or inputs that are not the input leaves.
        """
        for position, call in enumerate(self.calls):
            for ref in call.refs:
                if not (0 <= ref[0] < position and 0 <= ref[1] < len(self.calls[ref[0]].specs)):
                    raise GraphError(
                        f"call {position} ({call.op or call.name}) refers to value {ref}, which is not before it"
                    )
        for ref in self.outputs:
            if not (0 <= ref[0] < len(self.calls) and 0 <= ref[1] < len(self.calls[ref[0]].specs)):
                raise GraphError(f"output {ref} does not exist; the graph has {len(self.calls)} calls")
        leaves = {i for i, call in enumerate(self.calls) if call.is_input}
        if len(set(self.inputs)) != len(self.inputs) or set(self.inputs) != leaves:
            raise GraphError(f"inputs {list(self.inputs)} are not the input leaves {sorted(leaves)}")
        return self

    def operators(self) -> Iterator[tuple[int, Call]]:
        """(position, call) of the calls that are not leaves."""
        return ((i, call) for i, call in enumerate(self.calls) if call.op)


def frozen(value: Any) -> Any:
    """``value`` in a hashable form, equal only for values that are the same to the bit: 0.0 is not -0.0, nor 1 True."""
    if isinstance(value, dict):
        return ("dict", *((k, frozen(v)) for k, v in sorted(value.items())))
    if isinstance(value, tuple):
        return ("tuple", *map(frozen, value))
    if isinstance(value, float):
        return ("float", value.hex())
    if isinstance(value, complex):
        return ("complex", value.real.hex(), value.imag.hex())
    if hasattr(value, "tobytes"):
        return ("array", str(value.dtype), value.shape, value.tobytes())
    return (type(value).__name__, value)


def positions(graph: Graph, wanted: Sequence[Ref]) -> set[int]:
    """Positions of the calls that the values ``wanted`` depend on, themselves included."""
    found: set[int] = set()
    stack = [ref[0] for ref in wanted]
    while stack:
        position = stack.pop()
        if position not in found:
            found.add(position)
            stack.extend(ref[0] for ref in graph.calls[position].refs)
    return found
