"""NumPy's own BLAS, called directly: products that are added to what the output holds already."""

import ctypes
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import pool

__all__ = ["sgemm"]

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112
_NAMES = {"scipy_cblas_sgemm64_": ctypes.c_int64, "scipy_cblas_sgemm": ctypes.c_int32, "cblas_sgemm": ctypes.c_int32}


@cache
def sgemm() -> Any:
    """``sgemm(a, ta, b, tb, c, m, n, k, beta)``: c = op(a) @ op(b) + beta * c; None if NumPy's BLAS has none.

    a, b and c are the addresses of float32 matrices in C order, op(a) is (m, k), op(b) is (k, n); ``ta`` and ``tb`` say
    whether a and b are to be transposed.
    """
    for found in pool.openblas():
        library = ctypes.CDLL(found.filepath)
        for name, whole in _NAMES.items():
            function = getattr(library, name, None)
            if function is not None:
                return _wrapped(function, whole)
    return None


def _wrapped(function: Any, whole: Any) -> Any:
    number, pointer, choice = ctypes.c_float, ctypes.c_void_p, ctypes.c_int
    function.argtypes = [
        *[choice] * 3,
        *[whole] * 3,
        number,
        *[pointer, whole] * 2,
        number,
        pointer,
        whole,
    ]
    function.restype = None

    def call(a: int, ta: bool, b: int, tb: bool, c: int, m: int, n: int, k: int, beta: float) -> None:
        function(
            ROW_MAJOR,
            TRANSPOSED if ta else PLAIN,
            TRANSPOSED if tb else PLAIN,
            m,
            n,
            k,
            1.0,
            a,
            m if ta else k,
            b,
            k if tb else n,
            beta,
            c,
            n,
        )

    return call if _right(call) else None


def _right(call: Any) -> bool:
    """Whether the function is what its name says."""
    a, b, c = (np.arange(size, dtype=np.float32).reshape(-1, 3) for size in (6, 12, 8 * 3))
    c = np.ones((2, 4), np.float32)
    call(a.ctypes.data, False, b.ctypes.data, True, c.ctypes.data, 2, 4, 3, 1.0)
    return bool((c == a @ b.T + 1).all())
