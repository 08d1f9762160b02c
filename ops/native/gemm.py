"""Products of float32 matrices by our own code: the same bits for any number of threads, and however they lie.

NumPy's BLAS cuts a product by the number of threads, so that its last bits change with it; this one does not
(`ops/native/c/gemm.c`). Products with a vector are left to NumPy: they read each element once.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.native.table import Bound, In, kernel

__all__ = ["Product", "library", "product"]

SINGLE = np.dtype(np.float32)
WORTH = 32**3
"""Multiplications; smaller products are NumPy's: finding out how the arrays lie takes as long."""

_FIELDS = ("m", "n", "k", "a_row", "a_column", "b_row", "b_column", "row", "add")


class Form(ctypes.Structure):
    """``product_t`` of gemm.c: lengths, and strides in elements."""

    _fields_ = tuple((name, ctypes.c_long) for name in _FIELDS)


Product = Callable[..., None]
"""``run(a, b, out, bias=None)``: addresses."""


@cache
def library() -> Any:
    """The compiled functions; None if nothing can be compiled."""
    found = compiler.load(compiler.text("gemm.c"), exact=True)
    if found is not None:
        address = ctypes.c_void_p
        found.gemm.argtypes = [address] * 5
        found.gemm_batch.argtypes = [address, ctypes.c_long, *[address] * 5]
        found.gemm.restype = found.gemm_batch.restype = None
    return found


@lru_cache(maxsize=4096)
def product(m: int, n: int, k: int, *, ta: bool = False, tb: bool = False, add: bool = False) -> Product:
    """How to multiply matrices in C order by address: out = op(a) op(b).

    Args:
        m, n, k: op(a) is (m, k), op(b) is (k, n), out (m, n).
        ta, tb: a lies as (k, m), b as (n, k).
        add: to what is in out. Otherwise a bias, n numbers, may be given, to which each row is added.
    """
    a, b = ((1, m) if ta else (k, 1)), ((1, k) if tb else (n, 1))
    return _one(Form(m, n, k, *a, *b, n, add))


def _one(form: Form) -> Product:
    run = library().gemm

    def call(a: int, b: int, out: int, bias: int | None = None) -> None:
        run(ctypes.addressof(form), a, b, out, bias)

    return call


@kernel("matmul")
def _matmul(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    x, y = inputs
    if not all(isinstance(a, In) and a.dtype == SINGLE and len(a.shape) >= 2 for a in inputs):
        return None
    (*_, m, k), n = x.shape, y.shape[-1]
    if y.shape[-2] != k or min(m, n) < 2 or m * n * k < WORTH or library() is None:
        return None
    try:
        lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        return None  # the forward will say what is wrong
    if 0 in lead:
        return None
    forms: dict[Any, Product] = {}

    def run(x: Any, y: Any, out: Any) -> None:
        x, y = _whole(x), _whole(y)
        how = x.strides, y.strides
        if how not in forms:
            forms[how] = _form(x, y, lead)
        forms[how](x.ctypes.data, y.ctypes.data, out.ctypes.data)

    return Bound((In((*lead, m, n), SINGLE),), run, strided=True)


def _whole(x: Any) -> Any:
    """``x``, whose strides are whole elements."""
    aligned = x.flags.aligned and all(s % 4 == 0 for s in x.strides)
    return x if aligned else np.ascontiguousarray(x)


def _form(x: Any, y: Any, lead: tuple[int, ...]) -> Product:
    """How to multiply arrays that lie as these do."""
    found, (m, k), n = library(), x.shape[-2:], y.shape[-1]
    rows = _as_rows(x) if math.prod(y.shape[:-2]) == 1 else None
    if rows is not None:  # one matrix for all of the batch
        m, lead, x_row = math.prod(x.shape[:-1]), (), rows
    else:
        x_row = x.strides[-2] // 4
    form, count = (
        Form(m, n, k, x_row, x.strides[-1] // 4, y.strides[-2] // 4, y.strides[-1] // 4, n, 0),
        math.prod(lead),
    )
    if count == 1:
        return _one(form)
    a_at, b_at = _places(x, lead), _places(y, lead)

    def several(a: int, b: int, out: int) -> None:
        found.gemm_batch(ctypes.addressof(form), count, a, a_at.ctypes.data, b, b_at.ctypes.data, out)

    return several


def _as_rows(x: Any) -> int | None:
    """The distance of rows, in elements, if all rows of the batch lie at one distance."""
    axes = [a for a in range(x.ndim - 1) if x.shape[a] > 1]
    for slow, fast in pairwise(axes):
        if x.strides[slow] != x.strides[fast] * x.shape[fast]:
            return None
    return int(x.strides[axes[-1]] // 4 if axes else x.shape[-1])


def _places(x: Any, lead: tuple[int, ...]) -> Any:
    """Where each matrix of the batch begins, in elements."""
    strides = np.broadcast_to(x, (*lead, *x.shape[-2:])).strides[: len(lead)]
    places = np.zeros((), np.int64)
    for length, stride in zip(lead, strides, strict=True):
        places = np.add.outer(places, np.arange(length) * (stride // 4))
    return np.ascontiguousarray(places.reshape(-1), dtype=ctypes.c_long)
