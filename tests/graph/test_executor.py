"""Programs: planned memory changes no bit; arenas are used again, and never seen by callers."""

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.ops.backend import CPU
from shoal.ops.graph.executor import Program, arranged, evaluate
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.graph.kernels import Site, kernel_for, strides_of
from shoal.ops.graph.passes import optimize
from shoal.ops.graph.symbol import flatten, variable
from shoal.ops.registry import OPS, Spec

F4 = np.dtype("float32")


def leaf(name: str, *shape: int) -> Call:
    return Call("", specs=(Spec(shape, F4),), name=name)


def call(graph: list[Call], op: str, *inputs: Any, **attrs: Any) -> None:
    """Append a call; integers are positions of single-output calls."""
    refs = tuple((x, 0) if type(x) is int else x for x in inputs)
    specs = [graph[x[0]].specs[x[1]] if isinstance(x, tuple) else x for x in refs]
    inferred = OPS[op].infer(*specs, **attrs)
    graph.append(Call(op, refs, attrs, (inferred,) if isinstance(inferred, Spec) else tuple(inferred)))


def site(made: Call, specs: list[Any]) -> Site:
    strides = [strides_of(s) if isinstance(s, Spec) else None for s in (*specs, *made.specs)]
    return Site(CPU, made, tuple(specs), tuple(strides))


def chain(n: int) -> Graph:
    calls = [leaf("x", 4, 5)]
    for i in range(n):
        call(calls, "tanh" if i % 2 else "exp", i)
    return Graph(tuple(calls), (0,), ((n, 0),)).check()


def test_the_first_run_rehearses_and_the_second_is_planned() -> None:
    program = Program(chain(6), CPU)
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32") * 0.1
    first = program(x)[0]
    assert program.plan.size_bytes > 0 and program.plan.inplace == 4
    for _ in range(2):
        np.testing.assert_array_equal(program(x)[0], first)


def test_without_a_plan_there_is_no_arena() -> None:
    program = Program(chain(6), CPU, planned=False)
    x = np.zeros((4, 5), dtype="float32")
    program(x)
    assert program.plan.size_bytes == 0


def test_an_arena_is_used_again_and_outputs_do_not_lie_in_it() -> None:
    program = Program(chain(4), CPU)
    x = np.ones((4, 5), dtype="float32") * 0.1
    program(x)
    outputs = [program(x)[0] for _ in range(3)]
    (arena,) = program._code.pool
    assert not any(np.may_share_memory(o, arena.memory) for o in outputs)
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(outputs) for b in outputs[:i])


def test_runs_that_are_alive_have_arenas_of_their_own() -> None:
    program = Program(chain(4), CPU)
    program(np.zeros((4, 5), dtype="float32"))
    runs = [program.start() for _ in range(3)]
    assert len({id(r._arena) for r in runs}) == 3
    runs.clear()
    gc.collect()
    assert len(program._code.pool) == 3


def test_arenas_start_at_a_cache_line() -> None:
    program = Program(chain(4), CPU)
    program(np.zeros((4, 5), dtype="float32"))
    values = program.start()._values
    planned = [values[program._code.slots[ref]] for ref in program.plan.offsets]
    assert planned and all(v.ctypes.data % 64 == 0 for v in planned)


def test_planned_values_keep_the_memory_order_of_the_rehearsal() -> None:
    calls = [leaf("x", 2, 3, 4, 5)]
    call(calls, "exp", 0)
    call(calls, "tanh", 1)
    program = Program(Graph(tuple(calls), (0,), ((2, 0),)), CPU)
    last = np.zeros((2, 4, 5, 3), dtype="float32").transpose(0, 3, 1, 2)  # channels-last memory
    first = program(last)[0]
    again = program(last)[0]
    assert first.strides == again.strides == last.strides
    inner = program.start()._values[program._code.slots[1, 0]]
    assert inner.strides == last.strides


def test_another_memory_order_than_in_the_rehearsal_is_fine() -> None:
    program = Program(chain(5), CPU)
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32") * 0.1
    expected = program(x)[0]
    np.testing.assert_array_equal(program(np.asfortranarray(x))[0], expected)
    np.testing.assert_array_equal(program(np.repeat(x, 2, axis=1)[:, ::2])[0], expected)


def test_constants_that_are_outputs_are_copied() -> None:
    constant = np.ones(3, dtype="float32")
    calls = [Call("", specs=(Spec((3,), F4),), value=constant)]
    call(calls, "reshape", 0, shape=(3, 1))
    program = Program(Graph(tuple(calls), (), ((0, 0), (1, 0))), CPU)
    for out in program():
        out[...] = 7.0
    assert constant.tolist() == [1, 1, 1]


def test_an_output_that_views_an_inner_value_is_not_overwritten_by_the_next_run() -> None:
    calls = [leaf("x", 2, 3)]
    call(calls, "exp", 0)
    call(calls, "transpose", 1)
    program = Program(Graph(tuple(calls), (0,), ((2, 0),)), CPU)
    program(np.zeros((2, 3), dtype="float32"))
    kept = program(np.zeros((2, 3), dtype="float32"))[0]
    program(np.ones((2, 3), dtype="float32"))
    assert kept.tolist() == [[1.0, 1.0]] * 3


def test_the_forward_part_comes_first_and_late_inputs_with_the_backward_part() -> None:
    calls = [leaf("g", 2), leaf("x", 2)]
    call(calls, "multiply", 0, 1)
    call(calls, "exp", 1)
    graph, split = arranged(Graph(tuple(calls), (1, 0), ((3, 0), (2, 0))), forward=1, late=1)
    assert [c.name or c.op for c in graph.check().calls] == ["x", "exp", "g", "multiply"]
    assert split == 2 and graph.inputs == (0, 2)


