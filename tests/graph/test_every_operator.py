"""For every operator: a graph infers its shapes, computes its bits, gradients included, and survives JSON."""

from typing import Any

import numpy as np
import pytest

import shoal.np
import shoal.npx
from shoal.ops import autograd
from shoal.ops.backend import CPU
from shoal.ops.graph import serialize
from shoal.ops.graph.compiled import Compiled
from shoal.ops.graph.executor import Program, evaluate
from shoal.ops.graph.passes import optimize
from shoal.ops.graph.symbol import Symbol, flatten, variable
from shoal.ops.registry import OPS, Spec
from shoal.ops.tensor import Tensor
from tests.ops.cases import CASES, NO_GRADIENT, Case

assert shoal.np and shoal.npx  # imported for the operators that they register

ALL = [pytest.param(name, c, id=f"{name}-{i}") for name, cases in CASES.items() for i, c in enumerate(cases)]


def made(name: str, c: Case, dtype: Any) -> list[Any]:
    return c.make(name, dtype)


def tuple_of(out: Any) -> tuple[Any, ...]:
    return out if isinstance(out, tuple) else (out,)


def symbols(inputs: list[Any]) -> tuple[list[Any], list[Symbol], list[Any]]:
    """(arguments, the symbols among them, the arrays they stand for)."""
    arrays = [x for x in inputs if isinstance(x, np.ndarray)]
    fresh = [variable(f"x{i}", Spec(x.shape, x.dtype)) for i, x in enumerate(arrays)]
    given = iter(fresh)
    return [next(given) if isinstance(x, np.ndarray) else x for x in inputs], fresh, arrays


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "c"), ALL)
def test_a_graph_has_the_inferred_shapes_and_the_same_bits_in_every_run(name: str, c: Case, dtype: Any) -> None:
    inputs = made(name, c, dtype)
    arguments, fresh, arrays = symbols(inputs)
    expected = tuple_of(OPS[name].forward(CPU, *OPS[name].bind(inputs, c.attrs)[0], **c.attrs))
    out = tuple_of(OPS[name](*arguments, **c.attrs))
    assert [(s.shape, s.dtype) for s in out] == [(x.shape, x.dtype) for x in expected]
    doubled = [s + s if s.dtype.kind == "f" else s for s in out]  # so that the operator's own output can be planned
    graph, _ = flatten(doubled, fresh)
    program = Program(optimize(graph, lambda call, values: evaluate(CPU, call, values)), CPU)
    for _ in range(3):
        for found, e in zip(program(*arrays), expected, strict=True):
            assert same_bits(found, e + e if e.dtype.kind == "f" else e)


@pytest.mark.parametrize(("name", "c"), [p for p in ALL if p.values[0] not in NO_GRADIENT])
def test_the_gradient_graph_gives_the_bits_of_the_tape(name: str, c: Case) -> None:
    def project(*tensors: Any) -> Any:
        given = iter(tensors)
        out = OPS[name](*(next(given) if isinstance(x, np.ndarray) else x for x in inputs), **c.attrs)
        outs = [o for o in tuple_of(out) if o.dtype.kind in "fc"]
        outs = [OPS["real"](o * o + o) if o.dtype.kind == "c" else o for o in outs]
        parts = [(o * o).sum() + o.sum() for o in outs]
        return sum(parts[1:], start=parts[0])

    inputs = made(name, c, np.float32)
    compiled = Compiled(project, name, passes="-fuse")
    results = []
    for fn in (project, compiled, compiled, compiled):
        tensors = [Tensor(x.copy()) for x in inputs if isinstance(x, np.ndarray)]
        wanted = [t for t in tensors if t.dtype.kind in "fc"]
        for t in wanted:
            t.attach_grad()
        with autograd.record():
            total = fn(*tensors)
        if total.node is not None:
            total.backward()
        results.append([total.asnumpy(), *(t.grad.asnumpy() for t in wanted if t.grad is not None)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize(("name", "c"), ALL)
def test_a_call_survives_json(name: str, c: Case) -> None:
    arguments, fresh, _ = symbols(made(name, c, np.float32))
    graph, _ = flatten(tuple_of(OPS[name](*arguments, **c.attrs)), fresh)
    saved = serialize.Saved(graph, ("data",) * len(graph.inputs))
    again = serialize.from_json(serialize.to_json(saved))
    assert again.names == saved.names
    for a, b in zip(again.graph.calls, graph.calls, strict=True):
        assert (a.op, a.inputs, a.attrs, a.specs) == (b.op, b.inputs, b.attrs, b.specs)


@pytest.mark.parametrize(("name", "c"), ALL)
def test_an_operator_that_is_no_view_gives_memory_of_its_own(name: str, c: Case) -> None:
    inputs = made(name, c, np.float32)
    out = tuple_of(OPS[name].forward(CPU, *OPS[name].bind(inputs, c.attrs)[0], **c.attrs))
    if not OPS[name].view:
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        assert not any(np.may_share_memory(o, x) for o in out for x in arrays)
