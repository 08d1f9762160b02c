"""Copies past the caches, for large values that nobody reads at once: `copy`."""

import ctypes
from typing import Any

import numpy as np

from shoal.ops.native import compiler

__all__ = ["MIN_BYTES", "copy", "prepare"]

MIN_BYTES = 32 << 10
"""Smaller arrays are copied as usual: the call, and waiting for its last store, would take longer than they do."""

_function: Any = None


def prepare() -> bool:
    """Load the compiled function, which may have to be compiled first; false where there is none: `copy` is NumPy's.

    It has no threads, and leaves this process's pool alone. Not for a thread that others wait for.
    """
    global _function
    if _function is None:
        library = compiler.load(compiler.text("stream.c"), exact=True, threads=False)
        if library is not None:
            library.stream_copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
            library.stream_copy.restype = None
            _function = library.stream_copy
    return _function is not None


def copy(out: Any, source: Any) -> None:
    """``out[...] = source``, for arrays of one shape and dtype; past the caches if that is prepared, and can be.

    The interpreter's lock is free meanwhile.

    Raises:
        TypeError, ValueError: as `numpy.copyto`: another dtype or shape, or ``out`` may not be written to.
    """
    fits = out.shape == source.shape and out.dtype == source.dtype and out.flags.carray and source.flags.c_contiguous
    if _function is None or not fits or out.nbytes < MIN_BYTES or np.may_share_memory(out, source):
        np.copyto(out, source, casting="no")
        return
    _function(out.ctypes.data, source.ctypes.data, out.nbytes)
