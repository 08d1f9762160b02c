"""Symbols: values that are not computed yet. Operators applied to them build a graph.

A `Symbol` is one output of a `Node`; a node is one call of an operator, or a leaf. Nodes are linked to what they are
applied to, so that symbols compose without belonging to anything; `flatten` lists what some symbols depend on as a
`Graph`, in the order in which the nodes were made, which is the order of imperative execution.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import numpy as np

from shoal.errors import ShapeError, ShoalError
from shoal.ops import index, lines
from shoal.ops.graph import blame
from shoal.ops.graph.ir import Call, Graph, Operand, Ref
from shoal.ops.methods import ArrayMethods
from shoal.ops.precision import narrow_numbers
from shoal.ops.registry import OPS, Op, Spec, spec_of

if TYPE_CHECKING:
    from shoal.ops.graph.compose import Group

__all__ = ["Node", "Symbol", "constant", "flatten", "recomputed", "variable"]

_serial = itertools.count()


_regions = itertools.count(1)


class _Local(threading.local):
    line: lines.Place | None = None
    region: int | None = None


_local = _Local()


@contextmanager
def called_at(line: lines.Place | None) -> Iterator[None]:
    """Within this context operators count as called there: those of a gradient, where its operator was called."""
    before, _local.line = _local.line, line
    try:
        yield
    finally:
        _local.line = before


@contextmanager
def recomputed() -> Iterator[None]:
    """What is made in this context is computed again by a gradient that needs it, instead of being kept.

    A region within another one is part of that.
    """
    before = _local.region
    _local.region = before or next(_regions)
    try:
        yield
    finally:
        _local.region = before


class Node:
    """One call of an operator on symbols; or, with ``op`` None, an input (``value`` None) or a constant.

    Attributes:
        op, inputs, attrs: the call; inputs are Symbols, Python scalars and None.
        specs: shape and dtype of each output.
        name: what an input is called.
        value: the array of a constant.
        source: what an input stands for, if it is captured: see `shoal.ops.graph.trace`.
        role: what an input is for: "data", "param", "aux" or "key"; see `shoal.ops.graph.serialize`.
        serial: grows with time of creation.
        many: whether the operator gives a tuple, be it of one.
        line: where the user called the operator.
        region: the part of the graph that is computed again for its gradient, in which this is; see `recomputed`.
    """

    __slots__ = (
        "attrs",
        "inputs",
        "line",
        "many",
        "name",
        "op",
        "region",
        "role",
        "serial",
        "source",
        "specs",
        "value",
    )

    def __init__(
        self,
        op: Op[Any] | None,
        inputs: tuple[Any, ...] = (),
        attrs: dict[str, Any] | None = None,
        specs: tuple[Spec, ...] = (),
        name: str = "",
        value: Any = None,
        source: Any = None,
        role: str = "data",
    ) -> None:
        self.op, self.inputs, self.attrs, self.specs = op, inputs, attrs or {}, specs
        self.name, self.value, self.source, self.role = name, value, source, role
        self.serial, self.many = next(_serial), False
        self.line: lines.Place | None = None if op is None else _local.line or lines.here()
        self.region = None if op is None else _local.region


class Symbol(ArrayMethods):
    """A value with a shape and a dtype, but without numbers: what `forward` receives while it is being traced."""

    __slots__ = ("index", "node")
    _rank: ClassVar[int] = 2

    def __init__(self, node: Node, index: int = 0) -> None:
        self.node, self.index = node, index

    @property
    def spec(self) -> Spec:
        """Shape and dtype."""
        return self.node.specs[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.spec.dtype

    @property
    def name(self) -> str:
        """What it is called, if it is an input; else its operator and when it was made."""
        return self.node.name or f"{self.node.op.name if self.node.op else 'const'}{self.node.serial}"

    @classmethod
    def _invoke(cls, op: Op[Any], inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        operands = tuple(as_operand(x) for x in narrow_numbers(list(inputs), op.ufunc))
        try:
            inferred = op.infer(*(x.spec if isinstance(x, Symbol) else x for x in operands), **attrs)
        except ShoalError as error:
            lines.noted(error, f"at {lines.text(_local.line) or lines.user_line()}")
            raise
        many = not isinstance(inferred, Spec)
        node = Node(op, operands, attrs, tuple(inferred) if many else (inferred,))
        node.many = many
        return tuple(Symbol(node, i) for i in range(len(node.specs))) if many else Symbol(node)

    def detach(self) -> "Symbol":
        """The same value as a constant of the gradient."""
        return Symbol._invoke(OPS["stop_gradient"], (self,), {})  # type: ignore[no-any-return]  # operators return Any

    def _random_key(self, purpose: str) -> "Symbol":
        from shoal.ops.graph import trace

        return trace.random_key(purpose)

    def __iter__(self) -> Iterator["Symbol"]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError(f"symbol {self.name!r} has no axes, and so no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<Symbol {self.name} {self.shape} {self.dtype}>"

    def __str__(self) -> str:
        return str(self._group())

    def print(self, passes: str | Sequence[str] | None = None) -> None:
        """Print the graph of this output before and after its passes; see `shoal.ops.graph.pipeline`."""
        self._group().print(passes)

    def list_arguments(self) -> list[str]:
        """Names of the inputs that are given or learned."""
        return self._group().list_arguments()

    def list_auxiliary_states(self) -> list[str]:
        """Names of the inputs that are kept, not learned, such as running statistics."""
        return self._group().list_auxiliary_states()

    def list_outputs(self) -> list[str]:
        """The name of this output."""
        return self._group().list_outputs()

    def infer_shape(self, **shapes: Sequence[int]) -> tuple[dict[str, Any], list[Any]]:
        """Shapes of all inputs by name, and of the output, when some inputs get other shapes."""
        return self._group().infer_shape(**shapes)

    def eval(self, **values: Any) -> list[Any]:
        """The value of this output in a list, for arrays or tensors given for the inputs by name.

        Raises:
            GraphError: an input is missing, or does not exist.
        """
        return self._group().eval(**values)

    def tojson(self) -> str:
        """The graph as text."""
        return self._group().tojson()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to a JSON file; `shoal.sym.load` reads it.

        Raises:
            CheckpointError: the disk refuses.
        """
        self._group().save(path)

    def _group(self) -> "Group":
        from shoal.ops.graph.compose import Group

        return Group([self])

    def __bool__(self) -> NoReturn:
        blame.needs_value(self, "the truth value")

    def __float__(self) -> NoReturn:
        blame.needs_value(self, "float()")

    def __int__(self) -> NoReturn:
        blame.needs_value(self, "int()")

    def __index__(self) -> NoReturn:
        blame.needs_value(self, "an index")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        blame.needs_value(self, "a NumPy array")

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.node.op is None:
            blame.cannot(
                self, "assigns to a part of", "It is an input or a parameter: write to a copy(), and return that."
            )
        if self.node.op.view:
            blame.cannot(self, "assigns to a part of", "It may share memory with another tensor: write to a copy().")
        new = index.assign(Symbol(self.node, self.index), key, value)
        self.node, self.index = new.node, new.index

    def __getattr__(self, name: str) -> Any:
        if name in _NEED_VALUES:
            blame.needs_value(self, f".{name}")
        raise AttributeError(f"'Symbol' object has no attribute {name!r}")


