"""Random bits of an address, computed by array operators: the same as NumPy's Philox gives, wherever the key is.

Philox4x64-10 (Salmon et al., SC 2011): ten rounds of two products of 64 bits. Nothing is read back from the key, so
that a GPU need not be waited for, and a recorded step draws anew from the key that it is given.
"""

from typing import Any

import numpy as np

__all__ = ["bits16", "bits64"]

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10


def _product(a: Any, factor: int) -> tuple[Any, Any]:
    """The upper and the lower 64 bits of ``a * factor``."""
    low, high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    al, ah = a & _MASK, a >> _HALF
    lh, hl = al * high, ah * low
    middle = ((al * low) >> _HALF) + (lh & _MASK) + (hl & _MASK)
    return ah * high + (lh >> _HALF) + (hl >> _HALF) + (middle >> _HALF), a * np.uint64(factor)


def bits64(xp: Any, key: Any, count: int) -> Any:
    """``count`` words of 64 random bits, in the order in which ``numpy.random.Philox`` gives them.

    Args:
        key: five words, from `shoal.ops.random.next_key`.
    """
    blocks = -(-count // 4)
    x0 = xp.arange(1, blocks + 1, dtype=np.uint64)
    zero = xp.zeros(blocks, np.uint64)
    x1, x2, x3 = zero + key[2:3], zero + key[3:4], zero + key[4:5]
    for number in range(ROUNDS):
        k0, k1 = (key[i : i + 1] + np.uint64(number * _STEPS[i] % 2**64) for i in (0, 1))
        high0, low0 = _product(x0, _FACTORS[0])
        high1, low1 = _product(x2, _FACTORS[1])
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
    return xp.stack([x0, x1, x2, x3], axis=1).reshape(-1)[:count]


def bits16(xp: Any, key: Any, count: int) -> Any:
    """``count`` words of 16 random bits: four of each of `bits64`, the lowest first."""
    words = bits64(xp, key, -(-count // 4))
    parts = [(words >> np.uint64(16 * i)).astype(np.uint16) for i in range(4)]
    return xp.stack(parts, axis=1).reshape(-1)[:count]
