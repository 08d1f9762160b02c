"""Layers that change the space of images and learn nothing: borders, shuffles, resizing, windows."""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, ShapeError
from shoal.ops import padding, resample, windows
from shoal.ops.border import Pad
from shoal.ops.conv import Lengths
from shoal.ops.nn.hybrid import HybridBlock

__all__ = [
    "ChannelShuffle",
    "CircularPad1D",
    "CircularPad2D",
    "CircularPad3D",
    "ConstantPad1D",
    "ConstantPad2D",
    "ConstantPad3D",
    "Fold",
    "PixelShuffle1D",
    "PixelShuffle2D",
    "PixelShuffle3D",
    "PixelUnshuffle1D",
    "PixelUnshuffle2D",
    "PixelUnshuffle3D",
    "ReflectionPad1D",
    "ReflectionPad2D",
    "ReflectionPad3D",
    "ReplicationPad1D",
    "ReplicationPad2D",
    "ReplicationPad3D",
    "Unfold",
    "Upsample",
    "ZeroPad1D",
    "ZeroPad2D",
    "ZeroPad3D",
]


class _Spatial(HybridBlock):
    """``_axes`` spatial axes behind batch and channels."""

    _axes = 2

    def _require(self, x: Any) -> None:
        if len(x.shape) != self._axes + 2:
            raise ShapeError(f"{self._label()} takes {self._axes + 2} axes, got an input of shape {tuple(x.shape)}")


class _Pad(_Spatial):
    """A border around the spatial axes."""

    _mode = "constant"

    def __init__(self, padding: int | Sequence[int] = 0) -> None:
        super().__init__()
        sides = (padding,) * (2 * self._axes) if isinstance(padding, int) else tuple(padding)
        if len(sides) != 2 * self._axes:
            raise ConfigError(
                f"{type(self).__name__}: padding={padding!r}; expected a number, or {2 * self._axes}: before and after "
                "the last axis, then the one in front of it"
            )
        self.padding, self.value = sides, 0.0

    def forward(self, x: Any) -> Any:
        """Apply the layer.

        Raises:
            ShapeError: the input has another number of axes, or nothing that could be repeated.
        """
        self._require(x)
        inner = [p for axis in reversed(range(self._axes)) for p in self.padding[2 * axis : 2 * axis + 2]]
        return padding.pad(x, (0, 0, 0, 0, *inner), self._mode, self.value)

    def extra_repr(self) -> str:
        """The border."""
        return f"padding={self.padding}"


class ConstantPad2D(_Pad):
    """A border of one value around an image.

    Args:
        padding: a number, or (left, right, top, bottom) as in PyTorch; a negative one cuts off.
        value: of the border.
    """

    def __init__(self, padding: int | Sequence[int] = 0, value: float = 0.0) -> None:
        super().__init__(padding)
        self.value = float(value)


class ConstantPad1D(ConstantPad2D):
    """A border of one value around a sequence; see `ConstantPad2D`."""

    _axes = 1


class ConstantPad3D(ConstantPad2D):
    """A border of one value around a volume; see `ConstantPad2D`."""

    _axes = 3


class ZeroPad2D(_Pad):
    """A border of zeros; ``padding`` is as for `ConstantPad2D`."""


class ZeroPad1D(ZeroPad2D):
    """A border of zeros around a sequence; see `ZeroPad2D`."""

    _axes = 1


class ZeroPad3D(ZeroPad2D):
    """A border of zeros around a volume; see `ZeroPad2D`."""

    _axes = 3


class ReflectionPad2D(_Pad):
    """A border that mirrors the image at its outermost elements; ``padding`` is as for `ConstantPad2D`."""

    _mode = "reflect"


class ReflectionPad1D(ReflectionPad2D):
    """A mirrored border around a sequence; see `ReflectionPad2D`."""

    _axes = 1


class ReflectionPad3D(ReflectionPad2D):
    """A mirrored border around a volume; see `ReflectionPad2D`."""

    _axes = 3


