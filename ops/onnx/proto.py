"""ONNX files as plain data: the one module that knows the package ``onnx``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.errors import CheckpointError, ConfigError

__all__ = ["Graph", "Model", "Node", "read", "require"]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a graph.

    Attributes:
        op: its name, such as "Conv".
        domain: "" for the operators of ONNX itself.
        inputs, outputs: names of values; "" for an optional one that is left out.
        attrs: numbers, texts, lists of them, arrays, and `Graph` for the bodies of control flow.
        name: for messages.
    """

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]
    name: str

    def __str__(self) -> str:
        named = f" {self.name!r}" if self.name else ""
        return (
            f"{self.domain + '.' if self.domain else ''}{self.op}{named} -> {', '.join(o for o in self.outputs if o)}"
        )


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which they can be run.

    Attributes:
        inputs: names of the arguments, without those that have an initializer.
        shapes: of the arguments as far as the file says; None where a length is free.
        constants: arrays by name: weights, and what else is given.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """A file: its graph, and which version of each domain's operators it means."""

    graph: Graph
    opsets: Mapping[str, int]


def require() -> Any:
    """The package ``onnx``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise ConfigError(
            "ONNX files need the package onnx, which is not installed: pip install 'shoal[onnx]'"
        ) from None
    return onnx


def read(source: "str | os.PathLike[str] | bytes | Any") -> Model:
    """A model from a file, from its bytes, or from an ``onnx.ModelProto``.

    Raises:
        ConfigError: the package onnx is not installed.
        CheckpointError: the file is missing, or is no ONNX file.
    """
    onnx = require()
    if isinstance(source, (str, os.PathLike, bytes)):
        who = "the bytes given" if isinstance(source, bytes) else os.fspath(source)
        try:
            loaded = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(os.fspath(source))
        except OSError as error:
            raise CheckpointError(f"{who}: {error.strerror or error}") from None
        except Exception as error:  # protobuf has errors of its own
            raise CheckpointError(f"{who}: no ONNX model ({type(error).__name__}: {error})") from None
        if not loaded.graph.node and not loaded.graph.output:
            raise CheckpointError(f"{who}: no ONNX model (it has no graph)")
    else:
        loaded = source
    opsets = {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in loaded.opset_import}
    functions = {(f.domain, f.name): f for f in loaded.functions}
    if functions:
        loaded = onnx.inliner.inline_local_functions(loaded)
    return Model(_graph(onnx, loaded.graph), opsets)


def _graph(onnx: Any, g: Any) -> Graph:
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in g.initializer}
    constants |= {t.values.name: _dense(onnx, t) for t in g.sparse_initializer}
    inputs = tuple(i.name for i in g.input if i.name not in constants)
    shapes = {i.name: _shape(i) for i in g.input if i.type.HasField("tensor_type")}
    nodes = tuple(_node(onnx, n) for n in g.node)
    return Graph(g.name, nodes, inputs, tuple(o.name for o in g.output), constants, shapes)


def _shape(value: Any) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in dims)


def _node(onnx: Any, n: Any) -> Node:
    attrs = {a.name: _value(onnx, a) for a in n.attribute}
    domain = "" if n.domain == "ai.onnx" else n.domain
    return Node(n.op_type, domain, tuple(n.input), tuple(n.output), attrs, n.name)


def _value(onnx: Any, a: Any) -> Any:
    kinds = onnx.AttributeProto
    if a.type == kinds.GRAPH:
        return _graph(onnx, a.g)
    if a.type == kinds.TENSOR:
        return onnx.numpy_helper.to_array(a.t)
    if a.type == kinds.SPARSE_TENSOR:
        return _dense(onnx, a.sparse_tensor)
    found = onnx.helper.get_attribute_value(a)
    if isinstance(found, bytes):
        return found.decode("utf-8", "replace")
    if a.type == kinds.STRINGS:
        return tuple(s.decode("utf-8", "replace") for s in found)
    return tuple(found) if a.type in (kinds.INTS, kinds.FLOATS) else found


def _dense(onnx: Any, sparse: Any) -> np.ndarray[Any, Any]:
    values, where = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
    out = np.zeros(tuple(sparse.dims), values.dtype)
    if where.ndim == 1:
        out.reshape(-1)[where] = values
    else:
        out[tuple(where.T)] = values
    return out
