"""From gradients on a GPU to the store and back, on GPUs made of NumPy whose streams go on in any order."""

import itertools
import random
import traceback
from collections import Counter
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, StoreError, StoreTimeoutError
from shoal.kvstore.codecs import Encoded, Span, parse
from shoal.kvstore.codecs.base import Address, CodecState
from shoal.ops.gpu.fake import FakeGpu, fake_gpus
from shoal.ops.gpu.fake.timeline import FakeStream
from shoal.ops.precision import BFLOAT16
from shoal.worker.device.path import DevicePath
from shoal.worker.device.plan import ALIGN_BYTES, Bucket, Item, planned
from shoal.worker.device.ring import Ring

F32, F16 = np.dtype(np.float32), np.dtype(np.float16)


# --- the plan -------------------------------------------------------------------------------------------------------


def test_the_last_layers_are_in_the_first_bucket() -> None:
    items = {f"w{i}": Item((100,), F32) for i in range(6)}
    found = planned(items, bucket_bytes=1100)
    assert [b.names for b in found] == [("w5", "w4"), ("w3", "w2"), ("w1", "w0")]
    assert [b.priority for b in found] == [-4, -2, 0]


def test_parameters_of_different_kinds_and_dtypes_are_apart() -> None:
    items = {
        "a": Item((4,), F32, (1.0, 1.0)),
        "b": Item((4,), F32, (2.0, 1.0)),
        "c": Item((4,), F16, (1.0, 1.0)),
        "d": Item((4,), F32, (1.0, 1.0)),
    }
    assert [b.names for b in planned(items)] == [("c",), ("b",), ("d", "a")]


@given(
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from([F32, F16])), min_size=1, max_size=9), st.integers(1, 3000)
)
def test_every_parameter_has_a_place_of_its_own(sizes: Any, bucket_bytes: int) -> None:
    items = {f"p{i}": Item((n,), dtype) for i, (n, dtype) in enumerate(sizes)}
    buckets = planned(items, bucket_bytes)
    assert Counter(n for b in buckets for n in b.names) == Counter(list(items))
    for b in buckets:
        flat = np.zeros(b.size, b.dtype)
        for name in b.names:
            assert b.starts[b.names.index(name)] * b.dtype.itemsize % ALIGN_BYTES == 0
            b.view(flat, name)[...] += 1
        assert flat.max(initial=0) <= 1 and flat.sum() == sum(items[n].shape[0] for n in b.names)
        assert len(b.names) == 1 or b.size * b.dtype.itemsize <= bucket_bytes
    assert [b.priority for b in buckets] == sorted(b.priority for b in buckets)


def test_a_ring_gives_each_slot_once_and_takes_it_back() -> None:
    with fake_gpus() as (gpu,):
        ring = Ring(gpu, 2, 16, 32)
        slots = [ring.take(), ring.take(), ring.take()]
        assert slots == [0, 1, None] and ring.free == 0
        ring.give(1)
        assert (
            ring.take() == 1 and ring.values(1, 8, np.float32).nbytes == 32 and ring.wire(0, 8, np.float16).nbytes == 16
        )


# --- the path -------------------------------------------------------------------------------------------------------


class Store:
    """Answers when it is told to: weights minus a tenth of the gradient, as SGD would."""

    def __init__(self, buckets: list[Bucket]) -> None:
        self.weights = [np.zeros(b.size, b.dtype) for b in buckets]
        self.asked: list[tuple[int, Any, Future[Any]]] = []
        self.sent: list[int] = []
        self.in_use: list[Any] = []

    def send(self, i: int, given: Any, values: Any) -> Future[Any]:
        if isinstance(given, Encoded):
            given.decode([Span(i, 0, values.size)], values)
        assert not any(np.shares_memory(values, other) for other in self.in_use), "a slot is filled while it is in use"
        future: Future[Any] = Future()
        self.in_use.append(values)
        self.asked.append((i, values, future))
        self.sent.append(i)
        self.kept = values.copy()
        return future

    def answer(self, which: int) -> None:
        i, values, future = self.asked.pop(which)
        self.weights[i] -= np.float32(0.1) * values
        values[...] = self.weights[i]
        self.in_use = [v for v in self.in_use if v is not values]
        future.set_result(values)


BUCKETS = planned({f"w{i}": Item((n,), F32) for i, n in enumerate((5, 64, 3, 70, 9, 64, 1))}, 600)
RNG = np.random.default_rng(5)
GRADS = [[RNG.standard_normal(b.size).astype(np.float32) for b in BUCKETS] for _ in range(3)]


WIRES = ["", "bf16", "fp16", "sign", "2bit:threshold=0.2", "1bit"]
WIRES += ["int8:block=32", "int8:block=32,feedback=true", "qsgd:bucket=32", "onebit:block=32", "efsign:block=32"]
WIRES += ["topk:ratio=0.2", "topk:ratio=1.0", "randomk:ratio=0.2"]


