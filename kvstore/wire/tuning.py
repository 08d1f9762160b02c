"""What a process that shoal starts changes about itself, because it does little else than move arrays."""

import ctypes
import gc
import logging
import os
import resource
from contextlib import suppress
from pathlib import Path

__all__ = ["allow_files", "numa_node_cores", "parse_cores", "settle_server", "tune_malloc"]

log = logging.getLogger("shoal.tuning")

NODES = Path("/sys/devices/system/node")


MANY_FILES = 65536
"""More open files than any process of a run needs: a server has two or three for each worker."""


def allow_files(wanted: int = MANY_FILES) -> int:
    """Let this process open as many files as it may, up to ``wanted``; how many those are, negative if any number.

    The usual limit, 1024, is that of programs that call ``select``; a server reaches it with some 400 workers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError) as e:  # a system with a limit of its own
        log.debug("no more than %d open files: %s", soft, e)
        return soft
    return most


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


def settle_server(rank: int) -> None:
    """What a server process does once it is complete.

    What there is by now stays: the garbage collector need not look at it again and again, and since messages make no
    cycles it need not look often at all. On a machine with several NUMA nodes the process keeps to one of them, by
    rank, so that the values it allocates from now on are near the cores that use them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    nodes = numa_node_cores()
    if len(nodes) > 1:
        cores = nodes[rank % len(nodes)]
        with suppress(OSError):
            os.sched_setaffinity(0, cores)
            log.info("server %d keeps to NUMA node %d of %d: %d cores", rank, rank % len(nodes), len(nodes), len(cores))


def numa_node_cores(root: Path = NODES) -> list[set[int]]:
    """The cores that this process may use on each NUMA node where it may use any; empty where that is not known."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = os.sched_getaffinity(0)
    found = []
    for node in sorted(root.glob("node[0-9]*"), key=lambda p: int(p.name[4:])):
        with suppress(OSError, ValueError):
            found.append(parse_cores((node / "cpulist").read_text()) & allowed)
    return [cores for cores in found if cores]


def parse_cores(text: str) -> set[int]:
    """A list of cores as Linux writes it.

    >>> sorted(parse_cores("0-2,8"))
    [0, 1, 2, 8]
    """
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores
