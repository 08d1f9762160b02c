"""What a benchmark of a store exchanges, what must come out of it, and the figures it is told in.

The gradients are multiples of 1/64 and the learning rate is a power of two, so that sums and SGD steps of any order are
exact in float32 (and the gradients in 16 bits): the values that come back are compared with their closed form, bit for
bit. They differ from element to element, so that a value which lands in the wrong place is found.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError

__all__ = [
    "CASES",
    "LR",
    "Shape",
    "expected",
    "gradient",
    "parse_bytes",
    "percentile",
    "rates",
    "resnet50",
    "set_bytes",
]

Shape = tuple[int, ...]
Array = NDArray[np.float32]

LR = 2.0**-10
"""Learning rate of the SGD on the servers."""

PERIOD = 61
"""The gradient repeats after this many elements: a prime, so that no slice begins where another does."""


def resnet50() -> list[Shape]:
    """The 161 parameter tensors of ResNet-50 v1: 25,557,032 values (He et al., arXiv:1512.03385, table 1)."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += [(width, channels, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, channels, 1, 1), (4 * width,), (4 * width,)]
            channels = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


CASES: dict[str, list[Shape]] = {
    "t100mb": [(25_000_000,)],
    "resnet50": resnet50(),
    "k1000x1kb": [(256,)] * 1000,
    "one1kb": [(256,)],
}
"""Sets of float32 tensors by name: one of 100 MB, ResNet-50's, 1000 of 1 KB, one of 1 KB."""


def set_bytes(shapes: Sequence[Shape]) -> int:
    """Bytes of a set of float32 tensors."""
    return 4 * sum(math.prod(s) for s in shapes)


def gradient(shape: Shape, rank: int) -> Array:
    """What worker ``rank`` pushes: multiples of 1/64 that repeat every `PERIOD` elements, larger for larger ranks.

    >>> (gradient((62,), 1) * 64)[[0, 1, 60, 61]].tolist()
    [-60.0, -58.0, 60.0, -60.0]
    """
    pattern = (np.arange(PERIOD, dtype=np.float32) - PERIOD // 2) * np.float32((rank + 1) / 64)
    return np.resize(pattern, math.prod(shape)).reshape(shape)


def expected(shape: Shape, workers: int, rounds: int, *, sgd: bool) -> Array:
    """The value of a key that began at 0, after every worker has pushed ``rounds`` times to a store that sums.

    Args:
        sgd: the store applies SGD with learning rate `LR`; otherwise a round's sum replaces the value.
    """
    total = gradient(shape, 0) * np.float32(workers * (workers + 1) // 2)
    return np.float32(-LR * rounds) * total if sgd else total


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed (nearest rank).

    >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5), percentile([4.0, 1.0, 3.0, 2.0], 0.99)
    (2.0, 4.0)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def rates(shapes: Sequence[Shape], ms: float) -> dict[str, float]:
    """GB of the set that one worker pushes, and pulls, a second; and keys a second.

    >>> rates([(250_000_000,)], 500.0)
    {'GBps': 2.0, 'keys_per_s': 2.0}
    """
    return {"GBps": set_bytes(shapes) / 1e6 / ms, "keys_per_s": len(shapes) / ms * 1e3}


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def parse_bytes(text: str) -> int:
    """A number of bytes, such as ``4096``, ``1KB``, ``1KiB``, ``100MB``.

    >>> parse_bytes("1KiB"), parse_bytes("2.5 MB"), parse_bytes("7")
    (1024, 2500000, 7)

    Raises:
        ConfigError: it is none, or less than one.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", text.upper())
    size = int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0
    if size < 1:
        raise ConfigError(f"expected a size such as 1KB, 4MiB or 100MB, got {text!r}")
    return size


def error_against(value: Any, wanted: Array) -> float:
    """|value - wanted| / |wanted|, in float64; 0 where both are 0."""
    gap = float(np.linalg.norm(np.asarray(value, np.float64) - wanted))
    return gap / (float(np.linalg.norm(wanted.astype(np.float64))) or 1.0)
