"""Codecs on a GPU: the bits of the codecs of the CPU, by kernels and by the array namespace."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import CaptureError, ConfigError
from shoal.kvstore.codecs import Encoding, Span, parse
from shoal.kvstore.codecs.base import Address, CodecState
from shoal.kvstore.codecs.ongpu import GpuCodec, gpu_codec
from shoal.ops.backend import CPU
from shoal.ops.gpu import emulate
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from tests.ops.gpu.running import in_every_order, needs_compiler

SPECS = ["2bit:threshold=0.5", "2bit:threshold=0.1", "1bit", "1bit:threshold=-0.25", "1bit:threshold=2", "sign", "fp16"]
SPECS += ["int8", "int8:block=32", "int8:block=64,feedback=true"]
SPECS += ["qsgd", "qsgd:levels=1,bucket=32", "qsgd:levels=5,bucket=64", "qsgd:levels=127", "qsgd:levels=255,bucket=32"]
SPECS += ["onebit", "onebit:block=32", "efsign", "efsign:block=64"]
SPECS += ["topk:ratio=0.1", "topk:ratio=1.0", "randomk:ratio=0.1", "randomk:feedback=true", "randomk:shared=true"]
PLACES = [pytest.param(CPU, id="namespace"), pytest.param(emulate.NAMESPACE, id="kernels", marks=needs_compiler)]
CUTS = [(0, 1), (0, 33), (0, 16, 19, 1000), (0, 4101), (0, 1024, 2048)]
SEED, WORKER, CLOCK, AFTER = 11, 2, 5, 8


def gradient(n: int, step: int, spread: float = 0.4) -> Any:
    rng = np.random.default_rng([n, step])
    found = (rng.standard_normal(n) * spread).astype(np.float32)
    found[rng.random(n) < 0.2] = 0.0  # padding, and units that are off
    found[rng.random(n) < 0.05] *= 1e-7
    return found


def encoding(spec: str, *cuts: int) -> Encoding:
    """Slices of a key, at a clock that is not the first."""
    spans = [Span(7 + i, a, b, CLOCK) for i, (a, b) in enumerate(itertools.pairwise(cuts))]
    return Encoding(parse(spec).spec(), SEED, WORKER, tuple(spans))


class Both:
    """A codec on the CPU, and on a GPU."""

    def __init__(self, spec: str, xp: Any, *cuts: int) -> None:
        self.encoding, self.codec, self.n = encoding(spec, *cuts), parse(spec), cuts[-1]
        self.states = [CodecState() for _ in self.encoding.spans]
        self.gpu: GpuCodec = gpu_codec(self.encoding, xp, after=AFTER)
        self.steps = 0

    def expected(self, grad: Any) -> list[list[Any]]:
        """What the CPU sends of each slice."""
        found = []
        for span, state in zip(self.encoding.spans, self.states, strict=True):
            at = Address(SEED, WORKER, span.slice, CLOCK + self.steps)
            found.append(self.codec.encode(grad[span.start : span.stop], state, at))
        self.steps += 1
        return found

    def same(self, out: Any, grad: Any) -> None:
        """Bits of parts, and of decoded values."""
        made, expected = self.gpu.encoded(out), self.expected(grad)
        assert made is not None and made.spec == self.codec.spec()
        for parts, others in zip(made.parts, expected, strict=True):
            assert [(p.dtype, p.tobytes()) for p in parts] == [(p.dtype, p.tobytes()) for p in others]
        values, dense = np.full(self.n, np.nan, np.float32), np.empty(self.n, np.float32)
        made.decode(self.encoding.spans, values)
        for span, others in zip(self.encoding.spans, expected, strict=True):
            self.codec.decode(others, dense[span.start : span.stop])
        assert values.tobytes() == dense.tobytes()

    def step(self, grad: Any) -> None:
        """One gradient; bits of parts and residuals, and decoded values, are the same."""
        self.gpu.encode(grad, np.array([AFTER + 1 + self.steps], np.uint32))
        self.same(self.gpu.out.copy(), grad)
        if self.gpu.residual is not None:
            left = np.concatenate([s.arrays["residual"] for s in self.states])
            assert self.gpu.residual.tobytes() == left.tobytes()


@pytest.mark.parametrize("xp", PLACES)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_a_gpu_sends_the_bits_that_the_cpu_sends(spec: str, cuts: tuple[int, ...], xp: Any) -> None:
    both = Both(spec, xp, *cuts)
    for step in range(3):
        both.step(gradient(cuts[-1], step))


@pytest.mark.parametrize("xp", PLACES)
@pytest.mark.parametrize("spec", ["int8:feedback=true", "qsgd", "topk:ratio=0.01", "onebit:block=65536"])
def test_slices_that_are_longer_than_what_is_drawn_and_counted_at_once(spec: str, xp: Any) -> None:
    both = Both(spec, xp, 0, 70_000, 140_001)
    for step in range(2):
        both.step(gradient(140_001, step))


@pytest.mark.parametrize("xp", PLACES)
@pytest.mark.parametrize("spread", [1e38, 1e30, 1e-22, 1e-30, 1e-38, 1e-44])
@pytest.mark.parametrize("spec", ["int8", "qsgd:bucket=64", "qsgd:levels=200", "onebit", "efsign", "topk", "randomk"])
def test_numbers_at_the_ends_of_the_range_give_the_same_bits(spec: str, spread: float, xp: Any) -> None:
    both, grad = Both(spec, xp, 0, 700, 2048), gradient(2048, 0, 1.0)
    grad = np.clip(grad.astype(np.float64) * spread, -3e38, 3e38).astype(np.float32)
    grad[64:128] = gradient(64, 1)  # rows beside each other are apart
    both.step(grad)


@pytest.mark.parametrize("xp", PLACES)
def test_of_equal_magnitudes_the_first_are_sent_and_zeros_never(xp: Any) -> None:
    both, grad = Both("topk:ratio=0.5", xp, 0, 600, 1200), np.zeros(1200, np.float32)
    grad[100:500:2], grad[101:500:2] = 1.0, -1.0  # 400 equals, of which 300 have room
    grad[600:1200:100] = 2.0  # six, and room for 300
    both.step(grad)
    both.step(np.zeros(1200, np.float32))


def test_another_seed_worker_slice_or_clock_draws_other_numbers() -> None:
    grad, word = gradient(1000, 0), np.array([AFTER + 1], np.uint32)

    def bits(change: Encoding, after: int = AFTER) -> bytes:
        made = gpu_codec(change, CPU, after=after)
        made.encode(grad, word)
        return bytes(made.out.tobytes())

    first = encoding("int8", 0, 1000)
    (span,) = first.spans
    others = [
        first._replace(seed=12),
        first._replace(worker=3),
        first._replace(spans=(span._replace(slice=8),)),
        first._replace(spans=(span._replace(clock=6),)),
    ]
    assert len({bits(first), *map(bits, others), bits(first, AFTER - 1)}) == 5  # the last two are one clock


@needs_compiler
@settings(max_examples=25)
@given(st.sampled_from(SPECS), st.integers(1, 200), st.integers(0, 2**32), st.sampled_from([1e-30, 0.3, 7.0, 3e4]))
def test_whatever_the_gradients_are_the_bits_agree(spec: str, n: int, seed: int, spread: float) -> None:
    both = [Both(spec, xp, 0, n) for xp in (CPU, emulate.NAMESPACE)]
    for step in range(3):
        grad = np.clip(gradient(n, seed + step, spread), -65000, 65000)
        for one in both:
            one.step(grad)


@needs_compiler
@pytest.mark.parametrize("spec", SPECS)
def test_the_order_of_threads_does_not_matter(spec: str) -> None:
    def run() -> list[np.ndarray]:
        made = gpu_codec(encoding(spec, 0, 500, 700), emulate.NAMESPACE)
        for step in range(2):
            made.encode(gradient(700, step), np.array([step + 1], np.uint32))
        return [made.out, *([] if made.residual is None else [made.residual])]

    in_every_order(run)


@pytest.mark.parametrize("xp", PLACES)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "spec", ["2bit", "1bit", "sign", "int8:feedback=true", "qsgd", "onebit", "efsign", "topk", "randomk"]
)
def test_a_gradient_that_cannot_be_sent_changes_nothing_and_is_told(spec: str, bad: float, xp: Any) -> None:
    both = Both(spec, xp, 0, 20, 50)
    both.step(gradient(50, 0))
    before = None if both.gpu.residual is None else both.gpu.residual.copy()
    wrong = gradient(50, 1)
    wrong[17] = bad
    both.gpu.encode(wrong, np.array([AFTER + 2], np.uint32))
    assert both.gpu.encoded(both.gpu.out) is None
    assert before is None or np.array_equal(both.gpu.residual, before)
    both.step(gradient(50, 2))


@pytest.mark.parametrize("xp", PLACES)
def test_half_precision_passes_infinities_and_refuses_to_make_some(xp: Any) -> None:
    both, grad = Both("fp16", xp, 0, 4, 9), gradient(9, 0)
    grad[2] = np.inf
    both.step(grad)
    grad[3] = 65520.0
    both.gpu.encode(grad, np.array([AFTER + 2], np.uint32))
    assert both.gpu.encoded(both.gpu.out) is None


@pytest.mark.parametrize("spec", ["dgc", "powersgd", "demo", "bf16", "none"])
def test_other_codecs_run_on_the_host(spec: str) -> None:
    with pytest.raises(ConfigError, match="runs on the host; on a GPU there are 1bit, 2bit, efsign"):
        gpu_codec(encoding(spec, 0, 10), CPU)


@pytest.fixture(params=[False, pytest.param(True, marks=needs_compiler)], ids=["namespace", "kernels"])
def gpu(request: pytest.FixtureRequest) -> Iterator[FakeGpu]:
    """With kernels or without."""
    with fake_gpus(kernels=request.param) as (found,):
        yield found


@pytest.mark.parametrize("spec", SPECS)
def test_encoding_does_not_wait_and_can_be_recorded(gpu: FakeGpu, spec: str) -> None:
    n = 90
    with gpu.use():
        both = Both(spec, gpu.xp, 0, 64, n)
        made = both.gpu
        grad, word = gpu.xp.zeros(n, np.float32), gpu.xp.full(1, AFTER, np.uint32)
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
        both.same(out, gradient(n, step))


@needs_compiler
def test_kernels_are_compiled_before_a_recording() -> None:
    with (
        fake_gpus(kernels=True) as (gpu,),
        gpu.private_pool(),
        pytest.raises(CaptureError, match="in a recording"),
        gpu.recording(gpu.stream()),
    ):
        gpu_codec(encoding("sign", 0, 10), gpu.xp)