def sent(wire: str, i: int, values: Any, clock: int, states: dict[int, CodecState]) -> Any:
    """What the store gets of a bucket: by the codec of the CPU."""
    if wire in ("", "bf16"):
        return values.astype(BFLOAT16).astype(np.float32) if wire else values
    codec, out = parse(wire), np.empty_like(values)
    codec.decode(codec.encode(values, states.setdefault(i, CodecState()), Address(0, 0, i, clock)), out)
    return out


def plain(wire: str = "", scale: float = 0.25) -> list[Any]:
    """The weights as the plain path has them."""
    found, states = [np.zeros(b.size, np.float32) for b in BUCKETS], dict[int, CodecState]()
    for clock, step in enumerate(GRADS):
        for i, (w, g) in enumerate(zip(found, step, strict=True)):
            w -= np.float32(0.1) * sent(wire, i, g * np.float32(scale), clock, states)
    return found


class World:
    """A fake GPU and a store, which go on a step at a time, where a choice says."""

    def __init__(self, gpu: FakeGpu, choose: Any, **options: Any) -> None:
        self.gpu, self.choose, self.store = gpu, choose, Store(BUCKETS)
        self.path = DevicePath(gpu, BUCKETS, self.store.send, idle=self.idle, **options)

    def idle(self) -> None:
        """Something goes on: the work of a stream, or an answer of the store."""
        streams = [s for s in self.gpu.timeline.streams if s.waiting]
        n = self.choose(len(streams) + len(self.store.asked))
        if n is None:
            return
        if n < len(streams):
            streams[n].carry_out(streams[n].carried_out + 1)
        else:
            self.store.answer(n - len(streams))

    def train(self, between: int = 0) -> list[Any]:
        """Steps whose "backward pass" writes each bucket's gradient, and then lets it leave."""
        for step in GRADS:
            self.path.begin()
            for i, g in enumerate(step):
                self.path.grads[i][...] = self.gpu.xp.asarray(g)
                self.path.ready(i, 0.25)
                for _ in range(between):
                    self.idle()
                    self.path.poll()
            for i in reversed(range(len(BUCKETS))):
                self.path.arrived(i)
        self.gpu.synchronize()
        return [w.get() for w in self.path.weights]


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 8), st.sampled_from(WIRES), st.integers(0, 4))
def test_in_whatever_order_streams_and_answers_come_the_numbers_are_those_of_the_plain_path(
    seed: int, slots: int, wire: str, between: int
) -> None:
    choices = random.Random(seed)
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: choices.randrange(n) if n else None, slots=slots, wire=wire)
        found = world.train(between)
        assert gpu.waits == [] or set(gpu.waits) == {"get()"}, "nobody waits for the GPU"
        assert gpu.races() == []
        for a, b in zip(found, plain(wire), strict=True):
            assert np.array_equal(a, b)


def test_a_gradient_that_a_codec_cannot_send_is_told_with_the_bucket() -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: 0 if n else None, wire="2bit")
        world.path.begin()
        world.path.grads[0][...] = np.float32(np.inf)
        world.path.ready(0, 1.0)
        with pytest.raises(StoreError, match=r"step 1: bucket 0 \('w6' ...\) cannot be sent: codec 2bit"):
            world.path.arrived(0)
        assert not world.path._wires[0].residual.get().any()


@pytest.mark.parametrize("after", ["", "fp16", "1bit"])
def test_what_a_codec_held_back_goes_with_the_next_gradients_when_it_is_changed(after: str) -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: 0 if n else None, wire="2bit:threshold=0.2")
        total = [np.zeros(b.size, np.float32) for b in BUCKETS]

        def send(i: int, given: Any, values: Any) -> Future[Any]:
            found = Store.send(world.store, i, given, values)
            total[i] += values
            return found

        world.path._send = send
        for n, step in enumerate(GRADS):
            if n == 2:
                world.path.change_wire(after)
            world.path.begin()
            for i, g in enumerate(step):
                world.path.grads[i][...] = gpu.xp.asarray(g)
                world.path.ready(i, 1.0)
            for i in reversed(range(len(BUCKETS))):
                world.path.arrived(i)
        gpu.synchronize()
        assert gpu.races() == []
        for i, found in enumerate(total):
            left = world.path._wires[i].residual
            held = 0.0 if left is None else left.get()
            tolerance = 2e-3 if after == "fp16" else 1e-5
            np.testing.assert_allclose(found + held, sum(g[i] for g in GRADS), atol=tolerance, rtol=1e-3)


def test_nothing_that_a_program_does_waits_when_no_slot_is_free() -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: 0 if n else None, slots=1)
        world.path.begin()
        before = gpu.pending()
        for i in range(len(BUCKETS)):
            world.path.ready(i, 1.0)
        assert gpu.pending() > before and world.path.ring.free == 0 and world.store.sent == []
        for i in range(len(BUCKETS)):
            world.path.arrived(i)
        assert world.store.sent == list(range(len(BUCKETS)))
        assert gpu.waits == []


