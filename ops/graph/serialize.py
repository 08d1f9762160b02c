"""A graph as JSON, and back. Reading one checks everything and executes nothing.

The format, version 1:

    {"format": "shoal-symbol", "version": 1,
     "nodes": [{"name": "data", "role": "data", "shape": [2, 3], "dtype": "float32"},
               {"constant": [0.5], "shape": [1], "dtype": "float32"},
               {"op": "multiply", "inputs": [[0, 0], [1, 0]], "attrs": {}, "outputs": [{"shape": ..., "dtype": ...}]}],
     "inputs": [0], "outputs": [[2, 0]]}

An input's role is "data" (an argument), "param" (learned), "aux" (kept, not learned) or "key" (a fresh random key at
each run). An operand is [node, output], or {"scalar": number or null}. Numbers that JSON lacks are the text "inf",
"-inf" or "nan".
"""

import json
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import CheckpointError, GraphError, ShoalError
from shoal.ops.graph.ir import Call, Graph, Operand
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import OPS, Spec

__all__ = ["FORMAT", "ROLES", "VERSION", "Saved", "from_json", "read", "to_json", "write"]

FORMAT = "shoal-symbol"
VERSION = 1
ROLES = ("data", "param", "aux", "key")
KINDS = "biufc"
"""Kinds of dtype that a saved graph may name: bool, integers, floats, complex."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A graph and the role of each of its inputs."""

    graph: Graph
    roles: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(self.graph.calls[p].name for p in self.graph.inputs)


def to_json(saved: Saved) -> str:
    """``saved`` as text."""
    graph, role = saved.graph, dict(zip(saved.graph.inputs, saved.roles, strict=True))
    nodes = [_node(call, role.get(i, "")) for i, call in enumerate(graph.calls)]
    head = {"format": FORMAT, "version": VERSION}
    body = {"nodes": nodes, "inputs": list(graph.inputs), "outputs": [list(ref) for ref in graph.outputs]}
    return json.dumps({**head, **body}, indent=1, allow_nan=False)


