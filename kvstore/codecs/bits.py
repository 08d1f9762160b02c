"""Packing small numbers: 1, 2 or 4 bits each, the first in the highest bits of the first byte (MXNet's order)."""

from functools import cache
from typing import Any

import numpy as np

from shoal.kvstore.codecs.base import Array

__all__ = ["lookup", "pack1", "pack2", "pack4"]

_GATHER = np.uint32(1 << 30 | 1 << 20 | 1 << 10 | 1)
"""Multiplying four bytes of 2 bits by this brings them together in the top byte; no two terms carry."""


def pack1(bits: Array) -> Array:
    """Bytes of 8 values each; ``bits`` is boolean, its size a multiple of 8."""
    return np.packbits(bits)


def pack2(codes: Array) -> Array:
    """Bytes of 4 values each; ``codes`` is uint8 below 4, contiguous, its size a multiple of 4."""
    return ((codes.view("<u4") * _GATHER) >> np.uint32(24)).astype(np.uint8)


def pack4(codes: Array) -> Array:
    """Bytes of 2 values each; ``codes`` is uint8 below 16, contiguous, its size a multiple of 2."""
    pairs = codes.view("<u2")
    return ((pairs << np.uint16(4)) | (pairs >> np.uint16(8))).astype(np.uint8)  # the cast drops the high byte


def lookup(packed: Array, values: tuple[float, ...], out: Array) -> None:
    """Unpack: write ``values[code]`` for every code in ``packed``.

    Args:
        packed: any integers, contiguous; their bytes hold codes of 1, 2 or 4 bits.
        values: 2, 4 or 16 of them.
        out: float32 or float64, as many as there are codes.
    """
    table = _table(values, out.dtype)
    np.take(table, packed.view(np.uint8), axis=0, out=out.reshape(-1, table.shape[1]), mode="clip")


@cache
def _table(values: tuple[float, ...], dtype: np.dtype[Any]) -> Array:
    """For each byte, the values of its codes."""
    width = {2: 1, 4: 2, 16: 4}[len(values)]
    shifts = np.arange(8 - width, -1, -width)
    codes = (np.arange(256)[:, None] >> shifts) & (len(values) - 1)
    table: Array = np.asarray(values, dtype)[codes]
    return table
