"""Random numbers for stochastic rounding: 16 bits a value, addressed, and cheap because they are re-used.

A slice draws 16384 numbers of 16 bits from Philox at its address, and one more for every 16384 values; value ``i`` gets
number ``i % 16384`` xor the one of its chunk, ``i // 16384``. Each is uniform, and any two are independent: equal
places of two chunks differ by numbers of their own. So rounding errors are uncorrelated, and the variance of any sum of
them is that of independent draws; only moments above the second differ.
"""

from typing import Any

import numpy as np

from shoal.kvstore.codecs.base import Array
from shoal.kvstore.codecs.scratch import scratch

__all__ = ["CHUNK", "Dither"]

CHUNK = 1 << 14
"""Values between two uses of a number."""


class Dither:
    """The random numbers of one slice, by position: 0 to 65535 each.

    Args:
        stream: a generator at the slice's address.
        n: positions of the slice, those included that pad its last group.
    """

    def __init__(self, stream: np.random.Generator, n: int) -> None:
        source: Any = stream.bit_generator
        self._keys: Array = source.random_raw(n // (4 * CHUNK) + 1).view(np.uint16)
        self._base: Array = source.random_raw(-(-min(n, CHUNK) // 4)).view(np.uint16)
        self._floats: dict[int, tuple[Array, Array]] = {}

    def above(self, offset: int, start: int, n: int) -> Array:
        """``offset + u`` in float32 for ``n`` positions from ``start``, u from (0, 1); in memory that is used again.

        Args:
            offset: a power of two, 1 to 256. Up to 64, u is the middle of one of 65536 equal intervals; for 128 it is
                the lower end of one, and for 256 of one of 32768: float32 has no more digits there.
        """
        if offset not in self._floats:
            self._floats[offset] = (_floats(self._base, offset), _shifted(self._keys, offset))
        base, keys = self._floats[offset]
        first, last = start // CHUNK, -(-(start + n) // CHUNK)
        if last - first == 1:
            skip = start - first * CHUNK
            bits: Array = base[skip : skip + n] ^ keys[first]
            return bits.view(np.float32)
        bits = scratch("dither", (last - first) * CHUNK, np.uint32)
        np.bitwise_xor(base, keys[first:last, None], out=bits.reshape(-1, CHUNK))
        return bits[start - first * CHUNK :][:n].view(np.float32)


def _shifted(numbers: Array, offset: int) -> Array:
    """Numbers of 16 bits, where the fraction of a float32 from ``offset`` to ``offset + 1`` has its highest bits."""
    shift = 7 - (offset.bit_length() - 1)
    wide = numbers.astype(np.uint32)
    return wide << np.uint32(shift) if shift >= 0 else wide >> np.uint32(-shift)


def _floats(numbers: Array, offset: int) -> Array:
    """The bits of ``offset + (number + 1/2) / 65536``, or without the half where that has no place."""
    shift = 7 - (offset.bit_length() - 1)
    half = 1 << (shift - 1) if shift > 0 else 0
    bits = _shifted(numbers, offset)
    bits |= np.float32(offset).view(np.uint32) | np.uint32(half)
    return bits
