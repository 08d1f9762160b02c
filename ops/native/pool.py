"""One thread pool in the process: OpenMP's, which compiled kernels use, and NumPy's matrix products too.

NumPy's wheels bring an OpenBLAS with threads of its own, which spin for a while after each product, as OpenMP's do
after each loop; two such pools on the same cores slow each other down many times. So, when the first library is
loaded, OpenBLAS is given a function that runs its jobs on OpenMP's threads ("unified"). Where that cannot be (another
BLAS), OpenMP's threads go to sleep instead of spinning ("passive"). ``SHOAL_POOL=passive`` or ``separate`` asks for
that, or for leaving everything as it is.

How many threads: ``OMP_NUM_THREADS``, which ``shoal run`` sets to each worker's share, else the cores that this process
may use. Results of the kernels do not depend on the number: work is cut into blocks by its size alone.

After a fork the child's kernels use one thread, and OpenBLAS its own: the parent's team does not exist there.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from shoal.ops.native import compiler, memory

__all__ = [
    "Pool",
    "adopt",
    "before_loading",
    "flush_denormals",
    "limited",
    "openblas",
    "set_threads",
    "state",
    "threads",
]

SPINS = "20000"
"""How long OpenMP's threads wait before they sleep, in loops (about 0.2 ms; its own choice is some milliseconds): the
threads that talk to servers need the cores as well."""

_CALLBACKS = (
    "scipy_openblas_set_threads_callback_function64_",
    "scipy_openblas_set_threads_callback_function",
    "openblas_set_threads_callback_function64_",
    "openblas_set_threads_callback_function",
)


@dataclass(slots=True)
class Pool:
    """What this process's threads are.

    Attributes:
        mode: "unified", "passive", "separate"; "none" before the first library is loaded.
        threads: how many a parallel region takes.
        reason: why it is not "unified".
    """

    mode: str = "none"
    threads: int = 1
    reason: str = "no kernel has been loaded yet"


_state = Pool()
_libraries: list[ctypes.CDLL] = []
_helper: ctypes.CDLL | None = None
_register: Any = None


def state() -> Pool:
    """How the pool stands."""
    return _state


def threads() -> int:
    """How many threads a parallel region of any kernel takes."""
    return _state.threads if _state.mode != "none" else _wanted()


def set_threads(n: int) -> None:
    """Use ``n`` threads from now on, in kernels and in NumPy's matrix products.

    Raises:
        ValueError: n is less than 1.
    """
    if n < 1:
        raise ValueError(f"a pool has at least one thread, not {n}")
    _state.threads = n
    _tell()
    if _state.mode == "unified":
        _blas_threads(n)


@contextmanager
def limited(n: int) -> Iterator[None]:
    """Within this context, ``n`` threads."""
    before = threads()
    set_threads(n)
    try:
        yield
    finally:
        set_threads(before)


def flush_denormals(on: bool = True) -> bool:
    """Count numbers below the smallest normal one (1e-38 in float32) as 0, in this thread and in the pool's.

    Off unless asked for: processors take a hundred times longer for such numbers, but flushing changes results, and a
    server or a replay must do as the worker did. Threads that are started later inherit it.

    Returns:
        Whether it was done: not without a compiled library, nor on a processor that has no such switch.
    """
    return _helper is not None and bool(_helper.shoal_flush(int(on)))


def before_loading() -> None:
    """Called by the compiler, under its lock, before a library is opened: the first time, set up the pool."""
    if _state.mode == "none":
        _start()


def adopt(library: ctypes.CDLL) -> None:
    """Keep a library's number of threads up to date."""
    _libraries.append(library)
    _tell()


def _start() -> None:
    """Open the helper, which brings OpenMP; how its threads wait must be said before."""
    global _helper, _register
    asked = os.environ.get("SHOAL_POOL", "unified").strip().lower()
    blas = _openblas() if asked == "unified" else None
    wait = {"OMP_WAIT_POLICY": "passive"} if blas is None and asked != "separate" else {"GOMP_SPINCOUNT": SPINS}
    if asked == "separate" or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        wait = {}
    with _environment(wait):
        _helper = compiler.opened(compiler.text("pool.c"), exact=True)
    memory.keep()
    _state.threads = _wanted()
    _state.mode, _state.reason = ("separate" if asked == "separate" else "passive"), f"SHOAL_POOL={asked}"
    if asked == "unified":
        _state.reason = "NumPy's BLAS takes no thread pool from outside"
    if blas is not None and _helper.shoal_parallel():
        _register = blas
        _state.mode, _state.reason = "unified", ""
        _blas_threads(min(_state.threads, _blas_threads()))
        _register(ctypes.cast(_helper.shoal_blas, ctypes.c_void_p))
    os.register_at_fork(after_in_child=_forked)
    adopt(_helper)


def _wanted() -> int:
    """The number of threads that the environment asks for, else that of the usable cores."""
    with suppress(ValueError):
        return max(1, int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max") as file:
        quota, period = file.read().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _tell() -> None:
    for library in _libraries:
        ctypes.c_int.in_dll(library, "shoal_threads").value = _state.threads


def _forked() -> None:
    """In a child: OpenMP's team is gone, and OpenBLAS must not wait for it."""
    if _register is not None:
        _register(None)
    _state.mode, _state.reason, _state.threads = "separate", "this process was forked", 1
    assert _helper is not None
    _helper.shoal_alone()
    _tell()


def _openblas() -> Any:
    """The function of NumPy's OpenBLAS that takes a thread pool; None if there is none."""
    for found in openblas():
        library = ctypes.CDLL(found.filepath)
        for name in _CALLBACKS:
            register = getattr(library, name, None)
            if register is not None:
                register.argtypes, register.restype = [ctypes.c_void_p], None
                return register
    return None


def _blas_threads(n: int | None = None) -> int:
    """Set the number of threads of NumPy's OpenBLAS, if ``n`` is given; return it."""
    for found in openblas():
        if n is not None:
            found.set_num_threads(n)
        return int(found.get_num_threads())
    return 1


def openblas() -> list[Any]:
    """The OpenBLAS with threads of its own that NumPy has loaded."""
    import numpy as np
    from threadpoolctl import ThreadpoolController

    beside = os.path.dirname(os.path.dirname(os.path.realpath(np.__file__)))
    found = ThreadpoolController().select(internal_api="openblas").lib_controllers
    return [c for c in found if os.path.realpath(c.filepath).startswith(beside + os.sep + "numpy")]


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for as long as a library is being loaded."""
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
