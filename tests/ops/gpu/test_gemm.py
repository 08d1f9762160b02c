"""Matrix products by cuBLASLt: what the library is told, against a model of it that computes on the CPU."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, ShapeError
from shoal.ops.backend import CPU
from shoal.ops.gpu import cublaslt, emulate
from shoal.ops.gpu.gemm import WORKSPACE_BYTES, Gemm, problem_of, why_illegal
from shoal.ops.gpu.kernels import products
from shoal.ops.native import compiler
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import OPS
from tests.ops.gpu.running import FLOATS, close, drawn, wide
from tests.patience import RUN_S

pytestmark = pytest.mark.skipif(compiler.compiler() is None, reason="needs a C compiler, and there is none here")
ROOM = np.zeros(64, np.uint8)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> cublaslt.Library:
    made = tmp_path_factory.mktemp("lt") / "fake.so"
    source = Path(__file__).with_name("fake_lt.c")
    found = compiler.compiler()
    assert found is not None
    subprocess.run(
        [found.path, "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-lm"], check=True, timeout=RUN_S
    )
    return cublaslt.Library(ctypes.CDLL(str(made)))


@pytest.fixture
def gemm(library: cublaslt.Library) -> Gemm:
    return Gemm(library, ROOM.ctypes.data, address=lambda x: int(x.ctypes.data))


def calls(gemm: Gemm) -> list[int]:
    """Questions for algorithms, products, the last algorithm, the last stream."""
    return list((ctypes.c_int * 4).in_dll(gemm.library.raw, "calls"))


def turned(x: np.ndarray) -> np.ndarray:
    """The same matrix, lying in memory as its transpose."""
    return np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)


def multiplied(gemm: Gemm, a: np.ndarray, b: np.ndarray, epilogue: str = "DEFAULT", **given: Any) -> np.ndarray:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.full((*batch, a.shape[-2], b.shape[-1]), 77, a.dtype)
    problem = problem_of(a, b, out, epilogue)
    assert problem is not None
    gemm(problem, a, b, out, **given)
    return out


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_products_of_matrices_and_transposes_need_no_copy(gemm: Gemm, dtype: Any, ta: bool, tb: bool) -> None:
    for m, n, k in [(3, 5, 7), (8, 16, 4), (1, 6, 5), (6, 1, 5), (4, 3, 1), (1, 1, 1)]:
        a, b = drawn((m, k), dtype), drawn((k, n), dtype, seed=1)
        out = multiplied(gemm, turned(a) if ta else a, turned(b) if tb else b)
        close(out, wide(a) @ wide(b))


def test_parts_of_larger_matrices_are_leading_dimensions(gemm: Gemm) -> None:
    a, b, c = (drawn((12, 20), np.float32, seed=i) for i in range(3))
    problem = problem_of(a[2:7, 3:9], b[:6, 1:8], c[3:8, 2:9])
    assert problem is not None and (problem.lda, problem.ldb, problem.ldc) == (20, 20, 20)
    before = c.copy()
    gemm(problem, a[2:7, 3:9], b[:6, 1:8], c[3:8, 2:9])
    close(c[3:8, 2:9], wide(a[2:7, 3:9]) @ wide(b[:6, 1:8]))
    c[3:8, 2:9] = before[3:8, 2:9]
    assert np.array_equal(c, before)


def test_batches_are_strides_and_what_is_broadcast_is_not_copied(gemm: Gemm) -> None:
    a, b = drawn((2, 3, 4, 5), np.float32), drawn((2, 3, 5, 6), np.float32, seed=1)
    close(multiplied(gemm, a, b), wide(a) @ wide(b))
    close(multiplied(gemm, a, turned(b)), wide(a) @ wide(b))
    close(multiplied(gemm, a[:1, :1], b[0]), wide(a[:1, :1]) @ wide(b[0]))
    heads = drawn((3, 4, 2, 5), np.float32).transpose(0, 2, 1, 3)  # heads of attention, packed
    assert problem_of(heads, b[:1, :1], np.empty((3, 2, 4, 6), np.float32)) is None  # two steps, and no single one
    close(multiplied(gemm, heads[0], b[0, :1]), wide(heads[0]) @ wide(b[0, :1]))
    one = problem_of(a, b[0, 0], np.empty((2, 3, 4, 6), np.float32))
    assert one is not None and (one.batch, one.m) == (1, 24)  # one large product


def test_a_product_is_scaled_and_added(gemm: Gemm) -> None:
    a, b, out = drawn((4, 3), np.float32), drawn((3, 5), np.float32, seed=1), drawn((4, 5), np.float32, seed=2)
    expected = 0.5 * wide(a) @ wide(b) + 2.0 * wide(out)
    problem = problem_of(a, b, out)
    assert problem is not None
    gemm(problem, a, b, out, alpha=0.5, beta=2.0)
    close(out, expected)


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16.type])
def test_bias_and_gelu_are_epilogues_of_a_layer_and_of_its_gradient(gemm: Gemm, dtype: Any) -> None:
    x, w, bias = drawn((6, 16), dtype), drawn((8, 16), dtype, seed=1, scale=0.3), drawn((8,), dtype, seed=2)
    before = wide(x) @ wide(w).T + wide(bias)
    close(multiplied(gemm, x, w.T, "BIAS", bias=bias), before)
    aux = np.zeros((6, 8), dtype)
    close(multiplied(gemm, x, w.T, "GELU_AUX_BIAS", bias=bias, aux=aux), gelu(before))
    close(aux, before)
    g, v = drawn((6, 24), dtype, seed=3), drawn((24, 8), dtype, seed=4, scale=0.3)
    dbias, eps, z = np.zeros(8, dtype), 1e-6, wide(aux)
    slope = (gelu(z + eps) - gelu(z - eps)) / (2 * eps)
    close(multiplied(gemm, g, v, "DGELU_BGRAD", bias=dbias, aux=aux), wide(g) @ wide(v) * slope, 2.0)
    close(dbias, (wide(g) @ wide(v) * slope).sum(0), 2.0)
    of_weight, dy = np.zeros(24, dtype), g
    close(multiplied(gemm, dy.T, x, "BGRADB", bias=of_weight), wide(dy).T @ wide(x))
    close(of_weight, wide(dy).sum(0))


def test_a_problem_is_asked_for_once_and_its_fastest_algorithm_is_kept(library: cublaslt.Library) -> None:
    seconds = iter([3.0, 1.0])
    gemm = Gemm(library, ROOM.ctypes.data, lambda work: (work(), next(seconds))[1], lambda x: int(x.ctypes.data))
    a, b = drawn((4, 3), np.float32), drawn((3, 5), np.float32)
    before = calls(gemm)
    for _ in range(3):
        close(multiplied(gemm, a, b, stream=42), wide(a) @ wide(b))
    after = calls(gemm)
    assert after[0] - before[0] == 1 and after[1] - before[1] == 5
    assert after[2:] == [1002, 42]  # the second that is usable: 1001 is not supported


def test_an_odd_address_is_another_problem(gemm: Gemm) -> None:
    raw = drawn((13,), np.float32)
    a, b = raw[1:].reshape(4, 3), drawn((3, 5), np.float32)
    multiplied(gemm, a, b)
    assert {p.align for p in gemm.plans} == {4}


def test_what_cannot_be_said_without_a_copy_is_no_problem() -> None:
    x, out = np.zeros((6, 8), np.float32), np.zeros((3, 3), np.float32)
    assert problem_of(x[::2, ::2], np.zeros((4, 3), np.float32), out) is None
    assert problem_of(x[:3, :4], np.zeros((4, 3), np.float64), out) is None
    assert problem_of(x[:3, :4], np.zeros((4, 3), np.float32), out.T) is None
    assert problem_of(x[:3, :0], np.zeros((0, 3), np.float32), out) is None


def test_what_the_library_forbids_is_known() -> None:
    a, b, out = np.zeros((4, 8), np.float32), np.zeros((8, 16), np.float32), np.zeros((4, 16), np.float32)
    from dataclasses import replace

    problem = problem_of(a, b, out, "GELU_AUX_BIAS")
    assert problem is not None and why_illegal(problem) == ""
    assert "multiple of 8" in why_illegal(replace(problem, n=12, aux_ld=12))
    assert "in a batch" in why_illegal(replace(problem, batch=2, steps=(32, 0, 64)))
    assert "less than a row" in why_illegal(replace(problem, ldb=15))
    assert "overlap" in why_illegal(replace(problem, epilogue="DEFAULT", batch=2))
    assert "no epilogue" in why_illegal(replace(problem, epilogue="SOFTMAX"))
    assert problem_of(a.astype(np.float64), b.astype(np.float64), out.astype(np.float64), "BIAS") is None


def test_an_epilogue_without_its_vector_is_an_error(gemm: Gemm) -> None:
    with pytest.raises(ShapeError, match="BIAS with bias=False"):
        multiplied(gemm, np.zeros((4, 8), np.float32), np.zeros((8, 8), np.float32), "BIAS")


def test_a_refusal_of_the_library_is_an_error_with_its_status(gemm: Gemm) -> None:
    made = gemm.library._new("cublasLtMatmulPreferenceCreate")
    with pytest.raises(ConfigError, match="cublasLtMatrixLayoutSetAttribute of cuBLASLt 130100 gave status 7"):
        gemm.library._set("cublasLtMatrixLayoutSetAttribute", made, 9, ctypes.c_int64(0))


@pytest.mark.parametrize("dtype", FLOATS)
def test_operators_multiply_by_the_library_transposes_biases_and_batches(gemm: Gemm, dtype: Any) -> None:
    x, w, bias = drawn((2, 3, 8), dtype), drawn((5, 8), dtype, seed=1), drawn((5,), dtype, seed=2)
    with products.installed(gemm):
        before = calls(gemm)[1]
        out = OPS["fully_connected"].forward(emulate.NAMESPACE, x, w, bias, flatten=False)
        close(out, wide(x) @ wide(w).T + wide(bias), 2.0)
        close(OPS["fully_connected"].forward(emulate.NAMESPACE, x[:, 0], w), wide(x[:, 0]) @ wide(w).T)
        close(OPS["matmul"].forward(emulate.NAMESPACE, x, w.T), wide(x) @ wide(w).T)
        close(OPS["matmul"].forward(emulate.NAMESPACE, x[..., ::2], w.T[::2]), wide(x[..., ::2]) @ wide(w.T[::2]))
        assert calls(gemm)[1] - before == 4


def test_without_the_library_an_operator_multiplies_by_the_array_namespace() -> None:
    x, y = drawn((3, 4), np.float32), drawn((4, 5), np.float32)
    assert np.array_equal(OPS["matmul"].forward(emulate.NAMESPACE, x, y), OPS["matmul"].plain(CPU, x, y))


def test_the_structure_of_an_algorithm_is_the_headers() -> None:
    assert ctypes.sizeof(cublaslt.Algorithm) == 96 and cublaslt.Algorithm.state.offset == 72
    assert WORKSPACE_BYTES == 33554432
