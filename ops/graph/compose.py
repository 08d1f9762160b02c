"""Symbols made by hand or from a file: variables, groups, saving, loading, evaluating."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shoal.errors import GraphError, ShapeError
from shoal.ops.graph import gradient as static
from shoal.ops.graph import serialize
from shoal.ops.graph.ir import Graph
from shoal.ops.graph.listing import listing
from shoal.ops.graph.symbol import Node, Symbol, constant, flatten, replay, variable
from shoal.ops.registry import Spec, operator
from shoal.ops.tensor import Tensor

__all__ = ["Group", "fromjson", "gradient", "load", "var"]


def var(name: str, shape: Sequence[int], dtype: Any = "float32") -> Symbol:
    """An input of a graph that is composed by hand.

    >>> x, y = var("x", (2, 3)), var("y", (3,))
    >>> (x * y).sum(axis=1).shape
    (2,)
    """
    return variable(name, Spec(tuple(int(n) for n in shape), np.dtype(dtype)))


class Group:
    """Several symbols as the outputs of one graph. What it can do, `Symbol` can as a group of one."""

    def __init__(self, symbols: Sequence[Symbol]) -> None:
        self.symbols = tuple(symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self.symbols)

    def __getitem__(self, index: int) -> Symbol:
        return self.symbols[index]

    def __repr__(self) -> str:
        return f"<Group of {', '.join(map(repr, self.symbols))}>"

    def __str__(self) -> str:
        return listing(self.graph()[0])

    def print(self, passes: str | Sequence[str] | None = None) -> None:
        """Print the graph before and after its passes; see `shoal.ops.graph.pipeline`."""
        from shoal.ops.graph import show

        print(show.pair_of_graph(self.graph()[0], passes).text())

    def graph(self) -> tuple[Graph, list[Node]]:
        """The calls that the symbols depend on, and the node of each input."""
        return flatten(self.symbols)

    def inputs(self) -> dict[str, Node]:
        """The inputs by name, in order of creation.

        Raises:
            GraphError: two have the same name.
        """
        nodes = self.graph()[1]
        found = {node.name: node for node in nodes}
        if len(found) != len(nodes):
            names = [node.name for node in nodes]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise GraphError(f"a graph has several inputs called {', '.join(twice)}; give each a name of its own")
        return found

    def list_arguments(self) -> list[str]:
        """Names of the inputs that are given or learned."""
        return [name for name, node in self.inputs().items() if node.role in ("data", "param")]

    def list_auxiliary_states(self) -> list[str]:
        """Names of the inputs that are kept, not learned, such as running statistics."""
        return [name for name, node in self.inputs().items() if node.role == "aux"]

    def list_outputs(self) -> list[str]:
        """Names of the outputs."""
        return [f"{s.name}_output" if s.node.op else s.name for s in self.symbols]

    def infer_shape(self, **shapes: Sequence[int]) -> tuple[dict[str, Any], list[Any]]:
        """Shapes of all inputs by name, and of the outputs, when some inputs get other shapes.

        Raises:
            ShapeError: an operator does not accept them.
            GraphError: an input that does not exist.
        """
        inputs = self.inputs()
        self._require_known(shapes)
        fresh = {n: var(n, shapes.get(n, node.specs[0].shape), node.specs[0].dtype) for n, node in inputs.items()}
        outputs = replay(self.graph()[0], list(fresh.values()), _apply)
        return {n: s.shape for n, s in fresh.items()}, [x.shape for x in outputs]

    def eval(self, **values: Any) -> list[Tensor]:
        """The values of the outputs, for arrays or tensors given for the inputs by name.

        Raises:
            GraphError: an input is missing, or does not exist.
            ShapeError, DTypeError: an operator does not accept them.
        """
        inputs = self.inputs()
        self._require_known(values)
        missing = [n for n, node in inputs.items() if n not in values and node.role != "key"]
        if missing:
            raise GraphError(f"eval needs values of {', '.join(missing)}; it has {', '.join(values) or 'none'}")
        given = [_given(name, node, values) for name, node in inputs.items()]
        return [x if isinstance(x, Tensor) else Tensor(x) for x in replay(self.graph()[0], given, _apply)]

    def tojson(self) -> str:
        """The graph as text; see `shoal.ops.graph.serialize`."""
        return serialize.to_json(self._saved())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to a JSON file.

        Raises:
            CheckpointError: the disk refuses.
        """
        serialize.write(path, self._saved())

    def _saved(self) -> serialize.Saved:
        return serialize.Saved(self.graph()[0], tuple(node.role for node in self.inputs().values()))

    def _require_known(self, given: Mapping[str, Any]) -> None:
        unknown = sorted(set(given) - set(self.inputs()))
        if unknown:
            raise GraphError(f"no input is called {', '.join(unknown)}; the graph has {', '.join(self.inputs())}")


def gradient(outputs: Symbol | Sequence[Symbol], wrt: Sequence[Symbol]) -> list[Symbol]:
    """The gradient of the sum of ``outputs`` with respect to each symbol of ``wrt``, as symbols.

    >>> x = var("x", (3,))
    >>> (dx,) = gradient(x * x, [x])
    >>> dx.eval(x=np.array([1, 2, 3], dtype="float32"))[0]
    Tensor([2., 4., 6.], dtype=float32)
    """
    several = [outputs] if isinstance(outputs, Symbol) else list(outputs)
    heads: list[Symbol | None] = [constant(np.ones(s.shape, s.dtype)) for s in several]
    found = static.gradients(several, heads, wrt)
    return [constant(np.zeros(s.shape, s.dtype)) if g is None else g for g, s in zip(found, wrt, strict=True)]


def load(path: str | os.PathLike[str]) -> Any:
    """Read a graph that `Symbol.save` or `HybridBlock.export` wrote: a Symbol, or a Group if it has several outputs.

    Nothing in the file is executed: operators are looked up by name, and everything is checked.

    Raises:
        CheckpointError: there is no such file.
        GraphError: it is not a valid graph; says where.
    """
    return _symbols(serialize.read(path))


def fromjson(text: str) -> Any:
    """The graph that `Symbol.tojson` made text of: a Symbol, or a Group.

    Raises:
        GraphError: it is not a valid graph; says where.
    """
    return _symbols(serialize.from_json(text))


def _symbols(saved: serialize.Saved) -> Any:
    specs = [saved.graph.spec((p, 0)) for p in saved.graph.inputs]
    fresh = [variable(n, s, role=r) for n, s, r in zip(saved.names, specs, saved.roles, strict=True)]
    outputs = [x if isinstance(x, Symbol) else constant(x) for x in replay(saved.graph, fresh, _build)]
    return outputs[0] if len(outputs) == 1 else Group(outputs)


def _apply(name: str, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    return operator(name)(*inputs, **attrs)


def _build(name: str, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    """Also a call without symbols becomes a node."""
    return Symbol._invoke(operator(name), inputs, attrs)


def _given(name: str, node: Node, values: Mapping[str, Any]) -> Any:
    if node.role == "key" and name not in values:
        return Tensor(np.zeros(1))._random_key(name)
    value = values[name] if isinstance(values[name], Tensor) else Tensor(values[name])
    if value.ndim != len(node.specs[0].shape):
        raise ShapeError(f"input {name!r} must have {len(node.specs[0].shape)} axes, got shape {value.shape}")
    return value
