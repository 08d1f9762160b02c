"""Codecs on a GPU: the bits of the codecs of the CPU, by kernels and by the array namespace."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import CaptureError, ConfigError
from shoal.kvstore.codecs import parse
from shoal.kvstore.codecs.base import Address, CodecState
from shoal.kvstore.codecs.ongpu import GpuCodec, gpu_codec
from shoal.ops.backend import CPU
from shoal.ops.gpu import emulate
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from tests.ops.gpu.running import in_every_order, needs_compiler

SPECS = ["2bit:threshold=0.5", "2bit:threshold=0.1", "1bit", "1bit:threshold=-0.25", "sign", "fp16"]
PLACES = [pytest.param(CPU, id="namespace"), pytest.param(emulate.NAMESPACE, id="kernels", marks=needs_compiler)]


def gradient(n: int, step: int, spread: float = 0.4) -> Any:
    rng = np.random.default_rng([n, step])
    found = (rng.standard_normal(n) * spread).astype(np.float32)
    found[rng.random(n) < 0.2] = 0.0  # padding, and units that are off
    found[rng.random(n) < 0.05] *= 1e-7
    return found


class Both:
    """A codec on the CPU, and on a GPU."""

    def __init__(self, spec: str, xp: Any, n: int) -> None:
        self.codec, self.state, self.n, self.xp = parse(spec), CodecState(), n, xp
        self.gpu: GpuCodec = gpu_codec(spec, xp, n)
        self.clock = 0

    def step(self, grad: Any) -> None:
        """One gradient; bits of parts and residuals, and decoded values, are the same."""
        (part,) = self.codec.encode(grad, self.state, Address(0, 0, 0, self.clock))
        self.clock += 1
        self.gpu.encode(grad, np.array([self.clock], np.uint32))
        made = self.gpu.out[: part.nbytes]
        assert made.tobytes() == part.tobytes()
        if self.gpu.residual is not None:
            assert self.gpu.residual.tobytes() == self.state.arrays["residual"].tobytes()
        values, expected = np.full(self.n, np.nan, np.float32), np.empty(self.n, np.float32)
        assert self.gpu.decode(self.gpu.out.copy(), values)
        self.codec.decode([part], expected)
        assert values.tobytes() == expected.tobytes()


@pytest.mark.parametrize("xp", PLACES)
@pytest.mark.parametrize("n", [1, 3, 16, 33, 1000, 4096 + 5])
@pytest.mark.parametrize("spec", SPECS)
def test_a_gpu_sends_the_bits_that_the_cpu_sends(spec: str, n: int, xp: Any) -> None:
    both = Both(spec, xp, n)
    for step in range(4):
        both.step(gradient(n, step))


@needs_compiler
@settings(max_examples=25)
@given(st.sampled_from(SPECS), st.integers(1, 200), st.integers(0, 2**32), st.sampled_from([1e-30, 0.3, 7.0, 3e4]))
def test_whatever_the_gradients_are_the_bits_agree(spec: str, n: int, seed: int, spread: float) -> None:
    both = [Both(spec, xp, n) for xp in (CPU, emulate.NAMESPACE)]
    for step in range(3):
        grad = np.clip(gradient(n, seed + step, spread), -65000, 65000)
        for one in both:
            one.step(grad)


@needs_compiler
@pytest.mark.parametrize("spec", SPECS)
def test_the_order_of_threads_does_not_matter(spec: str) -> None:
    def run() -> list[np.ndarray]:
        made = gpu_codec(spec, emulate.NAMESPACE, 700)
        for step in range(2):
            made.encode(gradient(700, step), np.array([step + 1], np.uint32))
        return [made.out, *([] if made.residual is None else [made.residual])]

    in_every_order(run)


@pytest.mark.parametrize("xp", PLACES)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("spec", ["2bit", "1bit", "sign"])
def test_a_gradient_that_cannot_be_sent_changes_nothing_and_is_told(spec: str, bad: float, xp: Any) -> None:
    both = Both(spec, xp, 50)
    both.step(gradient(50, 0))
    before = None if both.gpu.residual is None else both.gpu.residual.copy()
    wrong = gradient(50, 1)
    wrong[17] = bad
    both.gpu.encode(wrong, np.array([2], np.uint32))
    values = np.full(50, 7.0, np.float32)
    assert not both.gpu.decode(both.gpu.out, values) and (values == 7.0).all()
    assert before is None or np.array_equal(both.gpu.residual, before)
    both.step(gradient(50, 2))


@pytest.mark.parametrize("xp", PLACES)
def test_half_precision_passes_infinities_and_refuses_to_make_some(xp: Any) -> None:
    both, grad = Both("fp16", xp, 9), gradient(9, 0)
    grad[2] = np.inf
    both.step(grad)
    grad[3] = 65520.0
    both.gpu.encode(grad, np.array([2], np.uint32))
    assert not both.gpu.decode(both.gpu.out, np.empty(9, np.float32))


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_decoded_encodes_to_the_same_bits_and_leaves_nothing(spec: str) -> None:
    made, codec, state = gpu_codec(spec, CPU, 300), parse(spec), CodecState()
    values = np.empty(300, np.float32)
    for step in range(3):
        made.encode(gradient(300, step), np.array([step + 1], np.uint32))
        assert made.decode(made.out, values)
        (part,) = codec.encode(values, state, Address(0, 0, 0, step))
        again = np.empty(300, np.float32)
        codec.decode([part], again)
        assert again.tobytes() == values.tobytes()
        assert "residual" not in state.arrays or not state.arrays["residual"].any()


@pytest.mark.parametrize("spec", ["int8", "topk", "qsgd", "onebit", "efsign", "dgc", "randomk", "1bit:threshold=2"])
def test_other_codecs_run_on_the_host(spec: str) -> None:
    with pytest.raises(ConfigError, match="runs on the host"):
        gpu_codec(spec, CPU, 10)


@pytest.fixture(params=[False, pytest.param(True, marks=needs_compiler)], ids=["namespace", "kernels"])
def gpu(request: pytest.FixtureRequest) -> Iterator[FakeGpu]:
    """With kernels or without."""
    with fake_gpus(kernels=request.param) as (found,):
        yield found


@pytest.mark.parametrize("spec", SPECS)
def test_encoding_does_not_wait_and_can_be_recorded(gpu: FakeGpu, spec: str) -> None:
    codec, state, n = parse(spec), CodecState(), 90
    with gpu.use():
        made = gpu_codec(spec, gpu.xp, n)
        grad, word = gpu.xp.zeros(n, np.float32), gpu.xp.zeros(1, np.uint32)
        stream = gpu.stream()
        gpu.synchronize()

        def work() -> None:
            word[...] = word + np.uint32(1)
            made.encode(grad, word)

        with gpu.private_pool() as pool, stream:
            grad[...] = gpu.xp.asarray(gradient(n, 0))
            work()
            gpu.synchronize()
        with gpu.private_pool(pool), gpu.recording(stream) as recorded:
            work()
        found = [made.out.get()]
        for step in (1, 2):
            with stream:
                grad[...] = gpu.xp.asarray(gradient(n, step))
            recorded().launch(stream)
            assert "item()" not in gpu.waits
            gpu.synchronize()
            found.append(made.out.get())
    assert gpu.races() == []
    for step, out in enumerate(found):
        (part,) = codec.encode(gradient(n, step), state, Address(0, 0, 0, step))
        assert out[: part.nbytes].tobytes() == part.tobytes()


@needs_compiler
def test_kernels_are_compiled_before_a_recording() -> None:
    with (
        fake_gpus(kernels=True) as (gpu,),
        gpu.private_pool(),
        pytest.raises(CaptureError, match="in a recording"),
        gpu.recording(gpu.stream()),
    ):
        gpu_codec("sign", gpu.xp, 10)
