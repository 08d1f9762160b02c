"""Which input elements a convolution multiplies, axis by axis, as the generated code sees them.

A convolution and its gradient for the input are the same loop, a *gather*: each output position sums weights times
inputs over a list of taps. Only the tables of the two axes differ. With stride s the gradient falls into s * s such
gathers, one for each remainder of the position, so that no zeros are put between the elements and multiplied.
"""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Axis", "Shape2D", "backward_axes", "forward_axis", "overlap"]


class Shape2D(NamedTuple):
    """A convolution over two axes: batch, channels, filters, and (height, width) pairs.

    ``pad`` is what stands before the first element; what stands behind the last one follows from ``out``.
    """

    batch: int
    channels: int
    filters: int
    space: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilate: tuple[int, int]

    @property
    def multiplications(self) -> int:
        """Of the forward pass, those with padding included."""
        taps = self.kernel[0] * self.kernel[1]
        return self.batch * self.out[0] * self.out[1] * taps * self.channels * self.filters


@dataclass(frozen=True)
class Axis:
    """One axis of a gather: output position ``start + j * step`` for j < count reads input ``j * jump + offset``.

    Attributes:
        taps: (index in the kernel, offset), offsets ascending at equal distances; a tap whose input lies outside
            [0, length) contributes nothing.
        length: of the input.
    """

    start: int
    step: int
    count: int
    jump: int
    taps: tuple[tuple[int, int], ...]
    length: int

    @property
    def apart(self) -> int:
        """Distance of neighbouring taps."""
        return self.taps[1][1] - self.taps[0][1] if len(self.taps) > 1 else 1

    def valid(self, tap: int) -> tuple[int, int]:
        """The j in [first, last) for which the tap number ``tap`` reads an element that exists."""
        offset = self.taps[tap][1]
        first = max(0, -(offset // self.jump))
        last = min(self.count, (self.length - 1 - offset) // self.jump + 1)
        return first, max(first, last)


def forward_axis(length: int, out: int, kernel: int, stride: int, pad: int, dilate: int) -> Axis:
    """One axis of a convolution."""
    return Axis(0, 1, out, stride, tuple((k, k * dilate - pad) for k in range(kernel)), length)


def backward_axes(length: int, out: int, kernel: int, stride: int, pad: int, dilate: int) -> list[Axis]:
    """One axis of the gradient for the input, by remainders of the position: its "input" is the cotangent."""
    found = []
    for start in range(min(stride, length)):
        near = [(k, start + pad - k * dilate) for k in reversed(range(kernel))]
        taps = tuple((k, distance // stride) for k, distance in near if distance % stride == 0)
        found.append(Axis(start, stride, (length - start - 1) // stride + 1, 1, taps, out))
    return found


def overlap(axis: Axis, tap: int, begin: int, size: int) -> tuple[int, int]:
    """Which of the positions begin, ..., begin + size - 1 the tap is valid for: [first, last), counted from begin."""
    first, last = axis.valid(tap)
    return min(max(first - begin, 0), size), min(max(last - begin, 0), size)
