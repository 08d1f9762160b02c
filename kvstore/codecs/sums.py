"""Sums of rows in an order that is written down, so that a GPU adds as the CPU does, to the bit.

A row is cut into pieces of 1024 values. A piece goes into four running sums: from each 16 values the sum of number i
takes ``(x[i] + x[4 + i]) + (x[8 + i] + x[12 + i])``; its sum is ``(s[0] + s[1]) + (s[2] + s[3])``. Pieces are added by
halves, the first to the one in the middle. That is how ``numpy.einsum`` adds float32 where vectors have four values,
which is tried out once; where it adds in another way, `ordered` does it, with the same bits, slower.
"""

from functools import cache
from typing import Any

import numpy as np

from shoal.kvstore.codecs.base import Array

__all__ = ["PIECE", "ordered", "row_sums", "wide_sums"]

PIECE = 1024
"""Values that are added one after another."""


def row_sums(rows: Array) -> Array:
    """The sum of each row, in its dtype; float32 in the order above.

    Args:
        rows: their length is a power of two from 32 on.
    """
    width = rows.shape[1]
    if rows.dtype == np.float32 and not _einsum_is_ordered():
        sums: Array = ordered(rows)
        return sums
    sums = np.einsum("ij->i", rows.reshape(-1, min(width, PIECE)))
    return sums if width <= PIECE else halved(sums.reshape(len(rows), -1))


def wide_sums(rows: Array) -> Array:
    """`row_sums` in float64; sums that overflow in the dtype of the rows are taken in float64."""
    with np.errstate(over="ignore"):
        sums = row_sums(rows)
    found = sums.astype(np.float64)
    beyond = ~np.isfinite(sums)
    if beyond.any():
        found[beyond] = ordered(rows[beyond].astype(np.float64) * 2.0**-16) * 2.0**16
    return found


def ordered(rows: Any) -> Any:
    """The sum of each row in the order above, by functions that every array namespace has."""
    count, width = rows.shape
    piece = min(width, PIECE)
    x = rows.reshape(-1, piece // 16, 4, 4)
    sixteen = (x[:, :, 0] + x[:, :, 1]) + (x[:, :, 2] + x[:, :, 3])
    running = sixteen[:, 0] + rows.dtype.type(0)
    for i in range(1, piece // 16):
        running = sixteen[:, i] + running
    sums = (running[:, 0] + running[:, 1]) + (running[:, 2] + running[:, 3])
    return halved(sums.reshape(count, -1))


def halved(sums: Any) -> Any:
    """The sum of each row, half to half; the length is a power of two."""
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


@cache
def _einsum_is_ordered() -> bool:
    """Whether `row_sums` may use ``einsum`` for float32: with numbers that give other bits in any other order."""
    numbers = np.arange(1, 4 * PIECE + 1, dtype=np.uint32) * np.uint32(2654435761)
    rows = (numbers.astype(np.float32) * np.float32(2.0**-31)).reshape(4, PIECE)
    rows[::2] *= np.float32(-1)
    return bool((np.einsum("ij->i", rows) == ordered(rows)).all())
