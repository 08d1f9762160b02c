"""The loop that codecs of a fixed rate share: blocks that fit in cache, error feedback, tails, checks of parts."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from shoal.errors import LocalProtocolError
from shoal.kvstore.codecs.base import Address, Array, Codec, CodecState, saturated, wide
from shoal.kvstore.codecs.dither import Dither
from shoal.kvstore.codecs.scratch import scratch

__all__ = ["Blockwise", "Part", "Place"]

BLOCK = 1 << 16
"""Values that are worked on at a time: 256 KiB of float32. Groups divide it."""


class Part(NamedTuple):
    """One array of an encoding: ``items`` items of ``dtype`` for every ``group`` values."""

    what: str
    dtype: str
    group: int = 1
    items: int = 1

    def size(self, n: int) -> int:
        """Items for ``n`` values."""
        return -(-n // self.group) * self.items


class Place(NamedTuple):
    """Where a block is: the address, the position of its first value, how many of its values are real (the others pad
    the last group with zeros), and the random numbers of the slice; None unless the codec is ``random``."""

    address: Address
    start: int
    valid: int
    dither: Dither | None

    def above(self, offset: int, n: int) -> Array:
        """``offset + u`` for the block's first ``n`` values; see `Dither.above`. The same each time that it is asked.

        ``floor(x + u)`` has the mean x, with a bias of at most 2**-17 for an offset of up to 64 (and of float32's
        rounding of the sum).
        """
        if self.dither is None:
            raise LocalProtocolError("only codecs with random = True have random numbers")
        return self.dither.above(offset, self.start, n)


@dataclass(kw_only=True)
class Blockwise(Codec):
    """A codec whose parts have a fixed size: subclasses say how large (`layout`) and how (`quantise`, `restore`).

    With ``has_feedback`` the residual is what `restore` did not give back. With ``random`` there are random
    numbers in a `Place`.
    """

    random: ClassVar[bool] = False
    refuses: ClassVar[bool] = True
    """Infinities and NaN are refused."""

    @abstractmethod
    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """The parts for values of ``dtype``, float32 or float64. Groups are powers of two up to `BLOCK`."""

    @abstractmethod
    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Fill ``parts``; the size of ``values`` is a multiple of every group, and they are not to be changed."""

    @abstractmethod
    def restore(self, parts: list[Array], out: Array) -> None:
        """The values that ``parts`` stand for, into ``out`` of float32 or float64."""

    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """See `Codec.encode`."""
        self.require_flat(grad)
        if self.refuses:
            self.require_finite(grad, state, address)
        values = self.begin(grad, state, address, *(["residual"] if self.has_feedback else []))
        layout = self.layout(values.dtype)
        parts = [np.empty(p.size(grad.size), p.dtype) for p in layout]
        residual = state.arrays["residual"] if self.has_feedback else None
        dither = None
        if self.random:
            dither = Dither(address.stream(f"codec/{self.name}"), _padded(layout, grad.size))
        for start, stop in self._blocks(grad.size, layout):
            block = values[start:stop]
            place = Place(address, start, stop - start, dither)
            views = _views(layout, parts, start, stop)
            if residual is None:
                self._quantise(layout, block, views, place)
                continue
            rest, block_sent = residual[start:stop], scratch("sent", stop - start, grad.dtype.type)
            block = np.add(rest, block, out=scratch("sum", stop - start, values.dtype.type))
            self._quantise(layout, block, views, place)
            self._restore(layout, views, block_sent)
            np.subtract(block, block_sent, out=rest)
        state.counters["encoded"] += 1
        return parts

    def decode(self, parts: Sequence[Array], out: Array) -> None:
        """See `Codec.decode`."""
        layout = self.layout(wide(out.dtype))
        self.require_parts(parts, len(layout))
        flat = [
            self.require_part(p.what, part, (p.dtype,), p.size(out.size)) for p, part in zip(layout, parts, strict=True)
        ]
        with np.errstate(all="ignore"):  # scales are what the peer says they are
            for start, stop in self._blocks(out.size, layout):
                self._restore(layout, _views(layout, flat, start, stop), out[start:stop])

    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """See `Codec.encoded_bytes`."""
        layout = self.layout(wide(np.dtype(f"<f{itemsize}")))
        return sum(p.size(n) * np.dtype(p.dtype).itemsize for p in layout)

    def _blocks(self, n: int, layout: tuple[Part, ...]) -> list[tuple[int, int]]:
        """Ranges of whole groups, then what is left."""
        whole = n - n % max(p.group for p in layout)
        edges = [*range(0, whole, BLOCK), whole, *([n] if n > whole else [])]
        return [(a, b) for a, b in pairwise(edges) if b > a]

    def _quantise(self, layout: tuple[Part, ...], block: Array, views: list[Array], place: Place) -> None:
        padded = _padded(layout, block.size)
        if padded == block.size:
            return self.quantise(block, views, place)
        full = np.zeros(padded, block.dtype)
        full[: block.size] = block
        parts = [np.empty(p.size(padded), p.dtype) for p in layout]
        self.quantise(full, parts, place)
        for view, part in zip(views, parts, strict=True):
            view[:] = part[: view.size]

    def _restore(self, layout: tuple[Part, ...], views: list[Array], out: Array) -> None:
        padded = _padded(layout, out.size)
        if padded == out.size and out.dtype.itemsize > 2:
            return self.restore(views, out)
        full = np.empty(padded, wide(out.dtype))
        parts = [np.zeros(p.size(padded), p.dtype) for p in layout]
        for view, part in zip(views, parts, strict=True):
            part[: view.size] = view
        self.restore(parts, full)
        if self.refuses:
            out[:] = saturated(full[: out.size], out.dtype.str)
        else:
            out[:] = full[: out.size]


def _padded(layout: tuple[Part, ...], n: int) -> int:
    group = max(p.group for p in layout)
    return -(-n // group) * group


def _views(layout: tuple[Part, ...], parts: Sequence[Array], start: int, stop: int) -> list[Array]:
    """What the values from ``start`` to ``stop`` have in each part; ``start`` begins a group."""
    return [a[start // p.group * p.items : p.size(stop)] for p, a in zip(layout, parts, strict=True)]