def test_a_backward_part_can_be_run_many_times() -> None:
    calls = [leaf("x", 3), leaf("g", 3)]
    call(calls, "exp", 0)
    call(calls, "tanh", 2)
    call(calls, "multiply", 1, 2)
    call(calls, "tanh", 4)
    call(calls, "multiply", 5, 2)
    program = Program(Graph(tuple(calls), (0, 1), ((3, 0), (6, 0))), CPU, forward=1, late=1)
    x = np.array([0.1, 0.2, 0.3], dtype="float32")
    for _ in range(3):
        run = program.start()
        run.forward([x])
        found = [run.backward([np.full(3, g, dtype="float32")])[0].copy() for g in (1.0, 2.0, 1.0)]
        np.testing.assert_array_equal(found[0], np.tanh(np.exp(x)) * np.exp(x))
        np.testing.assert_array_equal(found[0], found[2])


def test_values_are_dropped_as_soon_as_nothing_needs_them() -> None:
    calls = [leaf("x", 4, 4)]
    call(calls, "cumsum", 0, axis=0)  # allocates: it has no kernel that writes where it is told
    call(calls, "cumsum", 1, axis=0)
    call(calls, "cumsum", 2, axis=0)
    program = Program(Graph(tuple(calls), (0,), ((3, 0),)), CPU)
    run = program.start()
    run.forward([np.ones((4, 4), dtype="float32")])
    slots = program._code.slots
    assert run._values[slots[1, 0]] is None and run._values[slots[2, 0]] is None


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("matmul", [(3, 4), (4, 5)], {}),
        ("matmul", [(2, 3, 4), (4, 5)], {}),
        ("fully_connected", [(3, 4), (5, 4), (5,)], {}),
        ("fully_connected", [(3, 2, 2), (5, 4), (5,)], {}),
        ("fully_connected", [(3, 2, 4), (5, 4), None], {"flatten": False}),
        ("relu", [(3, 4)], {}),
        ("clip", [(3, 4)], {"a_min": -0.1, "a_max": None}),
        ("maximum", [(3, 4), (4,)], {}),
        ("add", [(3, 4), 2.0], {}),
    ],
)
def test_a_kernel_writes_the_bits_of_the_operator(op: str, inputs: list[Any], attrs: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(x).astype("float32") if isinstance(x, tuple) else x for x in inputs]
    specs = [Spec(x.shape, x.dtype) if isinstance(x, np.ndarray) else x for x in arrays]
    expected = OPS[op].forward(CPU, *arrays, **attrs)
    kernel = kernel_for(site(Call(op, (), attrs, (Spec(expected.shape, expected.dtype),)), specs))
    assert callable(kernel)
    out = np.full_like(expected, 99)
    kernel(*arrays, out)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "int64"])
def test_products_that_blas_lacks_have_no_kernel(dtype: str) -> None:
    spec = Spec((2, 2), np.dtype(dtype))
    assert kernel_for(site(Call("matmul", (), {}, (spec,)), [spec, spec])) is None


@st.composite
def programs(draw: st.DrawFn) -> Graph:
    calls = [leaf("x", 3, 4), leaf("y", 3, 4)]
    for _ in range(draw(st.integers(1, 25))):
        square = [i for i, c in enumerate(calls) if c.specs[0].shape == (3, 4)]
        a, b = draw(st.sampled_from(square)), draw(st.sampled_from(square))
        kind = draw(st.sampled_from(["tanh", "add", "multiply", "sub1", "view", "where", "sum", "relu", "product"]))
        if kind in ("tanh", "relu"):
            call(calls, kind, a)
        elif kind in ("add", "multiply"):
            call(calls, kind, a, b)
        elif kind == "sub1":
            call(calls, "subtract", a, 1.0)
        elif kind == "view":
            call(calls, "transpose", a)
            call(calls, "tanh", len(calls) - 1)
            call(calls, "transpose", len(calls) - 1)
        elif kind == "where":
            call(calls, "greater", a, b)
            call(calls, "where", len(calls) - 1, a, b)
        elif kind == "sum":
            call(calls, "sum", a, axis=0, keepdims=True)
            call(calls, "multiply", len(calls) - 1, b)
        else:
            call(calls, "transpose", a)
            call(calls, "matmul", len(calls) - 1, b)
            call(calls, "tanh", len(calls) - 1)
            call(calls, "matmul", b, len(calls) - 1)
    outputs = draw(st.lists(st.integers(0, len(calls) - 1), min_size=1, max_size=4))
    return Graph(tuple(calls), (0, 1), tuple((o, 0) for o in outputs)).check()


@given(programs(), st.integers(0, 4))
@settings(max_examples=150)
def test_planned_optimized_and_split_programs_give_the_bits_of_plain_ones(graph: Graph, forward: int) -> None:
    rng = np.random.default_rng(0)
    x, y = (np.round(rng.standard_normal((3, 4)), 2).astype("float32") * 0.3 for _ in range(2))
    with np.errstate(all="ignore"):
        expected = [out.copy() for out in Program(graph, CPU, planned=False)(x, y)]
        fast = optimize(graph, lambda c, values: evaluate(CPU, c, values))
        program = Program(fast, CPU, forward=min(forward, len(graph.outputs)))
        for _ in range(3):
            run = program.start()
            found = run.forward([x, y]) + run.backward([]) + run.backward([])
            for a, b in zip(found, [*expected, *expected[program.forward :]], strict=True):
                assert a.shape == b.shape and a.tobytes() == b.tobytes()


def test_a_symbolic_expression_runs_as_a_program() -> None:
    x = variable("x", Spec((2,), F4))
    graph, _ = flatten([(x * 2.0).exp().sum()], [x])
    assert Program(graph, CPU)(np.zeros(2, dtype="float32"))[0] == 2.0
