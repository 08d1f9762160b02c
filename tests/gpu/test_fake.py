"""The fake GPU: work is put off, waits order it, memory is used again, recordings refuse what CUDA refuses."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shoal.errors import CaptureError, ConfigError
from shoal.ops.gpu.device import gpu as gpu_of
from shoal.ops.gpu.fake import FakeGpu, fake_gpus


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    with fake_gpus(total_bytes=1 << 20) as (found,):
        yield found


def values(gpu: FakeGpu, x: Any) -> list[float]:
    return list(x._raw.reshape(-1).tolist())


def test_nothing_is_done_before_somebody_waits(gpu: FakeGpu) -> None:
    x = gpu.xp.ones(2)
    y = x + 1.0
    assert np.isnan(values(gpu, y)).all() and gpu.pending() == 2 and not gpu.current().done
    gpu.synchronize()
    assert values(gpu, y) == [2.0, 2.0] and gpu.pending() == 0 and gpu.current().done


def test_a_view_is_a_view(gpu: FakeGpu) -> None:
    x = gpu.xp.zeros((2, 3))
    x.T[0] = 5.0
    assert x.get().tolist() == [[5.0, 0.0, 0.0]] * 2
    assert x.reshape(6).data.ptr == x.data.ptr and x[1].data.ptr == x.data.ptr + 24


def test_streams_do_not_wait_for_each_other(gpu: FakeGpu) -> None:
    a, b = gpu.stream(), gpu.stream()
    x, host = gpu.reserve(16).view(np.float64), gpu.pinned((2,), float)
    gpu.launch("fill", lambda: x.fill(3.0), a, writes=[x])
    gpu.copy(host, x, b)
    b.synchronize()
    assert np.isnan(host).all()
    assert gpu.races() and "'fill' on stream" in gpu.races()[0]


def test_a_stream_that_waits_for_an_event_comes_after_it(gpu: FakeGpu) -> None:
    a, b = gpu.stream(), gpu.stream()
    x, host = gpu.reserve(16).view(np.float64), gpu.pinned((2,), float)
    gpu.launch("fill", lambda: x.fill(3.0), a, writes=[x])
    filled = a.record()
    b.wait(filled)
    gpu.copy(host, x, b)
    assert not filled.done
    b.synchronize()
    assert host.tolist() == [3.0, 3.0] and filled.done and not gpu.races()


def test_waiting_here_orders_what_is_asked_for_afterwards(gpu: FakeGpu) -> None:
    a, b = gpu.stream(), gpu.stream()
    x, host = gpu.reserve(16).view(np.float64), gpu.pinned((2,), float)
    gpu.launch("fill", lambda: x.fill(3.0), a, writes=[x])
    a.record().synchronize()
    gpu.copy(host, x, b)
    b.synchronize()
    assert host.tolist() == [3.0, 3.0] and not gpu.races()


def test_a_buffer_that_is_written_before_its_copy_has_left_is_a_race(gpu: FakeGpu) -> None:
    compute, d2h = gpu.stream(), gpu.stream()
    x, host = gpu.reserve(8).view(np.float64), gpu.pinned((1,), float)
    for step in range(2):  # the second step does not wait for the copy of the first
        gpu.launch("step", lambda step=step: x.fill(float(step)), compute, writes=[x])
        d2h.wait(compute.record())
        gpu.copy(host, x, d2h)
    compute.synchronize()
    d2h.synchronize()
    assert any("'copy'" in r and "'step'" in r for r in gpu.races())


def test_memory_that_is_dropped_is_used_again_on_its_stream(gpu: FakeGpu) -> None:
    x = gpu.xp.ones(4)
    where = x.data.ptr
    del x
    y = gpu.xp.zeros(4)
    assert y.data.ptr == where and gpu.memory().held_bytes == 512
    with gpu.stream():
        assert gpu.xp.zeros(4).data.ptr != where


def test_dropping_an_array_that_another_stream_still_reads_is_a_race(gpu: FakeGpu) -> None:
    d2h, host = gpu.stream(), gpu.pinned((4,), float)
    x = gpu.xp.ones(4)
    d2h.wait(gpu.event())
    gpu.copy(host, x, d2h)
    del x
    y = gpu.xp.zeros(4)
    assert y.shape == (4,) and gpu.races()


def test_memory_is_counted_and_ends(gpu: FakeGpu) -> None:
    x = gpu.xp.zeros(1000, np.uint8)
    m = gpu.memory()
    assert (m.used_bytes, m.held_bytes, m.peak_bytes, m.free_bytes) == (1024, 1024, 1024, (1 << 20) - 1024)
    del x
    assert gpu.memory().used_bytes == 0 and gpu.memory().held_bytes == 1024
    gpu.release()
    assert gpu.memory().held_bytes == 0
    with pytest.raises(MemoryError, match="are taken"):
        gpu.xp.zeros(1 << 21, np.uint8)


def test_reserved_memory_is_nan_until_it_is_written(gpu: FakeGpu) -> None:
    assert all(np.isnan(gpu.reserve(16).view(kind)._raw).all() for kind in (np.float16, np.float32, np.float64))


# -- recordings


def test_what_is_recorded_is_done_at_each_launch(gpu: FakeGpu) -> None:
    stream = gpu.stream()
    x = gpu.reserve(16).view(np.float64)
    x.fill(1.0)
    gpu.synchronize()
    with gpu.recording(stream) as recorded:
        x *= 2.0
        x += 1.0
    assert values(gpu, x) == [1.0, 1.0] and recorded().nodes == 2
    for _ in range(3):
        recorded().launch(stream)
    stream.synchronize()
    assert values(gpu, x) == [15.0, 15.0]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda g, x: x.get(), r"get\(\), which waits, cannot be part"),
        (lambda g, x: bool(x[0]), r"item\(\), which waits, cannot be part"),
        (lambda g, x: g.synchronize(), "waiting for the GPU cannot be part"),
        (lambda g, x: g.current().synchronize(), "waiting for a stream cannot be part"),
        (lambda g, x: g.current().record().synchronize(), "recorded, not reached, is waited for"),
        (lambda g, x: g.current().record().done, "recorded, not reached, is asked"),
        (lambda g, x: x + 1.0, r"an array is made in a recording, from the shared pool.*private_pool\(\)"),
        (lambda g, x: g.reserve(8), "taken from the driver in a recording"),
        (lambda g, x: g.pinned((2,), float), "pinned memory is taken in a recording"),
        (lambda g, x: g.xp.matmul(x, x, out=x), "'matmul' calls cuBLAS, which CuPy does not allow"),
        (lambda g, x: x @ x, "calls cuBLAS"),
        (lambda g, x: g.xp.module.random.random(3), "calls cuRAND"),
        (lambda g, x: g.launch("mm", lambda: None, g.current(), [x], [x], "cuBLAS"), "'mm' calls cuBLAS"),
        (lambda g, x: g.xp.asarray(np.ones(2)), "copies values of the host in a recording"),
        (lambda g, x: g.recording(g.current()).__enter__(), "a recording is under way already"),
    ],
)
def test_a_recording_refuses(gpu: FakeGpu, what: Any, message: str) -> None:
    stream, x = gpu.stream(), gpu.reserve(32).view(np.float64).reshape(2, 2)
    with pytest.raises(CaptureError, match=message), gpu.recording(stream):
        what(gpu, x)
    stream.synchronize()  # it is usable again
    with gpu.recording(stream) as recorded:
        x += 1.0
    assert recorded().nodes == 1


def test_the_default_stream_is_not_recorded(gpu: FakeGpu) -> None:
    with pytest.raises(CaptureError, match="default stream"), gpu.recording(gpu.current()):
        pass


def test_a_private_pool_serves_a_recording_once_it_is_warm(gpu: FakeGpu) -> None:
    stream, x = gpu.stream(), gpu.xp.ones(4)
    gpu.synchronize()
    out = gpu.reserve(32).view(np.float64)
    with gpu.private_pool():
        with pytest.raises(CaptureError, match="warm up first"), gpu.recording(stream):
            x + 1.0
        with stream:
            x + 1.0
        with gpu.recording(stream) as recorded:
            gpu.xp.copyto(out, x + 1.0)
    recorded().launch(stream)
    stream.synchronize()
    assert values(gpu, out) == [2.0] * 4


def test_side_streams_fork_from_a_recording_and_must_join_it(gpu: FakeGpu) -> None:
    stream, side = gpu.stream(), gpu.stream()
    x, host = gpu.reserve(16).view(np.float64), gpu.pinned((2,), float)
    x.fill(0.0)
    gpu.synchronize()
    with gpu.recording(stream) as graph:
        x += 1.0
        side.wait(stream.record())
        gpu.copy(host, x, side)
        stream.wait(side.record())
    graph().launch(stream)
    graph().launch(stream)
    stream.synchronize()
    assert host.tolist() == [2.0, 2.0]
    recorded = gpu.recording(stream)
    recorded.__enter__()
    x += 1.0
    side.wait(stream.record())
    gpu.copy(host, x, side)
    with pytest.raises(CaptureError, match="ends before stream"):
        recorded.__exit__(None, None, None)


def test_a_race_inside_of_a_recording_is_found(gpu: FakeGpu) -> None:
    stream, side = gpu.stream(), gpu.stream()
    x, host = gpu.reserve(16).view(np.float64), gpu.pinned((2,), float)
    recorded = gpu.recording(stream)
    recorded.__enter__()
    side.wait(stream.record())
    x += 1.0
    gpu.copy(host, x, side)
    stream.wait(side.record())
    with pytest.raises(CaptureError, match="use the same memory"):
        recorded.__exit__(None, None, None)


def test_a_recorded_stream_does_not_wait_for_what_is_outside(gpu: FakeGpu) -> None:
    stream, event = gpu.stream(), gpu.event()
    with pytest.raises(CaptureError, match="from outside"), gpu.recording(stream):
        stream.wait(event)
    with gpu.recording(stream):
        inside = stream.record()
    with pytest.raises(CaptureError, match="has ended"):
        gpu.stream().wait(inside)


# -- several


def test_arrays_of_two_gpus_do_not_mix() -> None:
    with fake_gpus(2) as (a, b):
        x = a.xp.ones(2)
        with b.use(), pytest.raises(ValueError, match="array device = 0 while current = 1"):
            _ = x + 1.0
        with b.use():
            y = b.xp.asarray(x)
        assert y.device.id == 1 and gpu_of(1) is b
        with pytest.raises(ConfigError, match="gpu:2 does not exist"):
            gpu_of(2)


def test_there_is_one_set_of_fake_gpus() -> None:
    with fake_gpus(), pytest.raises(ConfigError, match="already"), fake_gpus():
        pass


@pytest.mark.parametrize(("to", "source"), [((3,), (2,)), ((2, 2), (5,))])
def test_a_copy_is_of_as_many_bytes(gpu: FakeGpu, to: Any, source: Any) -> None:
    with pytest.raises(ValueError, match="not as many bytes"):
        gpu.copy(gpu.empty(to, "float32"), gpu.empty(source, "float32"), gpu.current())
    with pytest.raises(ValueError, match="contiguous"):
        gpu.copy(gpu.empty((2, 2), "float32").T, gpu.empty((2, 2), "float32"), gpu.current())
