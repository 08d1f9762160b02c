"""Which parameters travel together from a GPU: flat buckets, those that are ready first in the first one. Pure."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BUCKET_BYTES", "Bucket", "Item", "planned"]

BUCKET_BYTES = 4_000_000
"""Of a bucket, about: large enough for a copy at full speed, small enough that many overlap. BytePS has 4,096,000."""

ALIGN_BYTES = 256
"""Where parameters begin within a bucket: vector loads of kernels, and NCCL, want more than 16."""


class Item(NamedTuple):
    """One parameter.

    Attributes:
        kind: parameters of different kinds are never in one bucket: those with other factors on rate and decay, or, for
            an optimizer that needs the norm of each parameter, all of them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: Hashable = None


@dataclass(frozen=True)
class Bucket:
    """Parameters in one flat array.

    Attributes:
        names: the last layer's first, which is the order in which the backward pass makes their gradients.
        shapes: of each.
        starts: where each begins, in elements.
        size: in elements, with what alignment adds.
        dtype: of all.
        priority: larger goes first: minus the place of its first layer, which the next forward pass needs first.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    size: int
    dtype: np.dtype[Any]
    priority: int

    def view(self, flat: Any, name: str) -> Any:
        """The part of the flat array that is the parameter ``name``."""
        i = self.names.index(name)
        return flat[self.starts[i] : self.starts[i] + math.prod(self.shapes[i])].reshape(self.shapes[i])


def planned(items: Mapping[str, Item], bucket_bytes: int = BUCKET_BYTES) -> list[Bucket]:
    """The buckets, in the order in which a backward pass completes them.

    Args:
        items: in the order of the layers, the first layer's first.
        bucket_bytes: no bucket of several parameters is larger; a larger parameter has one of its own.
    """
    place = {name: i for i, name in enumerate(items)}
    filling: dict[Hashable, list[str]] = {}
    groups: list[list[str]] = []
    for name in reversed(list(items)):
        item = items[name]
        key = (item.kind, item.dtype.str)
        group = filling.get(key)
        if group is None or _bytes(items, [*group, name]) > bucket_bytes:
            group = filling[key] = []
            groups.append(group)
        group.append(name)
    groups.sort(key=lambda g: -min(place[n] for n in g))  # complete with its first layer
    return [_bucket(items, g, place) for g in groups]


def _bytes(items: Mapping[str, Item], names: list[str]) -> int:
    return sum(_padded(items[n]) * items[n].dtype.itemsize for n in names)


def _padded(item: Item) -> int:
    """Elements of a parameter with what alignment adds."""
    unit = max(1, ALIGN_BYTES // item.dtype.itemsize)
    return -(-math.prod(item.shape) // unit) * unit


def _bucket(items: Mapping[str, Item], names: list[str], place: Mapping[str, int]) -> Bucket:
    starts, at = [], 0
    for name in names:
        starts.append(at)
        at += _padded(items[name])
    shapes = tuple(items[n].shape for n in names)
    return Bucket(tuple(names), shapes, tuple(starts), at, items[names[0]].dtype, -min(place[n] for n in names))
