"""From a traced graph to an ONNX model: the builder, and the table of what an operator becomes.

    @writes("square")
    def square(w: Writer, c: Call, x: str) -> str:
        return w.node("Mul", x, x)

A function gets the names of the values that the operator is applied to (None for one that is left out), and returns
the name of its output, or names.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import GraphError
from shoal.ops.graph.ir import Call, Graph, Operand
from shoal.ops.graph.serialize import Saved
from shoal.ops.onnx.proto import require
from shoal.ops.registry import OPS, Spec

__all__ = ["WRITERS", "Writer", "model_of", "writes"]

Function = Callable[..., "str | Sequence[str]"]

WRITERS: dict[str, Function] = {}
"""By the operator's name."""

IR_VERSION = 10
"""Of the file; newer ones are not read by all runtimes that know the operators."""


def writes(*names: str) -> Callable[[Function], Function]:
    """Register the decorated function for these operators."""

    def register(made: Function) -> Function:
        for name in names:
            if name in WRITERS:
                raise ValueError(f"two functions write the operator {name}")
            WRITERS[name] = made
        return made

    return register


class Writer:
    """The ONNX graph that is being made.

    Attributes:
        opset: of ONNX's operators.
        nodes, constants: so far.
    """

    def __init__(self, opset: int) -> None:
        self.onnx = require()
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[Any, str] = {}
        self._count = 0
        self.specs: dict[str, Spec] = {}
        self._where = ""

    def node(self, op: str, *inputs: str | None, outputs: int = 1, **attrs: Any) -> Any:
        """Add a node; the name of its output, or a tuple of names."""
        names = [self._fresh(op) for _ in range(outputs)]
        given = [x or "" for x in inputs]
        while given and not given[-1]:
            given.pop()
        attrs = {k: v for k, v in attrs.items() if v is not None}
        self.nodes.append(self.onnx.helper.make_node(op, given, names, name=names[0], **attrs))
        return names[0] if outputs == 1 else tuple(names)

    def const(self, value: Any, dtype: Any = None) -> str:
        """The name of a constant; equal ones are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self.initializer(self._fresh("const"), array)
        return self._known[key]

    def ints(self, *values: int) -> str:
        """A vector of int64: axes, shapes."""
        return self.const(np.array(values, np.int64))

    def initializer(self, name: str, array: Any) -> str:
        """Add an array under a name."""
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def dtype(self, dtype: Any) -> int:
        """ONNX's number of a dtype."""
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def cast(self, x: str, dtype: Any) -> str:
        """As another dtype."""
        found: str = self.node("Cast", x, to=self.dtype(dtype))
        return found

    def reduce(self, op: str, x: str, axes: Sequence[int] | None, keepdims: bool) -> str:
        """A reduction; axes are an attribute before opset 18, and of sums before 13."""
        if axes is None:
            found: str = self.node(op, x, keepdims=int(keepdims))
        elif self.opset >= (13 if op == "ReduceSum" else 18):
            found = self.node(op, x, self.ints(*axes), keepdims=int(keepdims))
        else:
            found = self.node(op, x, axes=list(axes), keepdims=int(keepdims))
        return found

    def refuse(self, why: str) -> GraphError:
        """An error that names the operator."""
        return GraphError(f"{self._where} cannot be written as ONNX (opset {self.opset}): {why}")

    def _fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem.lower()}_{self._count}"

    def add(self, c: Call, inputs: Sequence[str | None], position: int) -> Sequence[str]:
        """Write one call of an operator.

        Raises:
            GraphError: it has no counterpart here.
        """
        self._where = f"operator {c.op} (call {position}, output {c.specs[0].shape} {c.specs[0].dtype})"
        if c.op not in WRITERS:
            raise self.refuse("it has no counterpart here")
        whole = Call(c.op, c.inputs, {**OPS[c.op].defaults, **c.attrs}, c.specs)
        made = WRITERS[c.op](self, whole, *inputs)
        names = (made,) if isinstance(made, str) else tuple(made)
        for name, spec in zip(names, c.specs, strict=False):
            self.specs[name] = spec
        return names


def model_of(saved: Saved, opset: int, params: dict[str, Any], free: bool, name: str) -> Any:
    """An ``onnx.ModelProto`` of a saved graph.

    Args:
        params: arrays of the inputs that are not arguments.
        free: the first axis of the arguments may have any length.
        name: of the graph.
    """
    from shoal.ops.onnx import writers

    assert writers  # imported for what it registers
    w, graph = Writer(opset), saved.graph
    names: dict[tuple[int, int], str] = {}
    arguments = []
    for position, role, given in zip(graph.inputs, saved.roles, saved.names, strict=True):
        if role == "key":
            raise GraphError(f"the model draws random numbers ({given}) in predict mode; an ONNX file cannot")
        names[position, 0] = given
        w.specs[given] = graph.calls[position].specs[0]
        if role == "data":
            arguments.append(_value(w, given, w.specs[given], free))
        else:
            w.initializer(given, params[given])
    for position, call in enumerate(graph.calls):
        if call.is_const:
            names[position, 0] = w.const(call.value)
            w.specs[names[position, 0]] = call.specs[0]
        elif call.op:
            inputs = [_operand(w, x, names, call, graph) for x in call.inputs]
            for n, made in enumerate(w.add(call, inputs, position)):
                names[position, n] = made
    results = [_result(w, _name(names, ref, graph), i, graph.spec(ref), free) for i, ref in enumerate(graph.outputs)]
    made = w.onnx.helper.make_graph(w.nodes, name, arguments, results, w.constants)
    opsets = [w.onnx.helper.make_opsetid("", opset)]
    model = w.onnx.helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="shoal")
    w.onnx.checker.check_model(model)
    return model


def _value(w: Writer, name: str, spec: Spec, free: bool) -> Any:
    shape: list[Any] = list(spec.shape)
    if free and shape:
        shape[0] = "batch"
    return w.onnx.helper.make_tensor_value_info(name, w.dtype(spec.dtype), shape)


def _result(w: Writer, name: str, i: int, spec: Spec, free: bool) -> Any:
    """Outputs get names of their own: a value may be an input, or be returned twice."""
    out = f"output_{i}" if i else "output"
    w.nodes.append(w.onnx.helper.make_node("Identity", [name], [out], name=out))
    return _value(w, out, spec, free)


def _name(names: dict[tuple[int, int], str], ref: tuple[int, int], graph: Graph) -> str:
    if ref not in names:
        op, number = graph.calls[ref[0]].op, ref[1]
        raise GraphError(
            f"operator {op} (call {ref[0]}) cannot be written as ONNX: its output {number} has no counterpart"
        )
    return names[ref]


def _operand(w: Writer, x: Operand, names: dict[tuple[int, int], str], call: Call, graph: Graph) -> str | None:
    """A scalar becomes a constant of the dtype that the other inputs have."""
    if x is None:
        return None
    if isinstance(x, tuple):
        return _name(names, x, graph)
    dtypes = [graph.spec(ref).dtype for ref in call.refs if graph.spec(ref).dtype.kind in "fiub"]
    dtype = np.result_type(x, *[np.empty(0, d) for d in dtypes]) if dtypes else np.asarray(x).dtype
    made = w.const(x, dtype)
    w.specs[made] = Spec((), np.dtype(dtype))
    return made
