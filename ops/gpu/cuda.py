"""A GPU by CuPy: `shoal.ops.gpu.device.Gpu`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Self, cast

import numpy as np

from shoal.errors import CaptureError, ConfigError
from shoal.ops.backend import gpu_count, gpu_namespace
from shoal.ops.gpu.device import Event, Memory, Recorded, Stream

__all__ = ["CudaEvent", "CudaGpu", "CudaRecorded", "CudaStream", "cuda_gpu"]


@cache
def cuda_gpu(index: int) -> "CudaGpu":
    """The GPU with this number; the same object each time.

    Raises:
        ConfigError: there is none, or no CuPy.
    """
    there = gpu_count()
    if not 0 <= index < there:
        raise ConfigError(f"gpu:{index} does not exist: this process sees {there} GPUs; `shoal doctor` says more")
    return CudaGpu(index)


class CudaEvent:
    """A place in a stream, without timing."""

    def __init__(self, event: Any) -> None:
        self.raw = event

    @property
    def done(self) -> bool:
        """Whether the GPU has come to it."""
        return bool(self.raw.done)

    def synchronize(self) -> None:
        """Wait until it has."""
        self.raw.synchronize()


class CudaStream:
    """A stream that does not wait for the default one."""

    def __init__(self, raw: Any, cuda: Any, index: int) -> None:
        self.raw, self._cuda, self._index = raw, cuda, index
        self.ptr, self.priority = int(raw.ptr), int(getattr(raw, "priority", 0))

    @property
    def done(self) -> bool:
        """Whether all of its work is done."""
        return bool(self.raw.done)

    def synchronize(self) -> None:
        """Wait until it is."""
        self.raw.synchronize()

    def record(self) -> CudaEvent:
        """An event behind the work so far."""
        with self._cuda.Device(self._index):
            event = self._cuda.Event(disable_timing=True)
        self.raw.record(event)
        return CudaEvent(event)

    def wait(self, event: Event) -> None:
        """What follows begins when ``event`` has been reached."""
        self.raw.wait_event(cast(CudaEvent, event).raw)

    def __enter__(self) -> Self:
        self.raw.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.raw.__exit__(*error)


class CudaRecorded:
    """A CUDA graph, and what must live as long: the pool it allocates from."""

    def __init__(self, graph: Any) -> None:
        self.raw = graph

    def launch(self, stream: Stream) -> None:
        """Do it all, behind the work of ``stream``."""
        self.raw.launch(cast(CudaStream, stream).raw)

    @property
    def nodes(self) -> int:
        """As far as CuPy can say: -1."""
        return -1


class CudaGpu:
    """One NVIDIA GPU; see `cuda_gpu`.

    Args:
        index: its number.
    """

    def __init__(self, index: int) -> None:
        self.index, self.xp = index, gpu_namespace()
        self._cuda = self.xp.module.cuda
        self._peak_bytes = 0

    @contextmanager
    def use(self) -> Iterator[None]:
        """Within this context arrays are made on this GPU."""
        with self._cuda.Device(self.index):
            yield

    def stream(self, priority: int = 0) -> CudaStream:
        """A non-blocking stream."""
        with self.use():
            return CudaStream(self._cuda.Stream(non_blocking=True, priority=priority), self._cuda, self.index)

    def current(self) -> CudaStream:
        """The stream that work goes to now."""
        with self.use():
            return CudaStream(self._cuda.get_current_stream(), self._cuda, self.index)

    def event(self) -> CudaEvent:
        """An event behind the work of the current stream."""
        return self.current().record()

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """An array from CuPy's pool."""
        with self.use():
            return self.xp.empty(tuple(shape), dtype)

    def reserve(self, size_bytes: int) -> Any:
        """A flat array straight from the driver."""
        cp = self.xp.module
        with self.use():
            block = self._cuda.Memory(max(1, size_bytes))
            return cp.ndarray((size_bytes,), np.uint8, memptr=self._cuda.MemoryPointer(block, 0))

    def pinned(self, shape: Sequence[int], dtype: Any) -> Any:
        """A NumPy array over page-locked memory."""
        count, kind = int(np.prod(tuple(shape), dtype=np.int64)), np.dtype(dtype)
        block = self._cuda.alloc_pinned_memory(max(1, count * kind.itemsize))
        return np.frombuffer(block, kind, count).reshape(tuple(shape))

    def copy(self, to: Any, source: Any, stream: Stream) -> None:
        """By ``cudaMemcpyAsync``."""
        if to.nbytes != source.nbytes:
            raise ValueError(f"copy of {source.shape} {source.dtype} to {to.shape} {to.dtype}: not as many bytes")
        runtime = self._cuda.runtime
        runtime.memcpyAsync(_address(to), _address(source), to.nbytes, runtime.memcpyDefault, stream.ptr)

    def launch(
        self,
        name: str,
        work: Callable[[], None],
        stream: Stream,
        reads: Sequence[Any] = (),
        writes: Sequence[Any] = (),
        library: str = "",
    ) -> None:
        """Call ``work`` with ``stream`` as the current one: kernels are asynchronous by themselves."""
        with self.use(), stream:
            work()

    @contextmanager
    def recording(self, stream: Stream) -> Iterator[Callable[[], Recorded]]:
        """A capture in relaxed mode, so that a thread that copies can go on."""
        raw = cast(CudaStream, stream).raw
        made: list[CudaRecorded] = []
        with self.use(), stream:
            raw.begin_capture()
            try:
                yield lambda: made[0]
            except BaseException:
                self._abandon(raw)
                raise
            try:
                made.append(CudaRecorded(raw.end_capture()))
            except Exception as error:  # CuPy's own kind
                raise CaptureError(f"gpu:{self.index}: the recording cannot be used: {error}") from error

    def _abandon(self, raw: Any) -> None:
        """End a capture that failed, so that the stream can be used again."""
        try:
            if raw.is_capturing():
                raw.end_capture()
        except Exception:  # the error that made it fail is the one to be told
            return

    @contextmanager
    def private_pool(self, pool: Any = None) -> Iterator[Any]:
        """Within this context this thread's arrays come from another pool."""
        pool = self._cuda.MemoryPool() if pool is None else pool
        with self._cuda.using_allocator(pool.malloc):
            yield pool

    def synchronize(self) -> None:
        """Wait for all streams of this GPU."""
        self._cuda.Device(self.index).synchronize()

    def memory(self) -> Memory:
        """Of CuPy's default pool and of the card."""
        pool = self.xp.module.get_default_memory_pool()
        with self.use():
            free, total = self._cuda.runtime.memGetInfo()
            used, held = int(pool.used_bytes()), int(pool.total_bytes())
        self._peak_bytes = max(self._peak_bytes, used)
        return Memory(used, held, self._peak_bytes, int(free), int(total))

    def release(self) -> None:
        """Give back the blocks that nobody uses."""
        with self.use():
            self.xp.module.get_default_memory_pool().free_all_blocks()
            self.xp.module.get_default_pinned_memory_pool().free_all_blocks()


def _address(x: Any) -> int:
    return int(x.ctypes.data) if isinstance(x, np.ndarray) else int(x.data.ptr)