_NEED_VALUES = frozenset(
    ["asnumpy", "asscalar", "item", "tolist", "data", "grad", "backward", "attach_grad", "wait_to_read", "numpy"]
)
"""What a Tensor has and a Symbol cannot: it would need numbers."""


def variable(name: str, spec: Spec, source: Any = None, role: str = "data") -> Symbol:
    """An input of a graph."""
    return Symbol(Node(None, specs=(spec,), name=name, source=source, role=role))


def constant(value: Any) -> Symbol:
    """An array that is part of the graph; it is copied."""
    array = value.copy() if hasattr(value, "__cuda_array_interface__") else np.array(value)
    return Symbol(Node(None, specs=(spec_of(array),), value=array))


def as_operand(x: Any) -> Any:
    """``x`` as an operand of a node: symbols, scalars and None as they are, tensors captured, arrays as constants."""
    if isinstance(x, Symbol):
        return Symbol(x.node, x.index)  # what it is now: an assignment makes it stand for another
    if x is None or isinstance(x, (bool, int, float, complex)):
        return x
    if hasattr(x, "attach_grad"):
        from shoal.ops.graph import trace

        return trace.capture(x)
    return constant(x)


def nodes_of(symbols: Iterable[Symbol]) -> list[Node]:
    """All nodes that ``symbols`` depend on, in order of creation."""
    found: dict[int, Node] = {}
    stack = [s.node for s in symbols]
    while stack:
        node = stack.pop()
        if node.serial not in found:
            found[node.serial] = node
            stack.extend(x.node for x in node.inputs if isinstance(x, Symbol))
    return [found[serial] for serial in sorted(found)]


def flatten(outputs: Sequence[Symbol], inputs: Sequence[Symbol] = ()) -> tuple[Graph, list[Node]]:
    """The graph of what ``outputs`` depend on.

    Args:
        inputs: leaves that are to be the first inputs, in this order, whether used or not. The other inputs follow in
            order of creation.
    Returns:
        The graph, and for each of its inputs the node that it was.
    """
    nodes = nodes_of([*outputs, *inputs])
    at = {node.serial: i for i, node in enumerate(nodes)}

    def operand(x: Any) -> Operand:
        return (at[x.node.serial], x.index) if isinstance(x, Symbol) else x

    calls = tuple(
        Call(n.op.name if n.op else "", tuple(map(operand, n.inputs)), n.attrs, n.specs, n.name, n.value, n.line)
        for n in nodes
    )
    first = [at[s.node.serial] for s in inputs]
    rest = [i for i, call in enumerate(calls) if call.is_input and i not in set(first)]
    refs: tuple[Ref, ...] = tuple((at[s.node.serial], s.index) for s in outputs)
    graph = Graph(calls, (*first, *rest), refs)
    return graph, [nodes[i] for i in graph.inputs]


def replay(
    graph: Graph, arguments: Sequence[Any], apply: Callable[[str, tuple[Any, ...], dict[str, Any]], Any]
) -> list[Any]:
    """Carry out a graph call by call on ``arguments`` of any kind.

    Args:
        arguments: one per input: Tensors, Symbols or arrays.
        apply: calls an operator by name; returns a tuple if the operator has several outputs.
    Returns:
        One value per output.
    """
    values: dict[Ref, Any] = {(p, 0): x for p, x in zip(graph.inputs, arguments, strict=True)}
    for position, call in enumerate(graph.calls):
        if call.is_const:
            values[position, 0] = call.value
        elif call.op:
            results = apply(call.op, tuple(values[x] if isinstance(x, tuple) else x for x in call.inputs), call.attrs)
            results = results if isinstance(results, tuple) else (results,)
            values.update({(position, n): result for n, result in enumerate(results)})
    return [values[ref] for ref in graph.outputs]
