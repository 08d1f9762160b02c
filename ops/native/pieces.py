"""Many small arrays to one long one, and back: a call for all of them in place of one for each."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler

__all__ = ["gatherer", "scatterer"]

_P, _N = ctypes.c_void_p, ctypes.c_long


@cache
def _library() -> Any:
    """The two functions; None if nothing can be compiled."""
    library = compiler.load(compiler.text("pieces.c"), exact=True)
    if library is not None:
        library.gather.argtypes, library.gather.restype = [_P, _P, _P, _N], None
        library.scatter.argtypes, library.scatter.restype = [_P, _P, _P, _P, _N], None
    return library


def gatherer(parts: Sequence[Any]) -> Callable[[Any], None] | None:
    """``gather(out)`` copies these arrays one behind the other; None if nothing can be compiled.

    Args:
        parts: C-contiguous, of one dtype. Their memory must stay where it is.
    Returns:
        A function of a C-contiguous array of that dtype, as long as they are together. It does not look at it.
    """
    library = _library()
    if library is None:
        return None
    here, sizes = _addresses(parts), np.array([p.nbytes for p in parts], np.int64)
    copy, n, starts, nbytes = library.gather, len(parts), here.ctypes.data, sizes.ctypes.data
    kept = (list(parts), here, sizes)

    def gather(out: Any, _kept: Any = kept) -> None:
        copy(out.__array_interface__["data"][0], starts, nbytes, n)

    return gather


def scatterer(parts: Sequence[Any], starts: Sequence[int]) -> Callable[[Any], None] | None:
    """``scatter(flat)`` copies to each of these arrays what lies in ``flat`` from its start on; None as above.

    Args:
        parts: C-contiguous, writable, of one dtype. Their memory must stay where it is.
        starts: elements of ``flat``, whose dtype is the same, before each part's.
    """
    library = _library()
    if library is None:
        return None
    there, sizes = _addresses(parts), np.array([p.nbytes for p in parts], np.int64)
    at = np.array([s * p.itemsize for s, p in zip(starts, parts, strict=True)], np.int64)
    copy, n, to, offsets, nbytes = library.scatter, len(parts), there.ctypes.data, at.ctypes.data, sizes.ctypes.data
    kept = (list(parts), there, at, sizes)

    def scatter(flat: Any, _kept: Any = kept) -> None:
        copy(flat.__array_interface__["data"][0], to, offsets, nbytes, n)

    return scatter


def _addresses(parts: Sequence[Any]) -> Any:
    return np.array([p.__array_interface__["data"][0] for p in parts], np.uint64)