class ReplicationPad2D(_Pad):
    """A border of the outermost elements again; ``padding`` is as for `ConstantPad2D`."""

    _mode = "replicate"


class ReplicationPad1D(ReplicationPad2D):
    """A border of the outermost elements of a sequence; see `ReplicationPad2D`."""

    _axes = 1


class ReplicationPad3D(ReplicationPad2D):
    """A border of the outermost elements of a volume; see `ReplicationPad2D`."""

    _axes = 3


class CircularPad2D(_Pad):
    """A border of what is at the other end; ``padding`` is as for `ConstantPad2D`."""

    _mode = "circular"


class CircularPad1D(CircularPad2D):
    """A border of what is at the other end of a sequence; see `CircularPad2D`."""

    _axes = 1


class CircularPad3D(CircularPad2D):
    """A border of what is at the other end of a volume; see `CircularPad2D`."""

    _axes = 3


class PixelShuffle2D(_Spatial):
    """(batch, channels * f1 * f2, height, width) to (batch, channels, height * f1, width * f2).

    Args:
        factor: a number, or one per spatial axis.
    """

    def __init__(self, factor: int | Sequence[int]) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        self._require(x)
        return padding.pixel_shuffle(x, self.factor)

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"


class PixelShuffle1D(PixelShuffle2D):
    """Channels dealt out to a sequence; see `PixelShuffle2D`."""

    _axes = 1


class PixelShuffle3D(PixelShuffle2D):
    """Channels dealt out to a volume; see `PixelShuffle2D`."""

    _axes = 3


class PixelUnshuffle2D(PixelShuffle2D):
    """The reverse of `PixelShuffle2D`."""

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        self._require(x)
        return padding.pixel_unshuffle(x, self.factor)


class PixelUnshuffle1D(PixelUnshuffle2D):
    """The reverse of `PixelShuffle1D`."""

    _axes = 1


class PixelUnshuffle3D(PixelUnshuffle2D):
    """The reverse of `PixelShuffle3D`."""

    _axes = 3


class ChannelShuffle(HybridBlock):
    """The channels of ``groups`` groups in turn."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        return padding.channel_shuffle(x, self.groups)


class Upsample(HybridBlock):
    """Interpolation of the spatial axes; arguments as of `shoal.npx.interpolate`.

    Args:
        size: spatial shape of the result.
        scale_factor: or how many times as long.
        mode: "nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area".
    """

    def __init__(
        self,
        size: Lengths | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool = False,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.antialias = align_corners, antialias

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        words = {"align_corners": self.align_corners, "antialias": self.antialias}
        return resample.interpolate(x, self.size, self.scale_factor, self.mode, **words)

    def extra_repr(self) -> str:
        """What is wanted."""
        wanted = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{wanted}, mode={self.mode}"


class Unfold(HybridBlock):
    """Windows as columns: (batch, channels, *space) to (batch, channels * kernel elements, positions).

    Args:
        kernel_size, dilation, padding, stride: as of a convolution, in PyTorch's order.
    """

    def __init__(self, kernel_size: Lengths, dilation: Lengths = 1, padding: Pad = 0, stride: Lengths = 1) -> None:
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        return windows.unfold(x, self.kernel_size, self.stride, self.padding, self.dilation)


class Fold(HybridBlock):
    """Columns added up where their windows overlap: the transpose of `Unfold`.

    Args:
        output_size: spatial shape of the result.
        kernel_size, dilation, padding, stride: as of `Unfold`.
    """

    def __init__(
        self,
        output_size: Lengths,
        kernel_size: Lengths,
        dilation: Lengths = 1,
        padding: Pad = 0,
        stride: Lengths = 1,
    ) -> None:
        super().__init__()
        self.output_size, self.kernel_size = output_size, kernel_size
        self.dilation, self.padding, self.stride = dilation, padding, stride

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        return windows.fold(x, self.output_size, self.kernel_size, self.stride, self.padding, self.dilation)
