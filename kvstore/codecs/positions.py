"""The largest of many values, and how positions travel."""

import numpy as np

from shoal.kvstore.codecs.base import Array

__all__ = ["largest", "pack_positions", "unpack_positions"]

SAMPLE = 4096
"""Values that are looked at to guess a threshold."""


def largest(values: Array, k: int) -> Array:
    """Positions, ascending, of the ``k`` values of largest magnitude; of equals the first; fewer if the rest are zero.

    A threshold is guessed from every m-th value, so that only the few above it need be sorted out. The guess is low: if
    it was too high after all, everything is looked at. Either way the answer is exact.
    """
    magnitudes = np.abs(values)
    at: Array | None
    at = np.flatnonzero(magnitudes >= _guess(magnitudes, k)) if 0 < k < values.size >> 2 else None
    if at is None or at.size < k or magnitudes[at].min() == 0:
        at = np.flatnonzero(magnitudes)
    if at.size <= k:
        return at
    if k == 0:
        return at[:0]
    among = magnitudes[at]
    cut = np.partition(among, among.size - k)[among.size - k]
    chosen = among > cut
    ties = np.flatnonzero(among == cut)
    chosen[ties[: k - np.count_nonzero(chosen)]] = True
    exact: Array = at[chosen]
    return exact


def _guess(magnitudes: Array, k: int) -> float:
    """A threshold that about k + 3 sqrt(k) + 3 of the sample's share are above; 0 for few values."""
    n = magnitudes.size
    sample = magnitudes[:: (n // SAMPLE) | 1]
    expected = k * sample.size / n
    rank = sample.size - int(expected + 3 * expected**0.5 + 3)
    if n < 4 * SAMPLE or rank <= 0:
        return 0.0
    return float(np.partition(sample, rank)[rank])


def pack_positions(at: Array, n: int) -> tuple[Array, Array]:
    """Ascending positions below ``n`` as their lower 16 bits, and how many there are in each 65536."""
    counts = np.bincount(at >> 16, minlength=-(-n >> 16)).astype("<u4")
    return (at & 0xFFFF).astype("<u2"), counts


def unpack_positions(low: Array, counts: Array, n: int) -> Array:
    """The positions.

    Raises:
        ValueError: they are not ascending positions below ``n``; says why.
    """
    total = int(counts.sum(dtype=np.uint64))
    if total != low.size:
        raise ValueError(f"the counts add up to {total}, and there are {low.size} positions")
    at = np.repeat(np.arange(counts.size, dtype=np.int64) << 16, counts)
    at += low
    if at.size and (at[-1] >= n or (at[1:] <= at[:-1]).any()):
        raise ValueError(f"positions are not ascending, or not below {n}")
    return at
