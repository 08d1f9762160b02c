"""Pooling layers over one to three spatial axes, channels first."""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, ShapeError
from shoal.ops import convolve, pool, pooling
from shoal.ops.border import Pad, pairs
from shoal.ops.nn.conv import lengths
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.resample import adaptive_avg_pool
from shoal.ops.shape import moveaxis

__all__ = [
    "AdaptiveAvgPool1D",
    "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D",
    "AdaptiveMaxPool1D",
    "AdaptiveMaxPool2D",
    "AdaptiveMaxPool3D",
    "AvgPool1D",
    "AvgPool2D",
    "AvgPool3D",
    "GlobalAvgPool1D",
    "GlobalAvgPool2D",
    "GlobalAvgPool3D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPool3D",
    "LPPool1D",
    "LPPool2D",
    "LPPool3D",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
    "MaxUnpool1D",
    "MaxUnpool2D",
    "MaxUnpool3D",
]

Lengths = int | Sequence[int]


class _Pool(HybridBlock):
    """What pooling layers share. ``_axes`` is the number of spatial axes."""

    _axes = 2

    def __init__(
        self,
        pool_size: Lengths = 2,
        strides: Lengths | None = None,
        padding: Pad = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        who, k = type(self).__name__, self._axes
        self.channels_last, self.ceil_mode = convolve.channels_last(who, layout, k), ceil_mode
        self.pool_size = lengths(who, "pool_size", pool_size, k, 1)
        self.strides = self.pool_size if strides is None else lengths(who, "strides", strides, k, 1)
        self.padding = (padding,) * k if isinstance(padding, int) else padding
        pairs(who, padding, (1,) * k, self.pool_size, self.strides, (1,) * k)  # so that a mistake is told here

    @property
    def geometry(self) -> dict[str, Any]:
        """The arguments that all kinds of pooling take."""
        return {"kernel": self.pool_size, "stride": self.strides, "pad": self.padding, "ceil_mode": self.ceil_mode}

    def _pool(self, x: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not define _pool(self, x)")

    def forward(self, x: Any) -> Any:
        """Apply the layer.

        Raises:
            ShapeError: the window does not fit.
        """
        try:
            if len(x.shape) != self._axes + 2:
                raise ShapeError(f"takes {self._axes + 2} axes, got an input of shape {tuple(x.shape)}")
            return moveaxis(self._pool(moveaxis(x, -1, 1)), 1, -1) if self.channels_last else self._pool(x)
        except ShapeError as error:
            raise ShapeError(f"{self._label()}: {error}") from None

    def extra_repr(self) -> str:
        """Geometry."""
        over = ", ceil_mode=True" if self.ceil_mode else ""
        return f"size={self.pool_size}, stride={self.strides}, padding={self.padding}{over}"


class MaxPool2D(_Pool):
    """The largest element of each window of an image.

    Args:
        pool_size: of the window: a number, or (height, width); as strides and padding.
        strides: step of the window; None is its size.
        padding: around the image, of elements that are never the largest: also "same", and (before, after) per axis.
        layout: "NCHW" or "NHWC".
        ceil_mode: the last window may reach over the end of the image.
        dilation: distance of a window's elements.
        return_indices: return also where the largest elements were, for `MaxUnpool2D`.
    """

    def __init__(
        self,
        pool_size: Lengths = 2,
        strides: Lengths | None = None,
        padding: Pad = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
        dilation: Lengths = 1,
        return_indices: bool = False,
    ) -> None:
        super().__init__(pool_size, strides, padding, layout, ceil_mode)
        self.dilation = lengths(type(self).__name__, "dilation", dilation, self._axes, 1)
        self.return_indices = return_indices
        if return_indices and self.channels_last:
            raise ConfigError(f"{type(self).__name__}: return_indices goes with the channels first only")

    def _pool(self, x: Any) -> Any:
        return pooling.max_pool(x, dilate=self.dilation, return_indices=self.return_indices, **self.geometry)


class MaxPool1D(MaxPool2D):
    """The largest element of each window of a sequence; see `MaxPool2D`."""

    _axes = 1


class MaxPool3D(MaxPool2D):
    """The largest element of each window of a volume; see `MaxPool2D`."""

    _axes = 3


class AvgPool2D(_Pool):
    """The mean of each window of an image.

    Args:
        pool_size, strides, padding, layout, ceil_mode: as for `MaxPool2D`; padding is zeros.
        count_include_pad: whether padding counts as elements.
        divisor_override: divide the sums by this.
    """

    def __init__(
        self,
        pool_size: Lengths = 2,
        strides: Lengths | None = None,
        padding: Pad = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(pool_size, strides, padding, layout, ceil_mode)
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def _pool(self, x: Any) -> Any:
        given = self.geometry | {"divisor_override": self.divisor_override}
        return pooling.avg_pool(x, count_include_pad=self.count_include_pad, **given)


class AvgPool1D(AvgPool2D):
    """The mean of each window of a sequence; see `AvgPool2D`."""

    _axes = 1


class AvgPool3D(AvgPool2D):
    """The mean of each window of a volume; see `AvgPool2D`."""

    _axes = 3


class LPPool2D(_Pool):
    """(sum of abs(x)**p)**(1/p) over each window of an image.

    Args:
        norm_type: the exponent p, at least 1.
        pool_size, strides, padding, layout, ceil_mode: as for `MaxPool2D`; padding is zeros.
    """

    def __init__(
        self,
        norm_type: float,
        pool_size: Lengths = 2,
        strides: Lengths | None = None,
        padding: Pad = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(pool_size, strides, padding, layout, ceil_mode)
        self.norm_type = norm_type

    def _pool(self, x: Any) -> Any:
        return pooling.lp_pool(x, self.norm_type, **self.geometry)


class LPPool1D(LPPool2D):
    """Lp pooling of sequences; see `LPPool2D`."""

    _axes = 1


class LPPool3D(LPPool2D):
    """Lp pooling of volumes; see `LPPool2D`."""

    _axes = 3


class MaxUnpool2D(HybridBlock):
    """Puts what `MaxPool2D` with ``return_indices`` gave back at its place, among zeros.

    Args:
        pool_size, strides, padding: as of the pooling.
    """

    _axes = 2

    def __init__(self, pool_size: Lengths = 2, strides: Lengths | None = None, padding: Lengths = 0) -> None:
        super().__init__()
        who, k = type(self).__name__, self._axes
        self.pool_size = lengths(who, "pool_size", pool_size, k, 1)
        self.strides = self.pool_size if strides is None else lengths(who, "strides", strides, k, 1)
        self.padding = lengths(who, "padding", padding, k, 0)

    def forward(self, x: Any, indices: Any, output_size: Sequence[int] | None = None) -> Any:
        """Apply the layer; ``output_size`` is the spatial shape that pooling began with, if several are possible."""
        return pooling.max_unpool(x, indices, self.pool_size, self.strides, self.padding, output_size)


class MaxUnpool1D(MaxUnpool2D):
    """The reverse of `MaxPool1D`; see `MaxUnpool2D`."""

    _axes = 1


class MaxUnpool3D(MaxUnpool2D):
    """The reverse of `MaxPool3D`; see `MaxUnpool2D`."""

    _axes = 3


class _Layered(HybridBlock):
    """What pooling layers without windows share: axes and layout."""

    _axes = 2

    def __init__(self, layout: str | None = None) -> None:
        super().__init__()
        self.channels_last = convolve.channels_last(type(self).__name__, layout, self._axes)

    def _pool(self, x: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not define _pool(self, x)")

    def forward(self, x: Any) -> Any:
        """Apply the layer.

        Raises:
            ShapeError: the input has another number of axes.
        """
        if len(x.shape) != self._axes + 2:
            raise ShapeError(f"{self._label()} takes {self._axes + 2} axes, got an input of shape {tuple(x.shape)}")
        return moveaxis(self._pool(moveaxis(x, -1, 1)), 1, -1) if self.channels_last else self._pool(x)


class AdaptiveAvgPool2D(_Layered):
    """The mean of each of ``output_size`` regions that cover an image evenly.

    Args:
        output_size: a number, or (height, width); None keeps a length.
        layout: "NCHW" or "NHWC".
    """

    def __init__(self, output_size: Any = 1, layout: str | None = None) -> None:
        super().__init__(layout)
        self.output_size = output_size

    def _pool(self, x: Any) -> Any:
        return adaptive_avg_pool(x, self.output_size)

    def extra_repr(self) -> str:
        """The size."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1D(AdaptiveAvgPool2D):
    """Means of regions of a sequence; see `AdaptiveAvgPool2D`."""

    _axes = 1


class AdaptiveAvgPool3D(AdaptiveAvgPool2D):
    """Means of regions of a volume; see `AdaptiveAvgPool2D`."""

    _axes = 3


class AdaptiveMaxPool2D(AdaptiveAvgPool2D):
    """The largest element of each of ``output_size`` regions that cover an image evenly; see `AdaptiveAvgPool2D`."""

    def _pool(self, x: Any) -> Any:
        return pooling.adaptive_max_pool(x, self.output_size)


class AdaptiveMaxPool1D(AdaptiveMaxPool2D):
    """Largest elements of regions of a sequence; see `AdaptiveMaxPool2D`."""

    _axes = 1


class AdaptiveMaxPool3D(AdaptiveMaxPool2D):
    """Largest elements of regions of a volume; see `AdaptiveMaxPool2D`."""

    _axes = 3


class GlobalAvgPool2D(_Layered):
    """The mean over each channel of an image: (batch, channels, 1, 1)."""

    def _pool(self, x: Any) -> Any:
        return pool.global_avg_pool(x)


class GlobalAvgPool1D(GlobalAvgPool2D):
    """The mean over each channel of a sequence: (batch, channels, 1)."""

    _axes = 1


class GlobalAvgPool3D(GlobalAvgPool2D):
    """The mean over each channel of a volume: (batch, channels, 1, 1, 1)."""

    _axes = 3


class GlobalMaxPool2D(_Layered):
    """The largest element of each channel of an image: (batch, channels, 1, 1)."""

    def _pool(self, x: Any) -> Any:
        return pool.global_max_pool(x)


class GlobalMaxPool1D(GlobalMaxPool2D):
    """The largest element of each channel of a sequence: (batch, channels, 1)."""

    _axes = 1


class GlobalMaxPool3D(GlobalMaxPool2D):
    """The largest element of each channel of a volume: (batch, channels, 1, 1, 1)."""

    _axes = 3
