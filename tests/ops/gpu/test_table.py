"""Which GPU kernel a call finds, how it is switched off, and what the emulator notices."""

import numpy as np
import pytest

from shoal.errors import ConfigError, GraphError
from shoal.ops import joined
from shoal.ops.backend import CPU
from shoal.ops.gpu import emulate
from shoal.ops.gpu.kernels import table
from shoal.ops.gpu.kernels.table import In
from shoal.ops.registry import OPS
from tests.ops.gpu.running import needs_compiler

assert joined  # imported for its operators
X = In((3, 5), np.dtype(np.float32))


def found(name: str = "softmax", x: object = X, **attrs: object) -> object:
    return table.bound(emulate.NAMESPACE, name, [x], attrs)


def test_a_kernel_is_found_by_the_operators_name_and_remembered() -> None:
    assert found() is not None and found() is found()


def test_there_is_none_for_types_and_axes_that_it_does_not_have() -> None:
    assert found(x=In((3, 5), np.dtype(np.int32))) is None
    assert found(axis=0) is None and found(axis=1) is not None
    assert found(x=In((3, 0), np.dtype(np.float32))) is None


def test_the_array_namespace_of_the_cpu_has_none() -> None:
    assert table.bound(CPU, "softmax", [X], {}) is None


def test_kernels_are_switched_off_all_one_by_one_or_but_for_some() -> None:
    for choice, there in [("none", False), ("softmax", True), ("log_softmax", False), ("-softmax", False)]:
        with table.using(choice):
            assert (found() is not None) == there
    assert found() is not None


def test_the_environment_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_GPU_KERNELS", "-softmax,-fused")
    assert found() is None and not table.switched_on("fused") and table.switched_on("gemm")


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"softmaxx.*log_softmax"), table.using("softmaxx"):
        pass


def test_every_kernel_belongs_to_an_operator() -> None:
    assert set(table.kernels()) <= set(OPS)


@needs_compiler
def test_an_operator_given_gpu_arrays_runs_its_kernel_and_without_it_the_same_operator() -> None:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32).T
    by_kernel = OPS["softmax"].forward(emulate.NAMESPACE, x)
    with table.using("none"):
        plain = OPS["softmax"].forward(emulate.NAMESPACE, x)
    assert by_kernel.shape == plain.shape and np.allclose(by_kernel, plain, atol=1e-6)
    assert OPS["softmax"].forward(emulate.NAMESPACE, x, 0).shape == x.shape  # no kernel: the forward


KERNELS = """
KERNEL quiet(float *x, int64_t n) { for (int64_t i = threadIdx.x; i < n; i += blockDim.x) x[i] = 1.0f; }
KERNEL apart(float *x) { if (threadIdx.x < 7) __syncwarp(); else __syncthreads(); }
KERNEL elsewhere(float *x) {
    if (threadIdx.x < 32) __syncthreads();
    else __syncthreads();
}
KERNEL racing(float *x) {
    SHARED(float, room, 64);
    room[threadIdx.x] = (float)threadIdx.x;
    x[threadIdx.x] = room[63 - threadIdx.x];
}
KERNEL absent(float *x) { x[threadIdx.x] = __shfl_sync(FULL, x[threadIdx.x], 31); }
"""


def emulated(name: str) -> emulate.Function:
    from shoal.ops.gpu.kernels.program import text

    code = KERNELS.replace("    else __sync", "\n    else __sync")
    return emulate.RawModule(text("prelude.cuh") + code).get_function(name)


@needs_compiler
def test_the_emulator_notices_arguments_of_the_wrong_size() -> None:
    x = np.zeros(9, np.float32)
    emulated("quiet")((1,), (32,), (x, np.int64(9)))
    assert (x == 1).all()
    with pytest.raises(GraphError, match="bytes"):
        emulated("quiet")((1,), (32,), (x, np.int32(9)))


@needs_compiler
@pytest.mark.parametrize(
    ("name", "threads", "text"),
    [("apart", 64, "never come"), ("elsewhere", 64, "different barriers"), ("absent", 16, "lane")],
)
def test_the_emulator_notices_barriers_and_shuffles_that_are_wrong(name: str, threads: int, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        emulated(name)((1,), (threads,), (np.zeros(64, np.float32),))


@needs_compiler
def test_a_missing_barrier_gives_nan_or_other_numbers_in_another_order() -> None:
    found = []
    for seed in (0, 1):
        x = np.zeros(64, np.float32)
        with emulate.order(seed):
            emulated("racing")((1,), (64,), (x,))
        found.append(x)
    assert np.isnan(found[0]).any() and not np.array_equal(*found, equal_nan=True)
