"""A graph of ONNX nodes as a block."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from shoal.errors import GraphError, ShapeError
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.parameter import Parameter
from shoal.ops.onnx import families
from shoal.ops.onnx.nodes import KNOWN, NODES, Call, supported
from shoal.ops.onnx.proto import Graph, Model, Node, read
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor

__all__ = ["OnnxBlock", "load"]

assert families  # imported for the operators that it registers

Values = dict[str, Any]

ALSO_UNDER = {"ai.onnx.preview.training": "", "ai.onnx.ml": ""}
"""Domains whose missing version means that of ONNX itself."""


def load(path: "str | os.PathLike[str] | bytes | Any") -> "OnnxBlock":
    """A model from an ONNX file, as a block that runs, hybridizes and can be trained further.

    Args:
        path: of the file; or its bytes, or an ``onnx.ModelProto``.
    Returns:
        A block that takes the graph's inputs in order. Float weights are parameters, named as in the file.
    Raises:
        ConfigError: the package onnx is not installed.
        CheckpointError: no such file, or it is no ONNX model.
        GraphError: it has operators that are not known here; names each with its node.
    """
    return OnnxBlock(read(path))


class OnnxBlock(HybridBlock):
    """Runs the graph of an ONNX model; see `load`.

    Args:
        model: what was read.
    Raises:
        GraphError: operators that are not known here.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        _require_known(model.graph)
        self.model, self.inputs, self.output_names = model, model.graph.inputs, model.graph.outputs
        numbers = _numbers(model.graph)
        params: dict[str, Parameter] = {}
        self.constants: Values = {}
        for name, array in model.graph.constants.items():
            if array.dtype.kind == "f" and name not in numbers:
                params[name] = param = Parameter(name, "write", array.shape, array.dtype)
                param.set_data(Tensor(np.array(array)))
            else:
                self.constants[name] = array
        self._reg_params.update(params)

    def forward(self, *args: Any) -> Any:
        """Run the nodes one by one: on tensors at once, on symbols as part of a graph.

        Raises:
            ShapeError: the number of arguments is not that of the graph's inputs.
        """
        if len(args) != len(self.inputs):
            raise ShapeError(
                f"{self._label()} takes {len(self.inputs)} inputs ({', '.join(self.inputs)}), got {len(args)}"
            )
        values: Values = {**self.constants, **{n: p.data() for n, p in self._reg_params.items()}}
        values |= dict(zip(self.inputs, args, strict=True))
        out = [_tensor(x) for x in self._play(self.model.graph, values)]
        return out[0] if len(out) == 1 else tuple(out)

    def _play(self, graph: Graph, values: Values) -> list[Any]:
        last = _last_uses(graph)
        for position, n in enumerate(graph.nodes):
            made = self._node(n, values)
            for name, value in zip(n.outputs, made, strict=False):
                if name:
                    values[name] = value
            for name in last.get(position, ()):
                values.pop(name, None)
        missing = [name for name in graph.outputs if name not in values]
        if missing:
            raise GraphError(f"{self._label()}: nothing computes the output {', '.join(missing)}")
        return [values[name] for name in graph.outputs]

    def _node(self, n: Node, values: Values) -> tuple[Any, ...]:
        def body(graph: Graph, given: Mapping[str, Any]) -> list[Any]:
            return self._play(graph, {**values, **graph.constants, **given})

        opsets = self.model.opsets
        opset = opsets.get(n.domain, opsets.get(ALSO_UNDER.get(n.domain, n.domain), 1))
        try:
            inputs = [values[name] if name else None for name in n.inputs]
        except KeyError as error:
            raise GraphError(f"{n}: nothing computes its input {error.args[0]!r}") from None
        made = NODES[n.domain, n.op](Call(n, opset, body), *inputs)
        return made if isinstance(made, tuple) else (made,)

    def extra_repr(self) -> str:
        """Inputs, outputs and size of the graph."""
        graph = self.model.graph
        return f"{', '.join(self.inputs)} -> {', '.join(self.output_names)}: {len(graph.nodes)} nodes"


def _tensor(x: Any) -> Any:
    if isinstance(x, list):  # a sequence
        return [_tensor(v) for v in x]
    return x if isinstance(x, Traced) or x is None else Tensor(np.asarray(x))


def _graphs(graph: Graph) -> Iterable[Graph]:
    """The graph and those inside its nodes."""
    yield graph
    for n in graph.nodes:
        for value in n.attrs.values():
            if isinstance(value, Graph):
                yield from _graphs(value)


def _require_known(graph: Graph) -> None:
    unknown = [n for g in _graphs(graph) for n in g.nodes if (n.domain, n.op) not in NODES]
    if unknown:
        shown = "; ".join(map(str, unknown[:5])) + (f"; and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise GraphError(f"ONNX operators that are not known here: {shown}. There are {len(supported())} that are")


def _numbers(graph: Graph) -> set[str]:
    """Names of the initializers that some node needs as numbers, or that a sub-graph may need so."""
    found: set[str] = set()
    for g in _graphs(graph):
        for n in g.nodes:
            found |= {n.inputs[i] for i in KNOWN[n.domain, n.op] if i < len(n.inputs)}
    return found


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    """For each node, the values that nothing after it needs."""
    kept = set(graph.outputs) | set(graph.constants) | set(graph.inputs)
    if any(isinstance(v, Graph) for n in graph.nodes for v in n.attrs.values()):
        return {}
    last: dict[str, int] = {}
    for position, n in enumerate(graph.nodes):
        for name in (*n.inputs, *n.outputs):
            last[name] = position
    made = {name for n in graph.nodes for name in n.outputs}
    found: dict[int, list[str]] = {}
    for name, position in last.items():
        if name in made and name not in kept:
            found.setdefault(position, []).append(name)
    return found
