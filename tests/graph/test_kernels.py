"""Kernels that makers register: functions, and C text that is compiled with that of the whole graph."""

from typing import Any

import numpy as np
import pytest

import shoal.np
from shoal.ops.backend import CPU
from shoal.ops.graph import bind, kernels
from shoal.ops.graph.executor import Program
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.graph.kernels import Kernel, Site, Source
from shoal.ops.graph.plan import SCRATCH
from shoal.ops.native import compiler
from shoal.ops.registry import OPS, Spec

assert shoal.np  # imported for the operators that it registers

F4 = np.dtype("float32")
needs_compiler = pytest.mark.skipif(bool(compiler.why_not()), reason="no C compiler")

TWICE = """EXPORT void twice(char **p) {
    const float *x = (const float *)p[0]; float *y = (float *)p[1]; float *scratch = (float *)p[2];
    for (int i = 0; i < 12; i++) scratch[i] = x[i];
    for (int i = 0; i < 12; i++) y[i] = 2.0f * scratch[i];
}
"""


def made(*steps: tuple[Any, ...], outputs: tuple[tuple[int, int], ...]) -> Graph:
    """A graph of one input of shape (3, 4); integers are positions of calls, and pairs their outputs."""
    calls = [Call("", specs=(Spec((3, 4), F4),), name="x")]
    for op, *inputs, attrs in steps:
        refs = tuple((x, 0) if type(x) is int else x for x in inputs)
        specs = [calls[x[0]].specs[x[1]] if isinstance(x, tuple) else x for x in refs]
        inferred = OPS[op].infer(*specs, **attrs)
        calls.append(Call(op, refs, attrs, (inferred,) if isinstance(inferred, Spec) else tuple(inferred)))
    return Graph(tuple(calls), (0,), outputs).check()


@pytest.fixture
def makers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The registry, as it was when the test is over."""
    held = {name: list(found) for name, found in kernels._MAKERS.items()}
    monkeypatch.setattr(kernels, "_MAKERS", held)
    return held


X = np.arange(12, dtype="float32").reshape(3, 4)


@needs_compiler
def test_c_text_runs_on_planned_memory_and_on_arrays_from_outside(makers: Any) -> None:
    kernels.register("tanh", lambda site: Source("twice", TWICE, scratch_bytes=48))
    program = Program(made(("tanh", 0, {}), ("tanh", 1, {}), ("tanh", 2, {}), outputs=((3, 0), (1, 0))), CPU)
    program(X)  # the rehearsal knows nothing of kernels
    for x in (X, X, np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], X + 1):
        out, first = program(x)
        np.testing.assert_array_equal(out, 8 * x)
        np.testing.assert_array_equal(first, 2 * x)
    assert (1, SCRATCH) in program.plan.offsets


@needs_compiler
def test_a_results_array_is_new_in_every_run(makers: Any) -> None:
    kernels.register("tanh", lambda site: Source("twice", TWICE, scratch_bytes=48))
    program = Program(made(("tanh", 0, {}), outputs=((1, 0),)), CPU)
    outs = [program(X)[0] for _ in range(4)]
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(outs) for b in outs[:i])


def test_text_that_cannot_be_compiled_leaves_the_call_to_the_next_kernel(
    makers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "load_all", lambda wanted: [None] * len(wanted))
    kernels.register("tanh", lambda site: Source("twice", TWICE))
    program = Program(made(("tanh", 0, {}), ("tanh", 1, {}), outputs=((2, 0),)), CPU)
    for _ in range(3):
        np.testing.assert_array_equal(program(X)[0], np.tanh(np.tanh(X)))
    assert (1, 0) in program.plan.offsets  # the ufunc writes there


def test_the_latest_maker_is_asked_first_and_none_passes_on(makers: Any) -> None:
    asked = []

    def decline(site: Site) -> Kernel | None:
        asked.append(site.call.op)
        return None

    kernels.register("tanh", decline)
    site = Site(CPU, Call("tanh", ((0, 0),), specs=(Spec((3,), F4),)), (Spec((3,), F4),), ((4,), (4,)))
    assert kernels.kernel_for(site) is not None and asked == ["tanh"]


def test_a_kernel_of_several_outputs_has_all_of_them_planned(makers: Any) -> None:
    def both(site: Site) -> Kernel:
        def kernel(x: Any, *out: Any) -> None:
            for part, to in zip(np.split(x, 2, axis=1), out, strict=True):
                np.copyto(to, part)

        return kernel

    kernels.register("split", both)
    graph = made(
        ("exp", 0, {}),
        ("split", 1, {"sections": 2, "axis": 1}),
        ("add", (2, 0), (2, 1), {}),
        ("tanh", 3, {}),
        outputs=((4, 0),),
    )
    program = Program(graph, CPU)
    x = X * 0.1
    expected = program(x)[0]
    np.testing.assert_array_equal(program(x)[0], expected)
    assert {(2, 0), (2, 1)} <= set(program.plan.offsets)


def test_a_view_of_planned_memory_is_made_once() -> None:
    graph = made(("exp", 0, {}), ("transpose", 1, {}), ("tanh", 2, {}), outputs=((3, 0),))
    program = Program(graph, CPU)
    expected = program(X * 0.1)[0]
    assert program.steps == 2  # exp and tanh
    np.testing.assert_array_equal(program(X * 0.1)[0], expected)


def test_a_reshape_that_copies_is_a_step() -> None:
    graph = made(
        ("exp", 0, {}), ("transpose", 1, {}), ("reshape", 2, {"shape": (12,)}), ("tanh", 3, {}), outputs=((4, 0),)
    )
    program = Program(graph, CPU)
    expected = program(X * 0.1)[0]
    assert program.steps == 3
    for _ in range(2):
        np.testing.assert_array_equal(program(X * 0.1)[0], expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_array_gets_the_strides_that_a_kernel_relies_on(order: tuple[int, ...]) -> None:
    strides = kernels.strides_of(Spec((3, 4), F4), order)
    for x in (X, np.asfortranarray(X), X[::-1]):
        got = bind.relaid(x, strides)
        assert got.strides == strides
        np.testing.assert_array_equal(got, x)
    assert bind.relaid(X[:1], (999, 4)).base is not None  # one row: its stride means nothing
    assert bind.empty(CPU, (3, 4), F4, order)().strides == strides


def test_addresses_are_those_of_the_first_element() -> None:
    read_only = X.copy()
    read_only.flags.writeable = False
    for x in (X, X[1:], X[:, ::2], X.T, read_only, np.zeros(())):
        assert bind.address(x) == x.ctypes.data


def test_much_text_is_cut_into_files_of_about_equal_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "PART_CHARACTERS", 100)
    texts = {f"f{i}": "x" * n for i, n in enumerate((90, 10, 60, 40, 50, 50))}
    parts = bind._parts(texts)
    assert [sum(map(len, p.values())) for p in parts] == [100, 100, 100]
    assert {name: text for p in parts for name, text in p.items()} == texts
    assert bind._parts(dict(reversed(texts.items()))) == parts  # the same files, whatever the order
    assert bind._parts({}) == [] and bind._parts({"f": "x" * 200}) == [{"f": "x" * 200}]
