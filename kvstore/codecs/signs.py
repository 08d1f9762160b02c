"""Codecs of one or two bits a value: MXNet's 2bit and 1bit, Seide's column means, signs and their majority."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.kvstore.codecs.base import Array
from shoal.kvstore.codecs.bits import lookup, pack1, pack2
from shoal.kvstore.codecs.blockwise import BLOCK, Blockwise, Part, Place
from shoal.kvstore.codecs.registry import register
from shoal.kvstore.codecs.scratch import full, scratch
from shoal.kvstore.codecs.sums import wide_sums
from shoal.ops.optim.hyper import real, whole

__all__ = ["EFSign", "OneBit", "OneBitMean", "Sign", "TwoBit", "block_size", "vote"]


def block_size(default: int, least: int = 32) -> Any:
    """A field for the values that share a scale."""
    fits = f"a power of two from {least} to {BLOCK}"
    return whole(default, fits, lambda v: least <= v <= BLOCK and v & (v - 1) == 0)


@register("2bit")
@dataclass(kw_only=True)
class TwoBit(Blockwise):
    """+threshold, 0 or -threshold, with error feedback; MXNet's arithmetic and bit layout, 16 values in 32 bits.

    The residual takes the gradient; where it has reached the threshold, the threshold is sent and taken off. Values
    that grow faster than a threshold a step fall behind without bound: choose it near the largest gradients.
    Source: MXNet ``src/kvstore/gradient_compression-inl.h``, after Strom, Interspeech 2015.

    Args:
        threshold: in units of the gradient.
    """

    threshold: float = real(0.5, "a number from 1e-30 to 1e30", lambda v: 1e-30 <= v <= 1e30)

    @property
    def has_feedback(self) -> bool:
        """Always."""
        return True

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """Codes 11 for +, 10 for -, 00 for 0."""
        return (Part("codes", "<u4", 16),)

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Compare with both thresholds."""
        up = (values >= self.threshold).view(np.uint8)
        codes = (values <= -self.threshold).view(np.uint8)
        codes |= up
        codes <<= np.uint8(1)
        codes |= up
        parts[0].view(np.uint8)[:] = pack2(codes)

    def restore(self, parts: list[Array], out: Array) -> None:
        """By table."""
        lookup(parts[0], (0.0, 0.0, -self.threshold, self.threshold), out)


@register("1bit")
@dataclass(kw_only=True)
class OneBit(Blockwise):
    """+1 or -1, with error feedback; MXNet's arithmetic and bit layout, 32 values in 32 bits.

    Every value moves by 1, so the learning rate must be small; the threshold decides, it does not scale.
    Source: MXNet ``src/kvstore/gradient_compression-inl.h``.

    Args:
        threshold: what the residual must exceed for +1.
    """

    threshold: float = real(0.5, "a number from -1e30 to 1e30", lambda v: abs(v) <= 1e30)

    @property
    def has_feedback(self) -> bool:
        """Always."""
        return True

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """Bit 1 for +1."""
        return (Part("bits", "<u4", 32),)

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Compare with the threshold."""
        parts[0].view(np.uint8)[:] = pack1(values > self.threshold)

    def restore(self, parts: list[Array], out: Array) -> None:
        """By table."""
        lookup(parts[0], (-1.0, 1.0), out)


@register("onebit")
@dataclass(kw_only=True)
class OneBitMean(Blockwise):
    """One bit a value and, for every block, the mean of its positive and that of its negative values, with feedback.

    The means are the reconstruction with the least square error, and the new residual of each block sums to zero.
    Source: Seide et al., "1-bit stochastic gradient descent", Interspeech 2014; its columns are blocks here.

    Args:
        block: values that share two means, a power of two.
    """

    block: int = block_size(1024)

    @property
    def has_feedback(self) -> bool:
        """Always."""
        return True

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """Bit 1 for zero and above; the mean of the negatives, then of the others."""
        return (Part("bits", "<u4", 32), Part("means", dtype.str, self.block, 2))

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Means from two sums: of all values and of the positive ones."""
        bits = values >= 0
        bits[place.valid :] = False
        rows = values.reshape(-1, self.block)
        size = np.full(len(rows), self.block)
        size[-1] -= values.size - place.valid
        parts[0].view(np.uint8)[:] = pack1(bits)
        count = np.bitwise_count(parts[0].reshape(len(rows), -1)).sum(axis=1, dtype=np.int64)
        means, zeros = parts[1].reshape(-1, 2), full(self.block, values.dtype.type(0))
        part = scratch("part", values.size, values.dtype.type).reshape(rows.shape)
        means[:, 0] = wide_sums(np.minimum(rows, zeros, out=part)) / np.maximum(size - count, 1)
        means[:, 1] = wide_sums(np.maximum(rows, zeros, out=part)) / np.maximum(count, 1)
        means += values.dtype.type(0)  # no -0, whichever zero of two a processor calls the smaller one

    def restore(self, parts: list[Array], out: Array) -> None:
        """0 and 1 by table, times the mean; and the other way round."""
        means = parts[1].reshape(-1, 2, 1)
        below = scratch("part", out.size, out.dtype.type)
        for target, values, column in ((out, (0.0, 1.0), 1), (below, (1.0, 0.0), 0)):
            lookup(parts[0], values, target)
            rows = target.reshape(-1, self.block)
            rows *= means[:, column]
        out += below