def test_the_compute_stream_waits_for_nothing_before_weights_are_used() -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: None, slots=2)
        world.path.begin()
        for i in range(len(BUCKETS)):
            world.path.ready(i, 1.0)
        assert [w for w in gpu.timeline.default.waiting if w.waits is not None] == []
        gpu.timeline.default.carry_out(gpu.timeline.default.given)
        assert all(s.carried_out == 0 for s in gpu.timeline.streams[1:])


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from(WIRES))
def test_a_step_that_is_recorded_once_and_replayed_has_the_same_numbers(seed: int, wire: str) -> None:
    choices = random.Random(seed)
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: choices.randrange(n) if n else None, slots=len(BUCKETS), wire=wire)
        path, stream = world.path, gpu.stream()
        given_ = [gpu.xp.zeros(b.size, np.float32) for b in BUCKETS]
        gpu.synchronize()
        with gpu.recording(stream) as made:
            path.begin()
            for i, g in enumerate(given_):
                path.grads[i][...] = g
                path.ready(i, 0.25)
            path.join()
        path.recorded()
        step = made()
        with stream:
            for grads in GRADS:
                for g, values in zip(given_, grads, strict=True):
                    g[...] = gpu.xp.asarray(values)
                step.launch(stream)
                path.replayed()
                for i in reversed(range(len(BUCKETS))):
                    path.arrived(i)
        assert gpu.waits == []
        gpu.synchronize()
        assert gpu.races() == []
        for w, expected in zip(path.weights, plain(wire), strict=True):
            assert np.array_equal(w.get(), expected)


def test_a_recorded_step_needs_a_slot_for_each_bucket() -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: None, slots=1)
        gpu.synchronize()

        def step() -> None:
            with gpu.recording(gpu.stream()):
                world.path.begin()
                for i in range(len(BUCKETS)):
                    world.path.ready(i, 1.0)
                world.path.join()

        with pytest.raises(ConfigError, match=rf"slots={len(BUCKETS)}"):
            step()


def test_a_store_that_does_not_answer_is_named_with_the_bucket() -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: None, timeout_s=0.01)
        world.path.begin()
        world.path.ready(0, 1.0)
        with pytest.raises(StoreTimeoutError, match=r"bucket 0 of the GPU's gradients \('w6'"):
            world.path.arrived(0)


def test_an_error_of_the_store_reaches_who_waits_for_weights() -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: 0 if n else None)
        world.path.begin()
        world.path.ready(0, 1.0)
        while not world.store.asked:
            world.idle()
            world.path.poll()
        world.store.asked.pop()[2].set_exception(ConfigError("no"))
        with pytest.raises(ConfigError, match="no"):
            world.path.arrived(0)


def test_a_step_does_not_begin_before_weights_are_taken() -> None:
    with fake_gpus() as (gpu,):
        world = World(gpu, lambda n: None)
        world.path.begin()
        world.path.ready(0, 1.0)
        with pytest.raises(ConfigError, match="1 buckets were not taken"):
            world.path.begin()
        with pytest.raises(ConfigError, match="codec 'dgc' runs on the host"):
            DevicePath(gpu, BUCKETS, world.store.send, wire="dgc")
        with pytest.raises(ConfigError, match="1 buckets were not taken"):
            world.path.change_wire("sign")


# --- what happens if somebody does not wait ---------------------------------------------------------------------------


class Stuck(Exception):
    """Nothing comes any more."""


def goes_wrong(deaf_to: str, wire: str, order: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What tells that the waits of one method of the path are left out; empty if nothing does."""
    seen = Counter[str]()

    def wait(stream: Any, event: Any) -> None:
        place = traceback.extract_stack(limit=2)[0].name
        seen[place] += 1
        if place != deaf_to:
            stream.timeline.wait(stream, event)

    monkeypatch.setattr(FakeStream, "wait", wait)
    choices, asked = random.Random(3), itertools.count()

    def choose(n: int) -> int | None:
        if next(asked) > 2000:
            raise Stuck
        return {"first": 0, "last": n - 1, "any": choices.randrange(n)}[order] if n else None

    with fake_gpus() as (gpu,):
        world = World(gpu, choose, slots=2, wire=wire)
        try:
            found = world.train(1)
        except Stuck:
            return "it waits for ever"
        if gpu.races():
            return gpu.races()[0]
        same = all(np.array_equal(a, b) for a, b in zip(found, plain(wire), strict=True))
    assert not deaf_to or seen[deaf_to], f"{deaf_to} does not wait"
    return "" if same else "wrong numbers"


@pytest.mark.parametrize("order", ["any", "last"])
@pytest.mark.parametrize("wire", ["", "2bit:threshold=0.2"])
@pytest.mark.parametrize("place", ["", "ready", "_copy_out", "_advance", "_take"])
def test_a_wait_that_is_left_out_is_found(place: str, wire: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bool(goes_wrong(place, wire, order, monkeypatch)) == bool(place)
