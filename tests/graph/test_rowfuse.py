"""Reductions over rows with what is around them: which calls make a group, and the kernel's numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import shoal.np
from shoal.ops import elementwise
from shoal.ops.backend import CPU
from shoal.ops.graph import rowloops
from shoal.ops.graph.executor import Program
from shoal.ops.graph.expression import C, printable
from shoal.ops.graph.ir import Graph
from shoal.ops.graph.kernels import Source
from shoal.ops.graph.rowfuse import fuse_rows
from shoal.ops.graph.symbol import flatten, variable
from shoal.ops.native import compiler
from shoal.ops.registry import Spec

assert shoal.np and rowloops

needs_compiler = pytest.mark.skipif(bool(compiler.why_not()), reason="no C compiler")


def able(name: str, specs: Any, attrs: dict[str, Any]) -> bool:
    return printable(C, name, specs, attrs)


def all_fused(graph: Graph, forward: int | None = None) -> Graph:
    return fuse_rows(graph, able, forward=forward, worth_us=-1e9).check()


def ops_of(graph: Graph) -> list[str]:
    return [c.op for _, c in graph.operators()]


def softmax(x: Any, s: Any, b: Any) -> list[Any]:
    e = (x - x.max(axis=-1, keepdims=True)).exp()
    return [e / e.sum(axis=-1, keepdims=True)]


def softmax_gradient(x: Any, s: Any, b: Any) -> list[Any]:
    weighted = x * s
    return [weighted - s * weighted.sum(axis=-1, keepdims=True)]


def standardized(x: Any, s: Any, b: Any) -> list[Any]:
    centred = x - x.mean(axis=-1, keepdims=True)
    inv = elementwise.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
    return [centred * inv * b + 0.5, inv]


def standardized_gradient(x: Any, s: Any, b: Any) -> list[Any]:
    inv = b.sum() * 0.0 + 1.5
    return [inv * (x - x.sum(axis=-1, keepdims=True) / 8.0 - s * ((x * s).sum(axis=-1, keepdims=True) / 8.0))]


def rms(x: Any, s: Any, b: Any) -> list[Any]:
    return [x * elementwise.rsqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * b]


def without_keepdims(x: Any, s: Any, b: Any) -> list[Any]:
    total = (x * s).sum(axis=-1)
    return [total * 2.0, (x - s) * total.expand_dims(-1)]


def kept_rows(x: Any, s: Any, b: Any) -> list[Any]:
    a = x * s + b  # needed in three loops, and no result
    m = a - a.mean(axis=-1, keepdims=True)
    return [(m / (m * m).sum(axis=-1, keepdims=True) + a).min(axis=-1, keepdims=True) + a]


ALL = [softmax, softmax_gradient, standardized, standardized_gradient, rms, without_keepdims, kept_rows]
SHAPES = [(64, 33), (4, 16, 64), (2, 3, 4, 300), (1, 2), (5000, 7), (48, 48), (9, 9, 9), (1, 8)]


def graph_of(build: Callable[..., list[Any]], shape: tuple[int, ...], dtype: str) -> Graph:
    x, s = (variable(n, Spec(shape, np.dtype(dtype))) for n in "xs")
    b = variable("b", Spec(shape[-1:], np.dtype(dtype)))
    return flatten(build(x, s, b), [x, s, b])[0]


@needs_compiler
@pytest.mark.parametrize("build", ALL, ids=lambda b: b.__name__)
def test_the_kernel_has_the_numbers_of_the_operators(build: Callable[..., list[Any]]) -> None:
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        for dtype in ("float32", "float64"):
            if build is softmax and dtype == "float64":
                continue  # exp has no text for it
            graph = graph_of(build, shape, dtype)
            fused = all_fused(graph)
            assert "fused_rows" in ops_of(fused)
            arrays = [rng.standard_normal(s).astype(dtype) for s in (shape, shape, shape[-1:])]
            expected = Program(graph, CPU, planned=False)(*arrays)
            program = Program(fused, CPU)
            program(*arrays)
            assert any(isinstance(k, Source) and k.name.startswith("rows_") for k in program._code.kernels.values())
            for given in (arrays, [np.asfortranarray(arrays[0]), *arrays[1:]]):
                for out, e in zip(program(*given), expected, strict=True):
                    scale = max(1.0, float(np.abs(e).max()))
                    np.testing.assert_allclose(out / scale, e / scale, atol=2e-6 if dtype == "float32" else 1e-13)


def across(x: Any, s: Any, b: Any) -> list[Any]:
    return [x * s - x.sum(axis=-1), s * 2.0]  # in a square, the numbers of rows go along them


def both_ways(x: Any, s: Any, b: Any) -> list[Any]:
    return [x * b, x.sum(axis=-1) * b, x.max(axis=-1, keepdims=True) + s]


def smaller(x: Any, s: Any, b: Any) -> list[Any]:
    total = (x * s).sum(axis=-1)
    return [(total * total[0]), x - s]


@pytest.mark.parametrize("build", [across, both_ways, smaller], ids=lambda b: b.__name__)
@pytest.mark.parametrize("shape", [(16, 16), (4, 4, 4), (1, 6, 6)])
def test_among_square_rows_numbers_of_rows_are_not_taken_for_vectors_along_them(
    build: Callable[..., list[Any]], shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(1)
    graph = graph_of(build, shape, "float32")
    arrays = [rng.standard_normal(s).astype("float32") for s in (shape, shape, shape[-1:])]
    expected = Program(graph, CPU, planned=False)(*arrays)
    program = Program(all_fused(graph), CPU)
    for _ in range(2):
        for out, e in zip(program(*arrays), expected, strict=True):
            np.testing.assert_allclose(out, e, rtol=1e-5, atol=2e-5)


def test_a_softmax_is_one_call() -> None:
    assert ops_of(all_fused(graph_of(softmax, (64, 33), "float32"))) == ["fused_rows"]
    assert ops_of(all_fused(graph_of(standardized, (64, 33), "float32"))) == ["fused_rows"]


@needs_compiler
def test_nan_in_a_row_is_the_largest_and_the_smallest() -> None:
    graph = graph_of(lambda x, s, b: [x.max(axis=-1, keepdims=True) + x, (x * s).min(axis=-1)], (3, 40), "float32")
    x, s, b = np.ones((3, 40), "float32"), np.ones((3, 40), "float32"), np.ones(40, "float32")
    x[1, 17] = np.nan
    program = Program(all_fused(graph), CPU)
    expected = program(x, s, b)
    for out, e in zip(program(x, s, b), expected, strict=True):
        np.testing.assert_array_equal(out, e)


@pytest.mark.parametrize(
    "build",
    [
        lambda x, s, b: [(x * 2.0).sum(axis=0) + b],
        lambda x, s, b: [(x * 2.0).sum() + b],
        lambda x, s, b: [x * 2.0 + s],
        lambda x, s, b: [x.sum(axis=-1)],
    ],
)
def test_other_reductions_and_lone_ones_stay(build: Callable[..., list[Any]]) -> None:
    graph = graph_of(build, (64, 33), "float32")
    assert fuse_rows(graph, able, worth_us=-1e9) is graph


def test_forward_and_backward_parts_stay_apart() -> None:
    x, g = (variable(n, Spec((64, 32), np.dtype("float32"))) for n in "xg")
    y = (x + 1.0) * x.sum(axis=-1, keepdims=True)
    graph, _ = flatten([y, (y * g).sum(axis=-1, keepdims=True) * y], [x, g])
    assert ops_of(all_fused(graph, forward=1)) == ["fused_rows", "fused_rows"]
