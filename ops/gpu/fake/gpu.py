"""Fake GPUs: memory, copies, recordings; see the package."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import numpy as np

from shoal.errors import CaptureError, ConfigError
from shoal.ops import backend
from shoal.ops.backend import Namespace
from shoal.ops.gpu.device import Memory, Recorded, Stream, installed
from shoal.ops.gpu.fake.arrays import Block, FakeArray, place, poison, ranges
from shoal.ops.gpu.fake.module import FakeModule
from shoal.ops.gpu.fake.products import FakeGemm
from shoal.ops.gpu.fake.timeline import FakeEvent, FakeStream, Timeline, races
from shoal.ops.gpu.kernels import products

__all__ = ["FakeGpu", "current_index", "entered", "fake_gpus"]

GRAIN = 512
"""Blocks of the pool are multiples of this many bytes, as CuPy's are."""

_state = threading.local()


def current_index() -> int:
    """The number of this thread's current GPU."""
    return int(getattr(_state, "index", 0))


@contextmanager
def entered(index: int) -> Iterator[None]:
    """Within this context this thread's current GPU is that one."""
    before = current_index()
    _state.index = index
    try:
        yield
    finally:
        _state.index = before


class _Pool:
    """Blocks that were used, by the stream that they were made on and their size, for whoever asks next."""

    def __init__(self) -> None:
        self.idle: dict[tuple[int, int], list[Any]] = {}
        self.used_bytes = self.held_bytes = self.peak_bytes = 0

    def take(self, stream: int, size: int) -> Any | None:
        found = self.idle.get((stream, size))
        return found.pop() if found else None

    def give(self, memory: Any, stream: int) -> Block:
        size = memory.nbytes
        self.used_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

        def back(m: Any) -> None:
            self.used_bytes -= size
            self.idle.setdefault((stream, size), []).append(m)

        return Block(memory, back)


