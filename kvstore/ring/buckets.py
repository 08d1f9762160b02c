"""Which values travel together, and where they lie meanwhile."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from shoal.kvstore.arrays import Array, is_float

__all__ = ["Bucket", "Item", "buckets"]

FUSE_BYTES = 64 << 10
"""Smaller values of one call travel together."""
BUCKET_BYTES = 128 << 10
"""As much for each worker travels together, up to `MOST_BYTES`: large enough for the messages that a bucket becomes,
small enough for several buckets, so that one is copied while another is on its way."""
MOST_BYTES = 1 << 20

Item: TypeAlias = tuple[str, Array, Array]
"""Name of a key, this worker's contribution, and where the result goes; both flat and whole."""


class Bucket:
    """What is reduced as one array: a value itself, or several copied together, or one in wider numbers."""

    __slots__ = ("_items", "item")

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        name, own, total = items[0]
        dtype = _wide(own.dtype)
        if len(items) > 1 or dtype != own.dtype:
            own = total = np.concatenate([o for _, o, _ in items], dtype=dtype, casting="same_kind")
        else:
            own, total = _apart(own, total)
        self.item: Item = (name, own, total)

    def unpack(self) -> None:
        """Put the results where they belong."""
        packed = self.item[2]
        if packed is self._items[0][2]:
            return
        at = 0
        for _, _, total in self._items:
            end = at + total.size
            total[...] = packed[at:end]
            at = end


def buckets(items: Sequence[Item], workers: int) -> list[list[Item]]:
    """Which items make a `Bucket`: large values singly, small ones of one dtype together.

    It is the same on every worker that makes the same call.
    """
    most_bytes = min(MOST_BYTES, workers * BUCKET_BYTES)
    made: list[list[Item]] = []
    open_: dict[Any, tuple[list[Item], int]] = {}  # by dtype, the bucket that is being filled, and its bytes
    for item in items:
        own = item[1]
        nbytes = own.nbytes
        bucket, filled = open_.get(own.dtype, ([], 0))
        if nbytes > FUSE_BYTES:
            made.append([item])
            continue
        if not bucket or filled + nbytes > most_bytes:
            bucket, filled = [], 0
            made.append(bucket)
        bucket.append(item)
        open_[own.dtype] = bucket, filled + nbytes
    return made


def _wide(dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    """In what a dtype is added: half precision in float32, as on servers."""
    return np.dtype(np.float32) if is_float(dtype) and dtype.itemsize < 4 else dtype


def _apart(own: Array, total: Array) -> tuple[Array, Array]:
    """The two, if one may be reduced into the other: the same memory, or none in common."""
    if not np.may_share_memory(own, total):
        return own, total
    same = own.ctypes.data == total.ctypes.data
    return (total, total) if same else (own.copy(), total)
