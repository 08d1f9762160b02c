"""Fusion: groups are those that can be one loop, and their kernels give NumPy's numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal.np
import shoal.npx
from shoal.errors import GraphError
from shoal.ops import activation, elementwise
from shoal.ops.backend import CPU
from shoal.ops.gpu import codegen
from shoal.ops.graph import bind, loops
from shoal.ops.graph.executor import Program
from shoal.ops.graph.expression import CUDA, C, Printer, Unprintable, Value, printable
from shoal.ops.graph.fuse import fuse
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.graph.kernels import Site, Source, strides_of
from shoal.ops.graph.symbol import flatten, variable
from shoal.ops.native import compiler
from shoal.ops.registry import OPS, Spec

assert shoal.np and shoal.npx

F4, F8 = np.dtype("float32"), np.dtype("float64")
needs_compiler = pytest.mark.skipif(bool(compiler.why_not()), reason="no C compiler")


def able(name: str, specs: Sequence[Any], attrs: dict[str, Any]) -> bool:
    return printable(C, name, specs, attrs)


def all_fused(graph: Graph, forward: int | None = None) -> Graph:
    return fuse(graph, able, forward=forward, worth_us=-1e9).check()


def ops_of(graph: Graph) -> list[str]:
    return [c.op for _, c in graph.operators()]


BIG = (64, 512)


def big(name: str = "x", shape: tuple[int, ...] = BIG) -> Any:
    return variable(name, Spec(shape, F4))


def test_a_chain_becomes_one_call() -> None:
    x = big()
    graph, _ = flatten([((x * 2.0 + 1.0) * x).exp()], [x])
    assert ops_of(all_fused(graph)) == ["fused"]


def test_values_that_others_need_are_results() -> None:
    x = big()
    a = x * 2.0
    b = a + 1.0
    graph, _ = flatten([b, a], [x])
    (call,) = [c for _, c in all_fused(graph).operators()]
    assert call.attrs["results"] == (0, 1) and len(call.specs) == 2


def test_what_leads_out_and_back_divides_a_group() -> None:
    x = big()
    a = x * 2.0
    s = (a + 1.0) * (a + 1.0).sum()  # the sum needs what is before it to be complete
    graph, _ = flatten([s * a + 1.0], [x])
    assert ops_of(all_fused(graph)) == ["fused", "sum", "fused"]


def test_forward_and_backward_parts_stay_apart() -> None:
    x, g = big(), big("g")
    y = x * 2.0 + 1.0
    graph, _ = flatten([y, y * g * 3.0], [x, g])
    assert ops_of(all_fused(graph, forward=1)) == ["fused", "fused"]
    assert ops_of(all_fused(graph)) == ["fused"]


def test_a_bias_is_an_operand_of_the_loop_and_spreading_is_free() -> None:
    x, b = big(), big("b", (512,))
    spread = OPS["broadcast_to"](b, shape=BIG)
    graph, _ = flatten([(x + b) * spread], [x, b])
    assert ops_of(all_fused(graph)) == ["fused"]


def test_what_has_no_text_is_left_alone() -> None:
    x = big()
    graph, _ = flatten([(OPS["sin"](x * 2.0 + 1.0) * 2.0 + 1.0)], [x])
    assert ops_of(all_fused(graph)) == ["fused", "sin", "fused"]


def test_what_is_known_early_joins_the_only_loop_that_uses_it() -> None:
    x, y = big(), big("y")
    mask = y > 0.0
    late = OPS["sin"](OPS["sin"](x * 2.0 + 1.0) * 2.0 + 1.0)
    graph, _ = flatten([late * mask + 1.0], [x, y])
    assert ops_of(all_fused(graph)) == ["fused", "sin", "fused", "sin", "fused"]
    graph, _ = flatten([late * mask + 1.0, mask], [x, y])  # an output as well: it stays where it is
    assert ops_of(all_fused(graph)).count("greater") == 1


def test_a_graph_that_gains_little_is_not_compiled() -> None:
    x = big("x", (2, 2))
    graph, _ = flatten([(x * 2.0 + 1.0).exp()], [x])
    assert fuse(graph, able) is graph


@needs_compiler
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_loops_follow_the_memory_of_the_results(order: tuple[int, ...]) -> None:
    shape = (4, 6, 9, 7)
    x, scale = variable("x", Spec(shape, F4)), variable("s", Spec((1, 6, 1, 1), F4))
    graph, _ = flatten([activation.relu(x * scale + 0.5) - x], [x, scale])
    program = Program(all_fused(graph), CPU)
    rng = np.random.default_rng(0)
    lying = rng.standard_normal([shape[a] for a in order]).astype("float32")
    data = lying.transpose([order.index(a) for a in range(4)])
    s = rng.standard_normal((1, 6, 1, 1)).astype("float32")
    first = program(data, s)[0]
    assert isinstance(next(iter(program._code.kernels.values())), Source)
    for _ in range(2):
        again = program(data, s)[0]
        np.testing.assert_array_equal(again, first)
        assert again.strides == first.strides


EXACT = [
    "add",
    "subtract",
    "multiply",
    "divide",
    "negative",
    "reciprocal",
    "abs",
    "square",
    "sqrt",
    "maximum",
    "minimum",
    "rint",
    "floor",
    "relu",
    "where",
]


def sites() -> list[tuple[str, list[Any], dict[str, Any], Any, int]]:
    """(name, inputs, attributes, result, units of the last place allowed) of every operator that C can say."""
    rng = np.random.default_rng(1)
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, -3e38, 88.0, -88.0, 0.5], "float32")
    found = []
    for name, op in sorted(OPS.items()):
        count = len([a for a in op.arrays if not a.startswith("*")])
        if not op.elementwise or not count or name == "fused":
            continue
        for dtype in (F4, F8, np.dtype(bool), np.dtype("int64")):
            attrs = {"dtype": "float32"} if name == "astype" else {}
            if set(op.attrs) - set(op.defaults) - set(attrs):
                continue
            arrays = [_numbers(rng, special, dtype) for _ in range(count)]
            if name == "where":
                arrays[0] = arrays[0] > 0
            try:
                with np.errstate(all="ignore"):
                    expected = op.forward(CPU, *arrays, **attrs)
            except TypeError:  # NumPy does not take these
                continue
            if printable(C, name, [Spec(a.shape, a.dtype) for a in arrays], attrs):
                found.append((name, arrays, attrs, expected, 0 if name in EXACT else 4))
    return found


def _numbers(rng: np.random.Generator, special: Any, dtype: Any) -> Any:
    if dtype.kind == "f":
        size = np.exp(rng.uniform(-20, 20, 900))
        parts = [special, size * rng.choice([-1, 1], 900), rng.uniform(-4, 4, 1087)]
        return rng.permutation(np.concatenate(parts)).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 50, 2000).astype(dtype)


@needs_compiler
def test_every_operator_that_has_text_gives_the_numbers_of_its_forward() -> None:
    todo = []
    for name, arrays, attrs, expected, ulp in sites():
        body = ((name, tuple(f"i{n}" for n in range(len(arrays))), tuple(attrs.items())),)
        specs = tuple(Spec(a.shape, a.dtype) for a in arrays)
        call = Call("fused", (), {"body": body, "results": (0,)}, (Spec(expected.shape, expected.dtype),))
        strides = tuple(strides_of(s) for s in (*specs, *call.specs))
        todo.append((name, arrays, expected, ulp, loops.c_text(Site(CPU, call, specs, strides))))
    assert len(todo) > 60
    functions = bind.compiled(t[-1] for t in todo)
    for name, arrays, expected, ulp, source in todo:
        out = np.empty_like(expected)
        block = bind.Block(len(arrays) + 1)
        for n, a in enumerate([*arrays, out]):
            block.pointers[n] = bind.address(a)
        functions[source.name](block.address)
        _check(f"{name} of {arrays[0].dtype}", out, expected, ulp, 0.0 if OPS[name].expr else 4e-7)


def _check(what: str, out: Any, expected: Any, ulp: int, absolute: float) -> None:
    """``absolute``: what is lost where terms of size 1 cancel."""
    if not ulp or expected.dtype.kind != "f":
        np.testing.assert_array_equal(out, expected, err_msg=what)
        return
    with np.errstate(all="ignore"):
        allowed = ulp * np.spacing(np.maximum(np.abs(expected), np.float32(1e-37))) + absolute
        close = np.abs(out - expected) <= allowed
    fine = close | (out == expected) | (np.isnan(out) & np.isnan(expected))
    assert fine.all(), (what, out[~fine][:5], expected[~fine][:5])


@needs_compiler
def test_many_shapes_strides_and_types_in_one_library() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 4099)).astype("float32")
    wide = rng.standard_normal((5, 8198)).astype("float32")[:, ::2]
    column, scalar = rng.standard_normal((5, 1)).astype("float32"), np.float32(3.0).reshape(())
    tall = rng.standard_normal((4099, 5)).astype("float32").T
    for arrays in (
        [x, x],
        [x, wide],
        [x, column],
        [x, scalar],
        [wide, tall],
        [x[:1], x],
        [x[::-1], x],
        [column, x[:1]],
    ):
        a, b = (variable(n, Spec(v.shape, v.dtype)) for n, v in zip("ab", arrays, strict=True))
        graph, _ = flatten([(a + b) * b - 1.0, (a + b) * 0.5], [a, b])
        program = Program(all_fused(graph), CPU)
        expected = program(*arrays)
        for _ in range(2):
            for out, e in zip(program(*arrays), expected, strict=True):
                np.testing.assert_array_equal(out, e)


def test_a_scalar_of_numpy_gets_memory_before_a_kernel_reads_it() -> None:
    held = bind.relaid(np.float32(3.0), ())
    assert type(held) is np.ndarray and held.shape == () and held == 3.0


CHOICES = [
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: a - 0.5,
    lambda a, b: elementwise.maximum(a, b),
    lambda a, b: elementwise.where(a > b, a, b * 0.5),
    lambda a, b: a.sum(axis=0, keepdims=True) * b,
    lambda a, b: a.T.sum(axis=1) + b,
    lambda a, b: activation.relu(a) * (b > 0),
    lambda a, b: OPS["cumsum"](a, axis=1),
]


@given(st.lists(st.tuples(st.sampled_from(CHOICES), st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=25))
@settings(max_examples=60)
def test_a_fused_graph_has_the_bits_of_the_plain_one(steps: list[Any]) -> None:
    x, y = big("x", (40, 30)), big("y", (40, 30))
    values = [x, y]
    for make, i, j in steps:
        values.append(make(values[i % len(values)], values[j % len(values)]))
    outputs = values[-3:]
    graph, _ = flatten(outputs, [x, y])
    rng = np.random.default_rng(0)
    arrays = [np.round(rng.uniform(-1, 1, (40, 30)), 1).astype("float32") for _ in range(2)]
    fused = all_fused(graph, forward=1)
    with np.errstate(all="ignore"):
        expected = Program(graph, CPU, planned=False)(*arrays)
        for out, e in zip(Program(fused, CPU, planned=False)(*arrays), expected, strict=True):
            np.testing.assert_array_equal(out, e)


def test_a_body_that_refers_to_nothing_is_refused() -> None:
    with pytest.raises(GraphError, match=r"step 0 .add. refers to"):
        OPS["fused"](np.ones(3), body=(("add", ("i0", "i1"), ()),), results=(0,))
    with pytest.raises(GraphError, match="'cumsum' is neither an element-wise operator nor"):
        OPS["fused"](np.ones(3), body=(("cumsum", ("i0",), ()),), results=(0,))


def test_the_text_for_gpus_has_the_same_statements() -> None:
    x, b = big(), big("b", (512,))
    graph, _ = flatten([activation.gelu(x + b) * 2.0], [x, b])
    (call,) = [c for _, c in all_fused(graph).operators()]
    specs = (x.spec, b.spec)
    site = Site(CPU, call, specs, tuple(strides_of(s) for s in (*specs, *call.specs)))
    name, text, width = codegen.elementwise_text(site)
    assert f'extern "C" __global__ void {name}(const float *a0, const float *a1, float *a2)' in text and width == 4
    assert "erff(t2)" in text and "shoal" not in text
    in_c, in_cuda = statements(loops.c_text(site).text), statements(text)
    assert [line.replace("shoal_", "") for line in in_c] == in_cuda
    assert printable(CUDA, "sin", [x.spec], {}) and not printable(C, "sin", [x.spec], {})


def statements(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("const float t")]


def test_a_forward_that_asks_what_a_value_is_has_no_text() -> None:
    x = Value(Printer(C), "x0", F4)
    with pytest.raises(Unprintable, match="a choice by value"):
        bool(x > 0)
    assert [line for y in (x == 0.0, x != 0.0) for line in y.printer.lines][-1] == "const int t2 = x0 != 0.0f;"
    assert not printable(C, "sinc", [Spec((3,), F4)], {})  # its forward calls NumPy's sinc, which is no operator
