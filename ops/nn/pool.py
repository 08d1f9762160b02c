"""Pooling layers over one to three spatial axes, channels first."""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, ShapeError
from shoal.ops import pool
from shoal.ops.nn.conv import check_layout, lengths, require_window
from shoal.ops.nn.hybrid import HybridBlock

__all__ = [
    "AvgPool1D",
    "AvgPool2D",
    "AvgPool3D",
    "GlobalAvgPool1D",
    "GlobalAvgPool2D",
    "GlobalAvgPool3D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "GlobalMaxPool3D",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
]

Lengths = int | Sequence[int]


class _Pool(HybridBlock):
    """What pooling layers share. ``_axes`` is the number of spatial axes."""

    _axes = 2

    def __init__(
        self,
        pool_size: Lengths = 2,
        strides: Lengths | None = None,
        padding: Lengths = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        who, k = type(self).__name__, self._axes
        check_layout(who, layout, k)
        if ceil_mode:
            raise ConfigError(
                f"{who}: windows that reach over the edge (ceil_mode=True) are not supported; use padding"
            )
        self.pool_size = lengths(who, "pool_size", pool_size, k, 1)
        self.strides = self.pool_size if strides is None else lengths(who, "strides", strides, k, 1)
        self.padding = lengths(who, "padding", padding, k, 0)

    def _pool(self, x: Any) -> Any:
        raise TypeError(f"{type(self).__name__} does not define _pool(self, x)")

    def forward(self, x: Any) -> Any:
        """Apply the layer.

        Raises:
            ShapeError: the window does not fit.
        """
        try:
            require_window(x, self.pool_size, self.padding, (1,) * self._axes)
            return self._pool(x)
        except ShapeError as error:
            raise ShapeError(f"{self._label()}: {error}") from None

    def extra_repr(self) -> str:
        """Geometry."""
        return f"size={self.pool_size}, stride={self.strides}, padding={self.padding}"


class MaxPool2D(_Pool):
    """The largest element of each window of an image.

    Args:
        pool_size: of the window: a number, or (height, width); as strides and padding.
        strides: step of the window; None is its size.
        padding: around the image, of elements that are never the largest.
        layout: "NCHW" only.
        ceil_mode: False only.
    """

    def _pool(self, x: Any) -> Any:
        return pool.max_pool(x, kernel=self.pool_size, stride=self.strides, pad=self.padding)


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
    """

    def __init__(
        self,
        pool_size: Lengths = 2,
        strides: Lengths | None = None,
        padding: Lengths = 0,
        layout: str | None = None,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(pool_size, strides, padding, layout, ceil_mode)
        self.count_include_pad = count_include_pad

    def _pool(self, x: Any) -> Any:
        geometry: dict[str, Any] = {"kernel": self.pool_size, "stride": self.strides, "pad": self.padding}
        return pool.avg_pool(x, count_include_pad=self.count_include_pad, **geometry)


class AvgPool1D(AvgPool2D):
    """The mean of each window of a sequence; see `AvgPool2D`."""

    _axes = 1


class AvgPool3D(AvgPool2D):
    """The mean of each window of a volume; see `AvgPool2D`."""

    _axes = 3


class _GlobalPool(HybridBlock):
    _axes = 2

    def __init__(self, layout: str | None = None) -> None:
        super().__init__()
        check_layout(type(self).__name__, layout, self._axes)

    def _check(self, x: Any) -> None:
        if len(x.shape) != self._axes + 2:
            raise ShapeError(f"{self._label()} takes {self._axes + 2} axes, got an input of shape {tuple(x.shape)}")


class GlobalAvgPool2D(_GlobalPool):
    """The mean over each channel of an image: (batch, channels, 1, 1)."""

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        self._check(x)
        return pool.global_avg_pool(x)


class GlobalAvgPool1D(GlobalAvgPool2D):
    """The mean over each channel of a sequence: (batch, channels, 1)."""

    _axes = 1


class GlobalAvgPool3D(GlobalAvgPool2D):
    """The mean over each channel of a volume: (batch, channels, 1, 1, 1)."""

    _axes = 3


class GlobalMaxPool2D(_GlobalPool):
    """The largest element of each channel of an image: (batch, channels, 1, 1)."""

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        self._check(x)
        return pool.global_max_pool(x)


class GlobalMaxPool1D(GlobalMaxPool2D):
    """The largest element of each channel of a sequence: (batch, channels, 1)."""

    _axes = 1


class GlobalMaxPool3D(GlobalMaxPool2D):
    """The largest element of each channel of a volume: (batch, channels, 1, 1, 1)."""

    _axes = 3