class FakeGpu:
    """One of the GPUs of `fake_gpus`.

    Attributes:
        timeline: its streams.
        waits: why the host waited for it, each time: what runs at full speed has none.
        from_driver: how often memory was taken from the driver.
    """

    def __init__(self, index: int, xp: Namespace, module: FakeModule, total_bytes: int) -> None:
        self.index, self.xp, self.module, self.total_bytes = index, xp, module, total_bytes
        self.timeline = Timeline(index)
        self.waits: list[str] = []
        self.from_driver = 0
        self._reserved_bytes = 0
        self._pools = [_Pool()]

    @contextmanager
    def use(self) -> Iterator[None]:
        """Within this context arrays are made on this GPU."""
        with entered(self.index):
            yield

    def stream(self, priority: int = 0) -> FakeStream:
        """A stream of its own."""
        return self.timeline.stream(priority)

    def current(self) -> FakeStream:
        """The stream that work goes to."""
        return self.timeline.current

    def event(self) -> FakeEvent:
        """An event behind the work of the current stream."""
        return self.timeline.current.record()

    def pending(self) -> int:
        """How many pieces of work nobody has waited for yet."""
        return sum(1 for s in self.timeline.streams for w in s.waiting if w.waits is None)

    def races(self) -> list[str]:
        """Work on different streams that used the same memory without waiting, as far as it is remembered."""
        return races(list(self.timeline.history))

    # -- memory

    def empty(self, shape: Sequence[int], dtype: Any) -> FakeArray:
        """An array from the pool, of NaN (or 0)."""
        kind, shape = np.dtype(dtype), tuple(int(n) for n in ((shape,) if isinstance(shape, int) else shape))
        count = int(np.prod(shape, dtype=np.int64))
        size = max(1, -(-count * kind.itemsize // GRAIN)) * GRAIN
        if self.timeline.depth:  # of work that is carried out now: blocks idle now were in use when it was asked for
            raw = np.empty(size, np.uint8)[: count * kind.itemsize].view(kind).reshape(shape)
            return FakeArray(raw, self, Block(raw, _dropped))
        pool, stream = self._pools[-1], self.timeline.current
        self._refuse_shared_pool(stream)
        memory = pool.take(stream.number, size)
        fresh = memory is None
        if memory is None:
            memory = self._driver(size, "the pool has no block that fits")
            pool.held_bytes += size
        raw = memory[: count * kind.itemsize].view(kind).reshape(shape)
        if fresh or not (stream.waiting or self.timeline.recording):
            poison(raw)  # used memory keeps what it has until the work that is put off has read it
        return FakeArray(raw, self, pool.give(memory, stream.number))

    def _refuse_shared_pool(self, stream: FakeStream) -> None:
        if self.timeline.recording_of(stream) is not None and len(self._pools) == 1:
            raise CaptureError(
                f"gpu:{self.index}: an array is made in a recording, from the shared pool: when it is dropped, others "
                "get memory that the recording goes on to write to; use private_pool(), and the arena of a plan"
            )

    def _driver(self, size: int, why: str) -> Any:
        if self.timeline.recording is not None:
            raise CaptureError(
                f"gpu:{self.index}: {size} bytes are taken from the driver in a recording ({why}); warm up first, on "
                "the stream that is recorded"
            )
        held = self._reserved_bytes + sum(p.held_bytes for p in self._pools)
        if held + size > self.total_bytes:
            raise MemoryError(f"gpu:{self.index}: {size} bytes are wanted, {held} of {self.total_bytes} are taken")
        self.from_driver += 1
        return np.zeros(size, np.uint8)

    def reserve(self, size_bytes: int) -> FakeArray:
        """A flat array from the driver, of 255s: NaN in every type of floats."""
        memory = self._driver(max(1, size_bytes), "reserve() is for the beginning")
        memory.fill(255)
        self._reserved_bytes += size_bytes

        def back(_: Any) -> None:
            self._reserved_bytes -= size_bytes

        return FakeArray(memory[:size_bytes], self, Block(memory, back))

    def pinned(self, shape: Sequence[int], dtype: Any) -> Any:
        """A NumPy array."""
        if self.timeline.recording is not None:
            raise CaptureError(f"gpu:{self.index}: pinned memory is taken in a recording; take it before")
        return np.zeros(tuple(shape), dtype)

    @contextmanager
    def private_pool(self, pool: Any = None) -> Iterator[Any]:
        """Within this context arrays come from a pool of their own."""
        pool = _Pool() if pool is None else pool
        with self._from(pool):
            yield pool

    @contextmanager
    def _from(self, pool: _Pool) -> Iterator[None]:
        self._pools.append(pool)
        try:
            yield
        finally:
            self._pools.pop()

    def memory(self) -> Memory:
        """Of the shared pool, and what was reserved."""
        pool = self._pools[0]
        held = pool.held_bytes + self._reserved_bytes
        return Memory(pool.used_bytes, pool.held_bytes, pool.peak_bytes, self.total_bytes - held, self.total_bytes)

    def release(self) -> None:
        """Give idle blocks back."""
        for pool in self._pools:
            pool.held_bytes -= sum(size * len(found) for (_, size), found in pool.idle.items())
            pool.idle.clear()

    # -- work

    def copy(self, to: Any, source: Any, stream: Stream) -> None:
        """Behind the work of ``stream``."""
        a, b = (x._raw if isinstance(x, FakeArray) else x for x in (to, source))
        if a.nbytes != b.nbytes:
            raise ValueError(f"copy of {b.shape} {b.dtype} to {a.shape} {a.dtype}: not as many bytes")
        if not (a.flags.c_contiguous and b.flags.c_contiguous):
            raise ValueError(f"copy of {b.shape} to {a.shape}: both must be contiguous")
        target, origin = a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)

        def run() -> None:
            target[...] = origin

        with cast(FakeStream, stream):
            self.timeline.put("copy", run, ranges([b]), ranges([a]))

    def launch(
        self,
        name: str,
        work: Callable[[], None],
        stream: Stream,
        reads: Sequence[Any] = (),
        writes: Sequence[Any] = (),
        library: str = "",
    ) -> None:
        """Put ``work`` off, as one piece; or in pieces if nothing is said of what it reads and writes."""
        with self.use(), cast(FakeStream, stream):
            if library:
                self.refuse_library(library, name)
            if not reads and not writes:
                work()
                return
            place(name, (*reads, *writes), {})

            def run() -> None:
                with self.use():
                    work()

            self.timeline.put(name, run, ranges(reads), ranges(writes))

    def refuse_library(self, library: str, name: str) -> None:
        """Object to a library in a recording.

        Raises:
            CaptureError: the current stream is being recorded.
        """
        if not self.timeline.depth and self.timeline.recording_of(self.timeline.current) is not None:
            raise CaptureError(
                f"gpu:{self.index}: {name!r} calls {library}, which CuPy does not allow during stream capture"
            )

    @contextmanager
    def recording(self, stream: Stream) -> Iterator[Callable[[], Recorded]]:
        """Within this context work of ``stream`` is recorded."""
        at = cast(FakeStream, stream)
        made: list[Recorded] = []
        recording = self.timeline.begin(at)
        try:
            with self.use(), at:
                yield lambda: made[0]
            made.append(self.timeline.end(recording))
        finally:
            self.timeline.recording = None

    def synchronize(self) -> None:
        """Do all work."""
        self.timeline.synchronize()


def _dropped(memory: Any) -> None:
    """Memory that is of no pool."""


@contextmanager
def fake_gpus(count: int = 1, total_bytes: int = 1 << 30, *, kernels: bool = False) -> Iterator[list[FakeGpu]]:
    """Within this context there are ``count`` GPUs, of which each has ``total_bytes``; gives them.

    Args:
        kernels: run the kernels of `shoal.ops.gpu.kernels` where operators have one, by `shoal.ops.gpu.emulate`: slow,
            and to the last bit what the kernels compute. Without it operators run on the array namespace, by NumPy.

    Raises:
        ConfigError: there are fake ones already.
    """
    if backend.gpu_source() is not None:
        raise ConfigError("there are fake GPUs already")
    gpus: list[FakeGpu] = []
    module = FakeModule(lambda: gpus[current_index()], count, kernels=kernels)
    xp = Namespace(cast(Any, module), FakeArray, cast(Any, module).special)
    gpus += [FakeGpu(i, xp, module, total_bytes) for i in range(count)]

    def source(index: int) -> FakeGpu:
        if not 0 <= index < count:
            raise ConfigError(f"gpu:{index} does not exist: there are {count} (fake) GPUs")
        return gpus[index]

    with ExitStack() as stack:
        stack.enter_context(backend.gpus_from(xp, count))
        stack.enter_context(installed(source))
        stack.enter_context(entered(0))
        if kernels:
            stack.enter_context(products.installed(FakeGemm(lambda: gpus[current_index()])))
        yield gpus
