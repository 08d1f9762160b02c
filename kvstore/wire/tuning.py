"""What a process that shoal starts changes about itself, because it does little else than move arrays."""

import ctypes

__all__ = ["tune_malloc"]


def tune_malloc() -> None:
    """Let glibc keep message-sized blocks instead of returning them to the kernel after each message.

    Every fresh page costs a fault; keeping the blocks doubles the throughput of 1 MB messages. It changes the whole
    process, so only the processes that shoal starts do it. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)
