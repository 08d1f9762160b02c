"""What lies around an image: the padding of convolutions and pooling, in all the forms in which people write it.

The operators pad both sides of an axis alike. What is more than that on one side is put there before, by `around`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from shoal.errors import ConfigError
from shoal.ops import shape
from shoal.ops.conv import Lengths, lengths
from shoal.ops.registry import Shape

__all__ = ["Border", "Pad", "around", "border", "crop", "pairs"]

Pad = str | int | Sequence[int] | Sequence[Sequence[int]]
"""A number, one per axis, (before, after) per axis, "valid", "same" or "same_lower"."""

Pairs = tuple[tuple[int, int], ...]


class Border(NamedTuple):
    """A padding in two parts.

    Attributes:
        both: elements on both sides of each spatial axis, for an operator's ``pad``.
        more: (before, after) of each spatial axis in addition.
    """

    both: Shape
    more: Pairs


def pairs(who: str, pad: Pad, space: Sequence[int], kernel: Shape, stride: Shape, dilate: Shape) -> Pairs:
    """(before, after) of each spatial axis.

    Args:
        pad: "same" gives ceil(length / stride) outputs and puts an odd element at the end ("same_lower": at the
            beginning); "valid" is none.
    Raises:
        ConfigError: another text, another number of axes, or a negative number.
    """
    k = len(kernel)
    if isinstance(pad, str):
        if pad not in ("valid", "same", "same_upper", "same_lower"):
            raise ConfigError(f"{who}: pad={pad!r}; there are 'valid', 'same' and 'same_lower', or numbers")
        if pad == "valid":
            return ((0, 0),) * k
        return tuple(
            _same(n, (m - 1) * d + 1, s, pad == "same_lower")
            for n, m, s, d in zip(space, kernel, stride, dilate, strict=True)
        )
    sides: Sequence[Any] = (pad,) * k if isinstance(pad, int) else tuple(pad)
    found = tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in sides)
    if len(found) != k or any(p < 0 for pair in found for p in pair):
        raise ConfigError(f"{who}: pad={pad!r} for {k} spatial axes; expected a number >= 0, {k} of them, or {k} pairs")
    return found


def _same(n: int, reach: int, stride: int, lower: bool) -> tuple[int, int]:
    total = max((-(-n // stride) - 1) * stride + reach - n, 0)
    small = total // 2
    return (total - small, small) if lower else (small, total - small)


def border(
    who: str, pad: Pad, space: Sequence[int], kernel: Lengths, stride: Lengths = 1, dilate: Lengths = 1
) -> Border:
    """``pad`` as what both sides have and what one side has more."""
    k = len(space)
    found = pairs(who, pad, space, lengths(kernel, k), lengths(stride, k), lengths(dilate, k))
    both = tuple(min(p) for p in found)
    return Border(both, tuple((a - b, c - b) for (a, c), b in zip(found, both, strict=True)))


def around(x: Any, more: Pairs, value: float = 0.0) -> Any:
    """``x`` (batch, channels, *space) with ``value`` around its spatial axes; itself if there is nothing to add."""
    if not any(p for pair in more for p in pair):
        return x
    return shape.pad(x, pad_width=((0, 0), (0, 0), *more), constant=value)


def crop(x: Any, less: Pairs) -> Any:
    """``x`` without the first and last elements of its spatial axes: the reverse of `around`."""
    if not any(p for pair in less for p in pair):
        return x
    return x[(slice(None), slice(None), *(slice(a, n - b) for n, (a, b) in zip(x.shape[2:], less, strict=True)))]
