"""Graphs within graphs: the body of a loop or the branch of a choice, as text that is an attribute of the call.

A body has only what depends on its own variables; everything else that it uses (parameters, what was computed before,
constants, whatever does not change from step to step) becomes an input of the call. The text has no use for the shapes
in it: `body` fits it to those of the arrays it is given, and keeps the result.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from shoal.errors import GraphError
from shoal.ops import random
from shoal.ops.graph import serialize, trace
from shoal.ops.graph.executor import Program, evaluate
from shoal.ops.graph.gradient import depending, gradients
from shoal.ops.graph.ir import Call, Graph, Ref
from shoal.ops.graph.passes import optimize
from shoal.ops.graph.symbol import Node, Symbol, flatten, nodes_of, replay, variable
from shoal.ops.precision import is_float
from shoal.ops.registry import OPS, Spec

__all__ = ["STEP", "Body", "body", "free_symbols", "inside", "text_of"]

STEP = Spec((), np.dtype(np.int64))
"""The first input of every body: the number of the step, from 0."""


class Body:
    """A body for inputs of certain shapes and dtypes.

    Attributes:
        inputs, outputs: symbols.
        specs: of the outputs.
    """

    def __init__(self, text: str, specs: tuple[Spec, ...]) -> None:
        self.inputs = [variable(f"in{i}", spec) for i, spec in enumerate(specs)]
        self.outputs = replay(_parsed(text), self.inputs, apply)
        self.specs = tuple(s.spec for s in self.outputs)
        self._forward: dict[Any, Program] = {}
        self._joint: dict[Any, Joint] = {}

    def program(self, xp: Any) -> Program:
        """The forward part for arrays of a namespace."""
        if xp not in self._forward:
            graph, _ = flatten(self.outputs, self.inputs)
            self._forward[xp] = Program(_optimized(graph, xp), xp, planned=False)
        return self._forward[xp]

    def joint(self, xp: Any, wants: tuple[bool, ...]) -> "Joint":
        """Forward and gradient for the inputs that are wanted."""
        if (xp, wants) not in self._joint:
            self._joint[xp, wants] = Joint(self, xp, wants)
        return self._joint[xp, wants]


class Joint:
    """The forward and backward part of a body.

    Args:
        wants: for each input, whether its gradient is wanted.
    """

    def __init__(self, body: Body, xp: Any, wants: tuple[bool, ...]) -> None:
        wrt = [s for s, want in zip(body.inputs, wants, strict=True) if want]
        followed = depending(body.outputs, wrt)
        self.heads = [
            variable(f"grad{i}", s.spec) if yes and is_float(s.dtype) else None
            for i, (s, yes) in enumerate(zip(body.outputs, followed, strict=True))
        ]
        found = gradients(body.outputs, self.heads, wrt)
        self.there = [g is not None for g in found]
        late = [h for h in self.heads if h is not None]
        graph, _ = flatten([*body.outputs, *(g for g in found if g is not None)], [*body.inputs, *late])
        self.program = Program(_optimized(graph, xp), xp, forward=len(body.outputs), late=len(late), planned=False)

    def backward(self, run: Any, cotangents: Sequence[Any]) -> Iterator[Any]:
        """For each wanted input its gradient, or None; from one cotangent per output (of integers it is ignored)."""
        given = [c for c, head in zip(cotangents, self.heads, strict=True) if head is not None]
        grads = iter(run.backward(given))
        return (next(grads) if there else None for there in self.there)


def apply(name: str, inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    """One call of a body, on Tensors or Symbols."""
    return OPS[name](*inputs, **attrs)


def _optimized(graph: Graph, xp: Any) -> Graph:
    return optimize(graph, lambda call, arrays: evaluate(xp, call, arrays))


@lru_cache(maxsize=256)
def _parsed(text: str) -> Graph:
    return serialize.from_json(text, "the body of a loop or branch").graph


@lru_cache(maxsize=256)
def body(text: str, specs: tuple[Spec, ...]) -> Body:
    """The body for inputs of these shapes and dtypes; the first is `STEP`.

    Raises:
        GraphError: the text is damaged.
        ShapeError, DTypeError: an operator in it does not take such inputs.
    """
    return Body(text, specs)


def unrolled(text: str, values: Sequence[Any]) -> list[Any]:
    """The outputs of a body in operators, on Tensors or Symbols."""
    return replay(_parsed(text), values, apply)


# -- tracing


class _BodyTracer(trace.Tracer):
    """Active while a body is traced: reads go to the tracer around it, random keys differ from step to step."""

    def __init__(self, around: trace.Tracer, step: Symbol, what: str) -> None:
        super().__init__()
        self._around, self._step, self._what = around, step, what

    def read(self, source: trace.Source) -> Symbol:
        """As the tracer around this."""
        return self._around.read(source)

    def capture(self, tensor: Any) -> Symbol:
        """As the tracer around this."""
        return self._around.capture(tensor)

    def write(self, source: trace.Source, value: Symbol) -> None:
        """Nothing can be written from within.

        Raises:
            GraphError: always.
        """
        raise GraphError(
            f"{self._what}: its body writes to {source.name!r}, which a loop or branch in a graph cannot. Return the "
            "new value as a state, or do not hybridize this block."
        )

    def random_key(self, purpose: str) -> Symbol:
        """A key of the tracer around this, and of the step."""
        key = self._around.random_key(purpose)
        return OPS["key_at"](key, self._step)  # type: ignore[no-any-return]  # operators return Any


@contextmanager
def inside(step: Symbol, what: str) -> Iterator[None]:
    """Within this context the body of a loop or a branch is traced."""
    tracer = _BodyTracer(trace.active() or trace.Tracer(), step, what)
    with tracer, trace.mode(recording=False), random.keys_from(tracer.random_key):
        yield


def _inner(outputs: Sequence[Symbol], variables: Sequence[Symbol], whole: bool) -> list[Node]:
    """The nodes that depend on the variables (or, ``whole``, all made since the variables), in order of creation."""
    known = {v.node.serial for v in variables}
    found = []
    for node in nodes_of(outputs):
        made = whole and node.op is not None and node.serial > min(known)
        if made or any(isinstance(x, Symbol) and x.node.serial in known for x in node.inputs):
            known.add(node.serial)
            found.append(node)
    return found


def _place(s: Symbol) -> tuple[int, int]:
    return s.node.serial, s.index


def free_symbols(outputs: Sequence[Symbol], variables: Sequence[Symbol], whole: bool = False) -> list[Symbol]:
    """What ``outputs`` use that does not depend on ``variables``, each once.

    Args:
        whole: all that was made since the variables belongs to the body, not only what depends on them.
    """
    nodes = _inner(outputs, variables, whole)
    own = {v.node.serial for v in variables} | {node.serial for node in nodes}
    used = [x for node in nodes for x in node.inputs if isinstance(x, Symbol)]
    return list({_place(x): x for x in [*used, *outputs] if x.node.serial not in own}.values())


def text_of(outputs: Sequence[Symbol], variables: Sequence[Symbol], free: Sequence[Symbol], whole: bool = False) -> str:
    """The body that computes ``outputs`` from ``variables``, of which the first is the step, and ``free``."""
    given = [*variables, *free]
    calls = [Call("", specs=(s.spec,), name=f"in{i}") for i, s in enumerate(given)]
    at: dict[tuple[int, int], Ref] = {_place(s): (i, 0) for i, s in enumerate(given)}
    for node in _inner(outputs, variables, whole):
        assert node.op is not None
        operands = tuple(at[_place(x)] if isinstance(x, Symbol) else x for x in node.inputs)
        at.update({(node.serial, n): (len(calls), n) for n in range(len(node.specs))})
        calls.append(Call(node.op.name, operands, node.attrs, node.specs))
    graph = Graph(tuple(calls), tuple(range(len(given))), tuple(at[_place(s)] for s in outputs))
    return serialize.to_json(serialize.Saved(graph, ("data",) * len(given)))