@dataclass(kw_only=True)
class _Signs(Blockwise):
    """Signs in bits; a zero is + and - in turn over clocks and positions, so that it moves nothing in the mean."""

    def bits(self, values: Array, place: Place) -> Array:
        bits: Array = values > 0
        zeros = values == 0
        if zeros.any():
            odd = (np.flatnonzero(zeros) + (place.start + place.address.clock)) & 1
            bits[zeros] = odd.astype(np.bool_)
            bits[place.valid :] = False
        return bits


@register("sign")
@dataclass(kw_only=True)
class Sign(_Signs):
    """+1 or -1, without feedback; the server takes the majority with `vote`, or the mean of the votes.

    A zero is sent as + and - in turn. Source: Bernstein et al., "signSGD: compressed optimisation for non-convex
    problems", arXiv:1802.04434; majority vote in arXiv:1810.05291.
    """

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """Bit 1 for +1."""
        return (Part("bits", "<u4", 32),)

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Compare with zero."""
        parts[0].view(np.uint8)[:] = pack1(self.bits(values, place))

    def restore(self, parts: list[Array], out: Array) -> None:
        """By table."""
        lookup(parts[0], (-1.0, 1.0), out)


@register("efsign")
@dataclass(kw_only=True)
class EFSign(_Signs):
    """The sign times the mean magnitude of its block, with error feedback: signSGD that converges.

    Source: Karimireddy et al., "Error feedback fixes signSGD", arXiv:1901.09847; by blocks as in Zheng et al.,
    arXiv:1905.10936.

    Args:
        block: values that share a magnitude, a power of two.
    """

    block: int = block_size(1024)

    @property
    def has_feedback(self) -> bool:
        """Always."""
        return True

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """Bit 1 for +; one magnitude for every block."""
        return (Part("bits", "<u4", 32), Part("magnitudes", dtype.str, self.block))

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Mean magnitudes over the values that are there."""
        rows = np.abs(values, out=scratch("part", values.size, values.dtype.type)).reshape(-1, self.block)
        size = np.full(len(rows), self.block)
        size[-1] -= values.size - place.valid
        parts[1][:] = wide_sums(rows) / size
        parts[0].view(np.uint8)[:] = pack1(self.bits(values, place))

    def restore(self, parts: list[Array], out: Array) -> None:
        """By table, times the magnitude."""
        lookup(parts[0], (-1.0, 1.0), out)
        rows = out.reshape(-1, self.block)
        np.multiply(rows, parts[1][:, None], out=rows)


def vote(pushes: Sequence[Sequence[Array]], out: Array) -> None:
    """The majority of what workers have sent with `Sign`: 1, -1, or 0 where the votes are equal.

    Args:
        pushes: the parts of each worker, at most 32767.
        out: flat, of the gradient's size; any float dtype.
    Raises:
        RemoteProtocolError: a push cannot be an encoding for ``out``, which is then untouched.
        ShapeError: nobody has voted, or too many.
    """
    codec = Sign()
    if not 1 <= len(pushes) < 1 << 15:
        raise ShapeError(f"a vote needs 1 to 32767 pushes, got {len(pushes)}")
    words = []
    for parts in pushes:
        codec.require_parts(parts, 1)
        words.append(codec.require_part("bits", parts[0], ("<u4",), -(-out.size // 32)).view(np.uint8))
    for start in range(0, out.size, BLOCK):
        part = out[start : start + BLOCK]
        total = np.full(part.size, -len(words), np.int16)
        for bits in words:
            ones = np.unpackbits(bits[start // 8 : -(-(start + part.size) // 8)], count=part.size)
            total += ones.view(np.int8) * np.int16(2)
        np.copyto(part, np.sign(total))
