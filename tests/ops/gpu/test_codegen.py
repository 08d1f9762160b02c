"""Generated kernels, run on the CPU: groups of element-wise operators, and reductions of rows with what is around."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from shoal.ops import activation, elementwise, loss
from shoal.ops.backend import CPU
from shoal.ops.gpu import codegen, emulate, nvrtc
from shoal.ops.gpu.kernels import table
from shoal.ops.gpu.kernels.program import OPTIONS
from shoal.ops.gpu.rowtext import row_kernel
from shoal.ops.graph.executor import Program, evaluate
from shoal.ops.graph.expression import CUDA
from shoal.ops.graph.ir import Call, Graph
from shoal.ops.graph.kernels import Site, kernel_for, strides_of
from shoal.ops.graph.pipeline import PASSES, optimized
from shoal.ops.graph.symbol import flatten, variable
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import OPS, Spec
from tests.ops.gpu.running import (
    FLOATS,
    close,
    drawn,
    in_every_order,
    needs_compiler,
    placed,
    poisoned,
    untouched,
    wide,
)

XP = emulate.NAMESPACE
Body = tuple[Any, ...]


def site_of(op: str, body: Body, results: Sequence[int], arrays: Sequence[np.ndarray]) -> Site:
    specs = tuple(Spec(x.shape, x.dtype) for x in arrays)
    out = OPS[op].infer(*specs, body=body, results=tuple(results))
    call = Call(op, tuple((i, 0) for i in range(len(specs))), {"body": body, "results": tuple(results)}, out)
    return Site(XP, call, specs, (*[x.strides for x in arrays], *[strides_of(s) for s in out]))


def check(op: str, body: Body, results: Sequence[int], *arrays: np.ndarray, shift: int = 0) -> None:
    """The generated kernel gives what the steps give in float64."""
    site = site_of(op, body, results, arrays)
    kernel = kernel_for(site)
    assert callable(kernel)
    given = [placed(x, shift) if x.flags.c_contiguous else x for x in arrays]

    def run() -> list[np.ndarray]:
        out = [poisoned(s.shape, s.dtype, shift) for s in site.call.specs]
        kernel(*given, *out)
        assert all(untouched(x) for x in out)
        return out

    got = in_every_order(run)
    expected = OPS[op].plain(CPU, *[wide(x) for x in arrays], body=body, results=tuple(results))
    for a, b in zip(got, expected, strict=True):
        close(a, b, 2.0)


GELU_OF_SUM: Body = (("add", ("i0", "i1"), ()), ("gelu", ("t0",), (("approximation", "tanh"),)))
MASKED: Body = (
    ("greater", ("i0", 0.0), ()),
    ("where", ("t0", "i0", "i1"), ()),
    ("multiply", ("t1", 0.5), ()),
    ("maximum", ("t2", "i1"), ()),
)


@needs_compiler
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_bias_and_its_activation_are_one_kernel_for_every_type_and_odd_lengths(dtype: Any) -> None:
    for shape in [(6, 64), (5, 7), (3, 2, 40)]:
        for shift in (0, 1):
            check("fused", GELU_OF_SUM, [1], drawn(shape, dtype), drawn(shape[-1:], dtype, seed=1), shift=shift)


@needs_compiler
@pytest.mark.parametrize("dtype", FLOATS)
def test_conditions_and_several_results_come_out_of_one_kernel(dtype: Any) -> None:
    x, y = drawn((4, 48), dtype), drawn((4, 48), dtype, seed=1)
    check("fused", MASKED, [0, 1, 3], x, y)
    check("fused", MASKED, [3], x.T, y.T.copy())
    check("fused", MASKED, [3], x[:, ::2], y[:1, ::2].copy())
    check("fused", MASKED, [3], x[:, :1].copy(), y)


@needs_compiler
def test_more_elements_than_the_grid_has_threads_are_all_computed() -> None:
    body: Body = (("multiply", ("i0", 2.0), ()), ("add", ("t0", 1.0), ()))
    x = drawn((132 * 16 * 256 * 4 + 13,), np.float32)
    (out,) = kernel_outputs("fused", body, [1], x)
    assert np.array_equal(out, x * np.float32(2) + np.float32(1))


def kernel_outputs(op: str, body: Body, results: Sequence[int], *arrays: np.ndarray) -> list[np.ndarray]:
    site = site_of(op, body, results, arrays)
    out = [poisoned(s.shape, s.dtype) for s in site.call.specs]
    kernel = kernel_for(site)
    assert callable(kernel)
    kernel(*arrays, *out)
    return out


LAST = (("axis", -1), ("keepdims", True))
NORM: Body = (
    ("mean", ("i0",), LAST),
    ("subtract", ("i0", "t0"), ()),
    ("square", ("t1",), ()),
    ("mean", ("t2",), LAST),
    ("add", ("t3", 1e-3), ()),
    ("rsqrt", ("t4",), ()),
    ("multiply", ("t1", "t5"), ()),
    ("multiply", ("t6", "i1"), ()),
    ("add", ("t7", "i2"), ()),
)
SOFT: Body = (
    ("max", ("i0",), LAST),
    ("subtract", ("i0", "t0"), ()),
    ("exp", ("t1",), ()),
    ("sum", ("t2",), LAST),
    ("divide", ("t2", "t3"), ()),
)


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 7), (9, 9), (4, 4, 4), (3, 4, 64), (2, 1500)])
def test_a_layer_norm_of_operators_is_one_kernel_of_rows(dtype: Any, shape: tuple[int, ...]) -> None:
    x, gamma, beta = drawn(shape, dtype), drawn(shape[-1:], dtype, seed=1), drawn(shape[-1:], dtype, seed=2)
    check("fused_rows", NORM, [8, 5], x, gamma, beta)
    check("fused_rows", SOFT, [4, 3], x)


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16.type])
def test_rows_of_half_precision_are_computed_in_float32(dtype: Any) -> None:
    x, gamma, beta = drawn((3, 200), dtype), drawn((200,), dtype, seed=1), drawn((200,), dtype, seed=2)
    check("fused_rows", NORM, [8], x, gamma, beta)


@needs_compiler
def test_the_largest_of_a_row_with_nan_is_nan() -> None:
    x = drawn((3, 70), np.float32)
    x[1, 5] = np.nan
    check("fused_rows", (("max", ("i0",), LAST), ("min", ("i0",), LAST), ("add", ("i0", "t0"), ())), [2, 1], x)


def test_groups_are_left_to_the_array_namespace_where_they_are_switched_off() -> None:
    x = drawn((4, 8), np.float32)
    with table.using("-fused,-fused_rows"):
        assert kernel_for(site_of("fused", GELU_OF_SUM, [1], [x, x])) is None
        assert kernel_for(site_of("fused_rows", SOFT, [4], [x])) is None


def network(dtype: Any) -> tuple[Graph, list[np.ndarray], int]:
    """A layer with its loss, and its gradients: matrix products, norms, activations, cross entropy."""
    from shoal.ops.graph.gradient import gradients
    from shoal.ops.norm import layer_norm

    kind = np.dtype(dtype)
    x, w = variable("x", Spec((24, 64), kind)), variable("w", Spec((64, 64), kind))
    gamma, beta = variable("gamma", Spec((64,), kind)), variable("beta", Spec((64,), kind))
    label = variable("label", Spec((24,), np.dtype(np.int64)))
    h = activation.gelu(layer_norm(x, gamma, beta) @ w + beta) * 0.5 + x
    y = loss.softmax_cross_entropy(elementwise.tanh(h) * 3.0, label).mean()
    grads = [g for g in gradients([y], [variable("g", y.spec)], [x, w, gamma, beta]) if g is not None]
    inputs = [x, w, gamma, beta, label]
    graph, _ = flatten([y, *grads], [*inputs, *found_heads(grads, inputs)])
    arrays = [drawn(s.shape, dtype, seed=i) for i, s in enumerate(inputs[:4])]
    return graph, [*arrays, np.arange(24) % 64, np.ones((), dtype)], len(grads)


def found_heads(outputs: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    """Variables that the outputs use beside those that are known."""
    from shoal.ops.graph.symbol import nodes_of

    have = {v.node.serial for v in known}
    heads = [n for n in nodes_of(outputs) if n.op is None and n.serial not in have]
    return [type(known[0])(n, 0) for n in heads]


@needs_compiler
def test_a_training_step_on_gpu_kernels_is_that_of_the_cpu() -> None:
    graph, arrays, count = network(np.float32)
    expected = Program(graph, CPU, planned=False)(*arrays)
    fused = optimized(
        graph, lambda call, given: evaluate(XP, call, given), frozenset(PASSES), target=CUDA, worth_us=0.0
    )
    ops = [c.op for _, c in fused.operators()]
    assert count == 4 and "fused" in ops and "standardize" in ops
    program = Program(fused, XP)
    for _ in range(3):  # a rehearsal, then in place
        for a, b in zip(program(*arrays), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="needs NVRTC: pip install nvidia-cuda-nvrtc")


@needs_nvrtc
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_generated_kernels_compile(architecture: str) -> None:
    def text_of(make: Callable[[Site], str], *args: Any) -> None:
        assert nvrtc.compiled(make(site_of(*args)), architecture, OPTIONS)[:4] == b"\x7fELF"

    types = {"sm_80": [np.float16], "sm_90": [BFLOAT16.type, np.float32], "sm_100": [np.float64]}
    for dtype in types[architecture]:
        x, y = drawn((4, 64), dtype), drawn((64,), dtype)
        text_of(lambda s: codegen.elementwise_text(s)[1], "fused", GELU_OF_SUM, [1, 0], [x, y])
        text_of(lambda s: codegen.elementwise_text(s)[1], "fused", MASKED, [0, 3], [x, x])
        text_of(lambda s: row_kernel(s).text, "fused_rows", NORM, [8, 5], [x, y, y])
        text_of(lambda s: row_kernel(s).text, "fused_rows", SOFT, [4], [x])
