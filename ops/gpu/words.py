"""What users ask of a GPU, in PyTorch's words: see `shoal.cuda`."""

from typing import Any

from shoal.ops.backend import gpu_count, gpu_number
from shoal.ops.context import current_device
from shoal.ops.gpu.device import Gpu, Stream, gpu

__all__ = [
    "current_stream",
    "device_count",
    "empty_cache",
    "is_available",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "stream",
    "synchronize",
]


def _of(device: Any) -> Gpu:
    """The GPU of a number, of text, or the current one; the first if that is the CPU."""
    if isinstance(device, int):
        return gpu(device)
    return gpu(max(0, gpu_number(str(current_device() if device is None else device))))


def is_available() -> bool:
    """Whether there is a GPU that this process can use."""
    return gpu_count() > 0


def device_count() -> int:
    """How many GPUs this process can use: 0 without CuPy or without a driver."""
    return gpu_count()


def synchronize(device: Any = None) -> None:
    """Wait until a GPU has done all work.

    Args:
        device: a number, "gpu:1", or None for the current one, here and below.
    Raises:
        ConfigError: there is no such GPU, here and below.
    """
    _of(device).synchronize()


def memory_allocated(device: Any = None) -> int:
    """Bytes in arrays that are alive."""
    return _of(device).memory().used_bytes


def memory_reserved(device: Any = None) -> int:
    """Bytes taken from the driver: those of arrays, and those kept for the next ones."""
    return _of(device).memory().held_bytes


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that were in arrays at once, as far as it was looked at."""
    return _of(device).memory().peak_bytes


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Bytes that no process has taken, and bytes in all."""
    found = _of(device).memory()
    return found.free_bytes, found.total_bytes


def memory_stats(device: Any = None) -> dict[str, int]:
    """All of these by name, in bytes."""
    found = _of(device).memory()
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


def empty_cache(device: Any = None) -> None:
    """Give memory that is kept for the next arrays back to the driver."""
    _of(device).release()


def stream(device: Any = None, priority: int = 0) -> Stream:
    """A stream that waits for no other one; ``with stream:`` makes it the current one.

    Args:
        priority: smaller goes first; 0 is the lowest.
    """
    return _of(device).stream(priority)


def current_stream(device: Any = None) -> Stream:
    """The stream that work goes to now."""
    return _of(device).current()
