"""Which values travel together, and where they lie meanwhile."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from shoal.kvstore.arrays import Array, is_float

__all__ = ["Bucket", "Item", "apart", "buckets"]

FUSE_BYTES = 256 << 10
"""Smaller values of one call travel together."""
BUCKET_BYTES = 1 << 20
"""As much as travels together."""

Item: TypeAlias = tuple[str, Array, Array]
"""Name of a key, this worker's contribution, and where the result goes; both flat and whole."""


class Bucket:
    """What is reduced as one array: a value itself, or several copied together, or one in wider numbers."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        name, own, total = items[0]
        if len(items) > 1 or _wide(own.dtype) != own.dtype:
            own = total = np.concatenate([o for _, o, _ in items], dtype=_wide(own.dtype), casting="same_kind")
        self.item: Item = (name, own, total)

    def unpack(self) -> None:
        """Put the results where they belong."""
        packed = self.item[2]
        at = 0
        for _, _, total in self._items:
            if packed is not total:
                total[...] = packed[at : at + total.size]
            at += total.size


def buckets(items: Sequence[Item]) -> list[Bucket]:
    """Large values singly, small ones of one dtype together; the same on every worker that makes the same call."""
    made: list[list[Item]] = []
    small: dict[Any, list[Item]] = {}
    for item in items:
        dtype, nbytes = item[1].dtype, item[1].nbytes
        if nbytes > FUSE_BYTES:
            made.append([item])
            continue
        bucket = small.get(dtype)
        if bucket is None or sum(own.nbytes for _, own, _ in bucket) + nbytes > BUCKET_BYTES:
            bucket = small[dtype] = []
            made.append(bucket)
        bucket.append(item)
    return [Bucket(b) for b in made]


def _wide(dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    """In what a dtype is added: half precision in float32, as on servers."""
    return np.dtype(np.float32) if is_float(dtype) and dtype.itemsize < 4 else dtype


def apart(own: Array, total: Array) -> tuple[Array, Array]:
    """The two, if one may be reduced into the other: the same memory, or none in common."""
    same = own.ctypes.data == total.ctypes.data
    if same or not np.may_share_memory(own, total):
        return (total, total) if same else (own, total)
    return own.copy(), total