def from_json(text: str, where: str = "the text") -> Saved:
    """Read what `to_json` wrote.

    Args:
        where: what messages call the place it came from.
    Raises:
        GraphError: not JSON, another format or version, an unknown operator or attribute, a reference to a later
        node, or
            shapes that the operators do not agree with; says which node.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{where} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise GraphError(f"{where} is not a saved symbol: its format is not {FORMAT!r}")
    if data.get("version") != VERSION:
        raise GraphError(
            f"{where} has version {data.get('version')!r} of the symbol format; this shoal reads {VERSION}"
        )
    reader = _Reader(where)
    for node in _list(where, data, "nodes"):
        reader.node(node)
    return reader.finish(_list(where, data, "inputs"), _list(where, data, "outputs"))


def write(path: str | os.PathLike[str], saved: Saved) -> None:
    """Write ``saved`` to a file, which is replaced in one step.

    Raises:
        CheckpointError: the disk refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(to_json(saved), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"cannot save a symbol to {str(path)!r}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> Saved:
    """Read what `write` wrote.

    Raises:
        CheckpointError: there is no such file.
        GraphError: it is not a valid graph; see `from_json`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"cannot read a symbol from {os.fspath(path)!r}: {error}") from error
    except UnicodeDecodeError as error:
        raise GraphError(f"{os.fspath(path)!r} is not JSON: {error}") from None
    return from_json(text, repr(os.fspath(path)))


def _node(call: Call, role: str) -> dict[str, Any]:
    if call.op:
        return {
            "op": call.op,
            "inputs": [list(x) if isinstance(x, tuple) else {"scalar": _number(x)} for x in call.inputs],
            "attrs": {k: _attr(v) for k, v in call.attrs.items()},
            "outputs": [_spec(spec) for spec in call.specs],
        }
    if call.is_const:
        array = np.asarray(getattr(call.value, "get", lambda: call.value)())
        return {"constant": [_number(x) for x in array.ravel().tolist()], **_spec(call.specs[0])}
    return {"name": call.name, "role": role, **_spec(call.specs[0])}


def _spec(spec: Spec) -> dict[str, Any]:
    return {"shape": list(spec.shape), "dtype": spec.dtype.name}


def _number(x: Any) -> Any:
    """A number as JSON has it."""
    if isinstance(x, complex):
        return {"real": _number(x.real), "imag": _number(x.imag)}
    if isinstance(x, float) and not math.isfinite(x):
        return repr(x)
    return x


def _attr(x: Any) -> Any:
    if isinstance(x, tuple):
        return {"tuple": [_attr(v) for v in x]}
    if isinstance(x, float) and not math.isfinite(x):
        return {"float": repr(x)}
    if isinstance(x, complex):
        return {"real": _number(x.real), "imag": _number(x.imag)}
    return x


def _list(where: str, data: dict[str, Any], key: str) -> list[Any]:
    found = data.get(key)
    if not isinstance(found, list):
        raise GraphError(f"{where}: {key!r} must be a list, got {type(found).__name__}")
    return found


class _Reader:
    """Checks node after node; keeps what was read."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.calls: list[Call] = []
        self.roles: dict[int, str] = {}

    def node(self, node: Any) -> None:
        self._require(isinstance(node, dict), "a node must be an object")
        if "op" in node:
            self.calls.append(self._call(node))
        elif "constant" in node:
            self.calls.append(self._constant(node))
        else:
            name, role = node.get("name"), node.get("role")
            self._require(isinstance(name, str) and name != "", "an input needs a name")
            self._require(role in ROLES, f"the role of an input must be one of {ROLES}, got {role!r}")
            self.roles[len(self.calls)] = str(role)
            self.calls.append(Call("", specs=(self._spec(node),), name=str(name)))

    def finish(self, inputs: list[Any], outputs: list[Any]) -> Saved:
        for ref in outputs:
            self._require(_is_ref(ref), f"an output must be [node, output], got {ref!r}")
        self._require(all(isinstance(i, int) for i in inputs), "'inputs' must be numbers of nodes")
        graph = Graph(tuple(self.calls), tuple(inputs), tuple((p, n) for p, n in outputs))
        try:
            graph.check()
        except GraphError as error:
            raise GraphError(f"{self.where}: {error}") from None
        return Saved(graph, tuple(self.roles[p] for p in graph.inputs))

    def _call(self, node: dict[str, Any]) -> Call:
        name = node["op"]
        self._require(isinstance(name, str) and name in OPS, f"operator {name!r} is not known to this shoal")
        op = OPS[name]
        attrs = node.get("attrs", {})
        self._require(isinstance(attrs, dict), "'attrs' must be an object")
        unknown = sorted(set(attrs) - set(op.attrs))
        self._require(not unknown, f"operator {name!r} has no attribute {', '.join(unknown)}")
        values = {k: self._attr(v) for k, v in attrs.items()}
        inputs = tuple(self._operand(x) for x in _list(self._here(), node, "inputs"))
        claimed = tuple(self._spec(o) for o in _list(self._here(), node, "outputs"))
        specs = [self.calls[x[0]].specs[x[1]] if isinstance(x, tuple) else x for x in inputs]
        try:
            inferred = op.infer(*specs, **values)
        except (ShoalError, TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError) as error:
            raise GraphError(
                f"{self._here()}: operator {name!r} does not accept its inputs or attributes: {error}"
            ) from None
        found = (inferred,) if isinstance(inferred, Spec) else tuple(inferred)
        self._require(found == claimed, f"operator {name!r} gives {_show(found)}, but the file says {_show(claimed)}")
        return Call(name, inputs, values, found)

    def _constant(self, node: dict[str, Any]) -> Call:
        spec, values = self._spec(node), node["constant"]
        self._require(
            isinstance(values, list) and len(values) == math.prod(spec.shape),
            f"a constant of shape {spec.shape} needs {math.prod(spec.shape)} numbers",
        )
        try:
            array = np.array([self._number(x) for x in values], dtype=spec.dtype).reshape(spec.shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise GraphError(f"{self._here()}: not a constant of {spec.dtype}: {error}") from None
        return Call("", specs=(spec,), value=array)

    def _operand(self, x: Any) -> Operand:
        if isinstance(x, dict) and set(x) == {"scalar"}:
            return None if x["scalar"] is None else self._number(x["scalar"])
        self._require(_is_ref(x), f"an operand must be [node, output] or a scalar, got {x!r}")
        position, output = x
        self._require(0 <= position < len(self.calls), f"operand {x} is not an earlier node")
        self._require(0 <= output < len(self.calls[position].specs), f"operand {x} does not exist")
        return position, output

    def _number(self, x: Any) -> Any:
        if isinstance(x, dict) and set(x) == {"real", "imag"}:
            return complex(self._number(x["real"]), self._number(x["imag"]))
        if x in ("inf", "-inf", "nan"):
            return float(x)
        self._require(isinstance(x, (bool, int, float)), f"expected a number, got {x!r}")
        return x

    def _attr(self, x: Any) -> Any:
        if isinstance(x, dict):
            if set(x) == {"tuple"} and isinstance(x["tuple"], list):
                return tuple(self._attr(v) for v in x["tuple"])
            return self._number(x["float"] if set(x) == {"float"} else x)
        self._require(x is None or isinstance(x, (bool, int, float, str)), f"an attribute cannot be {x!r}")
        return x

    def _spec(self, node: Any) -> Spec:
        self._require(isinstance(node, dict), "an output must be an object with shape and dtype")
        shape, name = node.get("shape"), node.get("dtype")
        good = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**48 for n in shape) and len(shape) <= 32
        self._require(good, f"a shape must be a list of lengths, got {shape!r}")
        try:
            dtype = np.dtype(name) if isinstance(name, str) else None
        except TypeError:
            dtype = None
        self._require(
            dtype is not None and (dtype.kind in KINDS or dtype == BFLOAT16), f"{name!r} is not a dtype of numbers"
        )
        assert dtype is not None and isinstance(shape, list)
        return Spec(tuple(shape), dtype)

    def _here(self) -> str:
        return f"{self.where}, node {len(self.calls)}"

    def _require(self, good: bool, problem: str) -> None:
        if not good:
            raise GraphError(f"{self._here()}: {problem}")


def _is_ref(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 2 and all(type(i) is int for i in x)


def _show(specs: Sequence[Spec]) -> str:
    return ", ".join(f"{s.shape} {s.dtype}" for s in specs)
