"""Stochastic rounding to a few levels of a scale that a block of values shares: int8 and QSGD."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from shoal.kvstore.codecs.base import Array
from shoal.kvstore.codecs.bits import lookup, pack2, pack4
from shoal.kvstore.codecs.blockwise import Blockwise, Part, Place
from shoal.kvstore.codecs.registry import register
from shoal.kvstore.codecs.scratch import full, scratch
from shoal.kvstore.codecs.signs import block_size
from shoal.kvstore.codecs.sums import row_sums
from shoal.ops.optim.hyper import flag, whole

__all__ = ["QSGD", "Int8"]


@dataclass(kw_only=True)
class _Levels(Blockwise):
    """x becomes unit * floor(x / unit + u) with u uniform in (0, 1); the units of the blocks travel.

    The mean over u is x, to within 2**-16 of a unit (2**-15 above 127 levels) and float32's rounding of x / unit.
    Blocks so small that their unit would be subnormal become zeros.
    """

    random: ClassVar[bool] = True

    def codes(self, rows: Array, top: int, length: Array, place: Place) -> tuple[Array, Array]:
        """Codes plus `offset_of` ``top``, as uint16, and the units: ``length / top`` for each row.

        Everything is positive, so that a cast is a floor; rounding can lead just past the last level, and is cut.
        """
        offset, (least, most) = offset_of(top), _RANGE[rows.dtype]
        unit: Array = np.minimum(length, most) / rows.dtype.type(top)
        inverse = 1 / np.maximum(unit, least)
        unit *= unit >= least  # codes of what is smaller mean nothing
        scaled, codes = scratch("scaled", rows.size, np.float32), scratch("codes", rows.size, np.uint16)
        np.multiply(rows, inverse[:, None], out=scaled.reshape(rows.shape), casting="same_kind")
        scaled += place.above(offset, rows.size)
        np.copyto(codes, scaled, casting="unsafe")
        return np.minimum(codes, full(codes.size, np.uint16(offset + top)), out=codes), unit


_RANGE = {d: (2 * np.finfo(d).tiny, np.finfo(d).max) for d in (np.dtype(np.float32), np.dtype(np.float64))}
"""The smallest unit, and the largest length."""


def offset_of(top: int) -> int:
    """The power of two above ``top``, up to 255."""
    return 1 << top.bit_length()


@register("int8")
@dataclass(kw_only=True)
class Int8(_Levels):
    """127 levels up to the largest magnitude of each block, rounded stochastically.

    Source: the linear code of Dettmers, "8-bit approximations for parallelism in deep learning", arXiv:1511.04561, by
    blocks as in arXiv:2110.02861; stochastic rounding from Gupta et al., arXiv:1502.02551.

    Args:
        block: values that share a scale, a power of two.
        feedback: keep the rounding error and add it to the next gradient; then not unbiased, but it adds up.
    """

    on_weights: ClassVar[bool] = True

    block: int = block_size(1024)
    feedback: bool = flag(False)

    @property
    def has_feedback(self) -> bool:
        """If asked for."""
        return self.feedback

    @property
    def unbiased(self) -> bool:
        """Without feedback."""
        return not self.feedback

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """A byte for each value, a scale for each block."""
        return (Part("codes", "|i1"), Part("scales", dtype.str, self.block))

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Scale by the largest magnitude of the block."""
        rows = values.reshape(-1, self.block)
        length = np.abs(rows, out=scratch("scaled", rows.size, rows.dtype.type).reshape(rows.shape)).max(axis=1)
        codes, parts[1][:] = self.codes(rows, 127, length, place)
        _signed(codes, offset_of(127), parts[0])

    def restore(self, parts: list[Array], out: Array) -> None:
        """Codes times scales."""
        np.copyto(out, parts[0])
        rows = out.reshape(-1, self.block)
        rows *= parts[1][:, None]


@register("qsgd")
@dataclass(kw_only=True)
class QSGD(_Levels):
    """Levels 0, 1/s, ... 1 of the norm of each bucket, with sign, rounded stochastically: unbiased.

    The variance is at most min(n / s**2, sqrt(n) / s) times the square of the norm, for buckets of n values. Codes have
    a fixed width, not the paper's Elias code: 2 bits for s = 1, 4 for s <= 7, 8 for s <= 127, else 16.
    Source: Alistarh et al., "QSGD", arXiv:1610.02132.

    Args:
        levels: s, 1 to 255.
        bucket: values that share a norm, a power of two.
    """

    levels: int = whole(7, "an integer from 1 to 255", lambda v: 1 <= v <= 255)
    bucket: int = block_size(512)

    @property
    def unbiased(self) -> bool:
        """Always."""
        return True

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """Codes, and the norm of each bucket divided by s."""
        if self.levels == 1:
            codes = Part("codes", "<u4", 16)
        elif self.levels <= 7:
            codes = Part("codes", "|u1", 2)
        else:
            codes = Part("codes", "|i1" if self.levels <= 127 else "<i2")
        return (codes, Part("units", dtype.str, self.bucket))

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Whole bytes are signed; codes of 2 and 4 bits have 2 and 8 added."""
        rows = values.reshape(-1, self.bucket)
        codes, parts[1][:] = self.codes(rows, self.levels, norms(rows), place)
        if self.levels == 1:
            parts[0].view(np.uint8)[:] = pack2(codes.astype(np.uint8))
        elif self.levels <= 7:
            parts[0][:] = pack4(codes.astype(np.uint8) + np.uint8(8 - offset_of(self.levels)))
        else:
            _signed(codes, offset_of(self.levels), parts[0])

    def restore(self, parts: list[Array], out: Array) -> None:
        """Codes times units."""
        if self.levels == 1:
            lookup(parts[0], (-2.0, -1.0, 0.0, 1.0), out)
        elif self.levels <= 7:
            lookup(parts[0], tuple(float(c - 8) for c in range(16)), out)
        else:
            np.copyto(out, parts[0])
        rows = out.reshape(-1, self.bucket)
        rows *= parts[1][:, None]


def _signed(codes: Array, offset: int, out: Array) -> None:
    """Take the offset off, in the width of ``out``; what goes below zero wraps to where it belongs."""
    unsigned = out.view(f"u{out.itemsize}")
    np.copyto(unsigned, codes, casting="unsafe")
    unsigned -= unsigned.dtype.type(offset)


def norms(rows: Array) -> Array:
    """The Euclidean norm of each row; infinite only if it is beyond the dtype.

    Where squares would overflow or vanish, the norm is taken relative to the largest magnitude.
    """
    info = np.finfo(rows.dtype)
    with np.errstate(over="ignore", under="ignore"):
        squares = row_sums(
            np.multiply(rows, rows, out=scratch("scaled", rows.size, rows.dtype.type).reshape(rows.shape))
        )
        length: Array = np.sqrt(squares)
        odd = ~((squares > info.tiny / info.eps**2) & (squares <= info.max))
        if odd.any():
            some = rows[odd]
            top = np.abs(some).max(axis=1)
            relative = some / np.maximum(top, info.tiny)[:, None]
            length[odd] = top * np.sqrt(row_sums(relative * relative))
    return length
