"""Fake GPUs that run the kernels of operators, by the CPU: what is put off, what is recorded, what races."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, cuda, nn, npx
from shoal import np as snp
from shoal.errors import CaptureError, ConfigError, GraphError
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from shoal.ops.gpu.fake.rawmodules import pointers
from shoal.ops.gpu.kernels import products
from shoal.ops.gpu.kernels.program import text
from tests.ops.gpu.running import needs_compiler

pytestmark = needs_compiler
ADD = """
KERNEL add_to(const float *x, float *y, int64_t n) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += x[i];
}
"""


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    """One with kernels."""
    with fake_gpus(kernels=True) as (found,):
        yield found


def adder(gpu: FakeGpu) -> Any:
    return gpu.xp.module.RawModule(code=text("prelude.cuh") + ADD, options=()).get_function("add_to")


def arrays(gpu: FakeGpu, n: int = 70) -> tuple[Any, Any]:
    return gpu.xp.asarray(np.arange(n, dtype=np.float32)), gpu.xp.asarray(np.ones(n, np.float32))


def launch(kernel: Any, x: Any, y: Any) -> None:
    kernel((1, 1, 1), (128, 1, 1), (x, y, np.int64(x.size)))


def test_a_kernel_is_put_off_and_computes_what_its_text_says(gpu: FakeGpu) -> None:
    x, y = arrays(gpu)
    before = gpu.pending()
    launch(adder(gpu), x, y)
    assert gpu.pending() == before + 1 and gpu.waits == []
    assert np.array_equal(y.get(), np.arange(70) + 1)


def test_what_a_kernel_reads_and_writes_is_what_its_arguments_say() -> None:
    assert pointers(ADD, "add_to") == ("r", "w", "")
    with pytest.raises(GraphError, match="no kernel 'other'"):
        pointers(ADD, "other")


def test_kernels_on_two_streams_that_do_not_wait_are_a_race(gpu: FakeGpu) -> None:
    kernel, (x, y) = adder(gpu), arrays(gpu)
    gpu.synchronize()
    a, b = gpu.stream(), gpu.stream()
    with a:
        launch(kernel, x, y)
    with b:
        launch(kernel, x, y)
    assert len(gpu.races()) == 1 and "add_to" in gpu.races()[0]


def test_two_kernels_may_read_the_same_memory_at_once(gpu: FakeGpu) -> None:
    kernel, (x, y) = adder(gpu), arrays(gpu)
    z = gpu.xp.asarray(np.zeros(70, np.float32))
    gpu.synchronize()
    for target in (y, z):
        with gpu.stream():
            launch(kernel, x, target)
    assert gpu.races() == []


def test_wrong_arguments_are_refused(gpu: FakeGpu) -> None:
    kernel, (x, y) = adder(gpu), arrays(gpu)
    with pytest.raises(GraphError, match="takes 3 arguments, got 2"):
        kernel((1, 1, 1), (1, 1, 1), (x, y))
    with pytest.raises(GraphError, match="an array is given for a number"):
        kernel((1, 1, 1), (1, 1, 1), (x, y, x))
    with pytest.raises(GraphError, match="which is no array"):
        kernel((1, 1, 1), (1, 1, 1), (x, np.uint64(4096), np.int64(1)))


def test_a_kernel_is_recorded_and_launched_again(gpu: FakeGpu) -> None:
    kernel, (x, y) = adder(gpu), arrays(gpu)
    gpu.synchronize()
    stream = gpu.stream()
    with gpu.recording(stream) as made:
        launch(kernel, x, y)
    for _ in range(3):
        made().launch(stream)
    stream.synchronize()
    assert np.array_equal(y.get(), 3 * np.arange(70) + 1)


def test_a_kernel_that_is_loaded_in_a_recording_is_refused(gpu: FakeGpu) -> None:
    with (
        pytest.raises(CaptureError, match="'add_to' is compiled and loaded in a recording"),
        gpu.recording(gpu.stream()),
    ):
        adder(gpu)


def test_algorithms_are_not_asked_for_in_a_recording(gpu: FakeGpu) -> None:
    x = snp.array(np.ones((3, 4), np.float32), device="gpu:0")
    with (
        gpu.private_pool(),
        pytest.raises(CaptureError, match="asked for algorithms in a recording"),
        gpu.recording(gpu.stream()),
    ):
        products.product(gpu.xp, x.data, x.data.T, x.data[:, :3])


def test_products_of_two_streams_have_workspaces_of_their_own(gpu: FakeGpu) -> None:
    x = snp.array(np.ones((3, 4), np.float32), device="gpu:0")
    gpu.synchronize()
    found = []
    for _ in range(2):
        with gpu.stream():
            found.append(x @ x.T)
    assert [w.name for s in gpu.timeline.streams[1:] for w in s.waiting if w.name != "wait"] == ["cublasLtMatmul"] * 2
    assert gpu.races() == []
    gpu.synchronize()
    assert all(np.array_equal(f.asnumpy(), np.full((3, 3), 4.0)) for f in found)


def test_products_of_float32_are_exact_unless_ten_bits_are_asked_for(gpu: FakeGpu) -> None:
    x = np.float32(1 + 2**-12) * np.ones((2, 3), np.float32)
    there = snp.array(x, device="gpu:0")
    assert cuda.get_float32_matmul_precision() == "highest"
    np.testing.assert_array_equal((there @ there.T).asnumpy(), x @ x.T)
    cuda.set_float32_matmul_precision("high")
    try:
        assert np.array_equal((there @ there.T).asnumpy(), np.full((2, 2), 3.0))
        wide = there.astype("float64")
        np.testing.assert_array_equal((wide @ wide.T).asnumpy(), x.astype("f8") @ x.T.astype("f8"))
    finally:
        cuda.set_float32_matmul_precision("highest")
    with pytest.raises(ConfigError, match="'highest' or 'high', got 'medium'"):
        cuda.set_float32_matmul_precision("medium")


def test_operators_run_their_kernels(gpu: FakeGpu) -> None:
    x = snp.array(np.random.default_rng(0).standard_normal((5, 33)).astype(np.float32), device="gpu:0")
    y = npx.softmax(x)
    assert gpu.timeline.default.waiting[-1].name == "softmax_float"
    e = np.exp(x.asnumpy() - x.asnumpy().max(axis=1, keepdims=True))
    np.testing.assert_allclose(y.asnumpy(), e / e.sum(axis=1, keepdims=True), rtol=1e-6)


def network(recorded: bool, dtype: str = "float32") -> Any:
    shoal.random.seed(11)
    net = nn.HybridSequential(
        nn.Dense(8, "tanh", in_units=5),
        nn.LayerNorm(in_channels=8),
        nn.Dropout(0.25),
        nn.Dense(4, in_units=8),
    )
    net.initialize(shoal.init.Xavier(), seed=3)
    net.to("gpu:0")
    net.hybridize(recorded=recorded)
    return net


def losses(net: Any, steps: int = 20) -> list[bytes]:
    """Loss and gradients of each step, through kernels, products and a loss that has a kernel."""
    shoal.random.seed(5)
    found, labels = [], snp.array(np.array([0, 3, 1]), device="gpu:0")
    for i in range(steps):
        x = snp.array(np.random.default_rng(i).standard_normal((3, 5)).astype(np.float32), device="gpu:0")
        with autograd.record():
            loss = npx.softmax_cross_entropy(net(x), labels).mean()
        loss.backward()
        grads = [p.grad() for p in net.collect_params().values()]
        found.append(b"".join(t.asnumpy().tobytes() for t in (loss, *grads)))
        for p in net.collect_params().values():
            p.data().data[...] -= p.grad().data * np.float32(0.1)
    return found


def test_twenty_recorded_steps_of_kernels_have_the_bits_of_steps_that_are_not(gpu: FakeGpu) -> None:
    net = network(True)
    found = losses(net)
    assert net.why_not_recorded() == []
    assert found == losses(network(False))
    assert gpu.races() == []
    names = {w.name for w in gpu.timeline.history}
    assert "cublasLtMatmul" in names and any(n.startswith("dropout") for n in names), names


def test_a_whole_recorded_step_of_kernels_has_the_bits_of_one_that_is_not(gpu: FakeGpu) -> None:
    def run(enabled: bool) -> tuple[list[bytes], list[str]]:
        shoal.random.seed(7)
        net = network(False)

        def step(x: Any) -> Any:
            with autograd.record():
                loss = (net(x) ** 2).mean()
            loss.backward()
            return loss

        graphed = cuda.graphed(step, enabled=enabled)
        seen = []
        for i in range(8):
            x = snp.array(np.random.default_rng(i).standard_normal((3, 5)).astype(np.float32), device="gpu:0")
            loss = graphed(x)
            seen.append(
                b"".join(t.asnumpy().tobytes() for t in (loss, *[p.grad() for p in net.collect_params().values()]))
            )
        return seen, graphed.why_not()

    recorded, why = run(True)
    assert why == [] and recorded == run(False)[0]
    assert gpu.races() == []
