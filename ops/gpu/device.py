"""What shoal asks of a GPU, and the one place where a GPU is opened.

Two classes do what `Gpu` says: `shoal.ops.gpu.cuda.CudaGpu`, by CuPy, and `shoal.ops.gpu.fake.FakeGpu`, which
is made of NumPy: its streams are lists of work that is done only when somebody waits for it, so that a missing wait
gives wrong numbers, and it refuses what a recording forbids. What is written against this interface is tested on
the latter.

Nothing here waits for the GPU but what is called ``synchronize``, and `Gpu.reserve`, `Gpu.pinned` and closing,
which are for the beginning of a run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from shoal.ops.backend import Namespace

__all__ = ["Event", "Gpu", "Memory", "Recorded", "Stream", "gpu", "installed"]


class Event(Protocol):
    """A place in a stream."""

    @property
    def done(self) -> bool:
        """Whether the GPU has come to it."""

    def synchronize(self) -> None:
        """Wait, here, until it has."""


class Stream(Protocol):
    """Work for the GPU, done in order; the work of several streams overlaps. ``with stream:`` makes it the current one.

    Attributes:
        ptr: the ``cudaStream_t``, for libraries.
        priority: smaller goes first; 0 is the lowest.
    """

    ptr: int
    priority: int

    @property
    def done(self) -> bool:
        """Whether all of its work is done."""

    def synchronize(self) -> None:
        """Wait, here, until all of its work is done."""

    def record(self) -> Event:
        """An event behind the work so far."""

    def wait(self, event: Event) -> None:
        """The work that follows begins when ``event`` has been reached; nobody waits here."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class Recorded(Protocol):
    """Work that was recorded, and can be done again by one call; it reads and writes the same memory each time."""

    def launch(self, stream: Stream) -> None:
        """Do it all, behind the work of ``stream``."""

    @property
    def nodes(self) -> int:
        """How many pieces of work it has; -1 where that is unknown."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a GPU's memory.

    Attributes:
        used_bytes: in arrays that are alive.
        held_bytes: taken from the driver: those in use and those kept for the next array.
        peak_bytes: the most that was in use, as far as this was looked at; -1 where nobody counts.
        free_bytes: not taken by any process.
        total_bytes: of the card.
    """

    used_bytes: int
    held_bytes: int
    peak_bytes: int
    free_bytes: int
    total_bytes: int


class Gpu(Protocol):
    """One GPU.

    Attributes:
        index: its number, as in "gpu:0".
        xp: the array namespace of its arrays.
    """

    index: int
    xp: Namespace

    def use(self) -> AbstractContextManager[None]:
        """Within this context arrays are made, and work is done, on this GPU."""

    def stream(self, priority: int = 0) -> Stream:
        """A stream of its own, which does not wait for the default one."""

    def current(self) -> Stream:
        """The stream that work goes to now."""

    def event(self) -> Event:
        """An event behind the work of the current stream."""

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """An array from the pool, with whatever was there.

        Raises:
            CaptureError: (the fake) memory would be taken from the driver in a recording.
        """

    def reserve(self, size_bytes: int) -> Any:
        """A flat uint8 array of its own, not from the pool: for arenas, which outlive recordings."""

    def pinned(self, shape: Sequence[int], dtype: Any) -> Any:
        """A NumPy array in host memory that copies to and from the GPU need not wait for. Keep it: if it is dropped,
        the memory may be given out again while a copy is under way."""

    def copy(self, to: Any, source: Any, stream: Stream) -> None:
        """Copy between arrays of equal size in bytes and C order, behind the work of ``stream``; nobody waits.

        Either may be an array of this GPU or a pinned one.
        """

    def launch(
        self,
        name: str,
        work: Callable[[], None],
        stream: Stream,
        reads: Sequence[Any] = (),
        writes: Sequence[Any] = (),
        library: str = "",
    ) -> None:
        """Do ``work``, which is kernels and calls of libraries on arrays of this GPU, behind the work of ``stream``.

        Args:
            name: for messages.
            reads, writes: the arrays; the fake looks for work that does not wait for what it depends on.
            library: the library that is called, if it is one that recordings forbid (cuBLAS through CuPy, cuRAND).
        """

    def recording(self, stream: Stream) -> AbstractContextManager[Callable[[], Recorded]]:
        """Within this context, work of ``stream`` (and of streams that wait for its events) is not done but recorded.

        Gives a function that gives the recording, after the context.

        Raises:
            CaptureError: what was asked for inside cannot be recorded. The stream is usable again.
        """

    def private_pool(self, pool: Any = None) -> AbstractContextManager[Any]:
        """Within this context, arrays come from a pool of their own, which lives as long as the object it gives.

        Args:
            pool: what an earlier context gave, to go on with that one.
        """

    def synchronize(self) -> None:
        """Wait, here, for all streams."""

    def memory(self) -> Memory:
        """How much memory there is, and who has it."""

    def release(self) -> None:
        """Give the memory that the pool keeps for the next array back to the driver."""


_source: list[Callable[[int], Gpu]] = []
"""Who makes GPUs instead of CuPy."""


def gpu(index: int = 0) -> Gpu:
    """The GPU with this number.

    Raises:
        ConfigError: there is none, or no CuPy.
    """
    if _source:
        return _source[-1](index)
    from shoal.ops.gpu.cuda import cuda_gpu

    return cuda_gpu(index)


@contextmanager
def installed(source: Callable[[int], Gpu]) -> Iterator[None]:
    """Within this context, `gpu` gives what ``source`` makes."""
    _source.append(source)
    try:
        yield
    finally:
        _source.remove(source)
