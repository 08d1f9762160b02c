"""Convolution layers over one to three spatial axes, channels first."""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import convolve
from shoal.ops.border import Pad, pairs
from shoal.ops.nn.activation import activation_layer
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Parameter

__all__ = [
    "Conv1D",
    "Conv1DTranspose",
    "Conv2D",
    "Conv2DTranspose",
    "Conv3D",
    "Conv3DTranspose",
]

Lengths = int | Sequence[int]
Init = str | float | Initializer | None


def lengths(who: str, name: str, value: Lengths, k: int, least: int) -> tuple[int, ...]:
    """One number for each of ``k`` spatial axes.

    Raises:
        ConfigError: another number of them, or one that is too small.
    """
    found = (value,) * k if isinstance(value, int) else tuple(value)
    if len(found) != k or any(n < least for n in found):
        raise ConfigError(f"{who}: {name} must be a number >= {least}, or {k} of them, got {value!r}")
    return found


class _Conv(HybridBlock):
    """What convolutions share. ``_axes`` is the number of spatial axes."""

    _axes = 2
    _transposed = False

    def __init__(
        self,
        channels: int,
        kernel_size: Lengths,
        strides: Lengths = 1,
        padding: Pad = 0,
        dilation: Lengths = 1,
        groups: int = 1,
        layout: str | None = None,
        activation: str | None = None,
        use_bias: bool = True,
        weight_initializer: Init = None,
        bias_initializer: Init = "zeros",
        in_channels: int = 0,
        output_padding: Lengths = 0,
    ) -> None:
        super().__init__()
        who, k = type(self).__name__, self._axes
        self.channels_last = convolve.channels_last(who, layout, k)
        self.layout = layout or convolve.LAYOUTS[k - 1]
        if channels < 1 or groups < 1 or channels % groups or in_channels % groups:
            raise ConfigError(
                f"{who}: channels={channels} and in_channels={in_channels} must be multiples of {groups=}"
            )
        self.channels, self.groups = channels, groups
        self.kernel = lengths(who, "kernel_size", kernel_size, k, 1)
        self.strides = lengths(who, "strides", strides, k, 1)
        self.padding = (padding,) * k if isinstance(padding, int) else padding
        self.dilation = lengths(who, "dilation", dilation, k, 1)
        pairs(who, padding, (1,) * k, self.kernel, self.strides, self.dilation)  # so that a mistake is told here
        self.output_padding = lengths(who, "output_padding", output_padding, k, 0)
        size = self._weight_shape(in_channels)
        self.weight = Parameter("weight", shape=size, init=weight_initializer, allow_deferred_init=True)
        self.bias = Parameter("bias", shape=(channels,), init=bias_initializer) if use_bias else None
        self.act = activation_layer(activation)

    def _weight_shape(self, in_channels: int) -> tuple[int, ...]:
        first, second = self.channels, in_channels // self.groups if in_channels else -1
        if self._transposed:
            first, second = in_channels or -1, self.channels // self.groups
        return (first, *self.kernel, second) if self.channels_last else (first, second, *self.kernel)

    def infer_shape(self, x: Any) -> None:
        """The channels of the input."""
        if x.ndim != self._axes + 2:
            raise ShapeError(f"{self._label()} takes {self.layout}, got an input of shape {tuple(x.shape)}")
        channels = x.shape[-1 if self.channels_last else 1]
        if channels % self.groups:
            raise ShapeError(f"{self._label()}: {channels} channels are not a multiple of {self.groups} groups")
        self.weight.shape = self._weight_shape(channels)

    def forward(self, x: Any) -> Any:
        """Apply the layer.

        Raises:
            ShapeError: the input has other channels than the weight, or is smaller than the kernel; has both shapes.
        """
        weight, bias = self.weight.data(), None if self.bias is None else self.bias.data()
        try:
            y = self._apply(x, weight, bias)
        except (ShapeError, DTypeError) as error:
            raise type(error)(f"{self._label()}: {error}") from None
        return y if self.act is None else self.act(y)

    def _apply(self, x: Any, weight: Any, bias: Any) -> Any:
        geometry: dict[str, Any] = {"stride": self.strides, "pad": self.padding, "dilate": self.dilation}
        geometry |= {"num_group": self.groups, "layout": self.layout}
        if self._transposed:
            return convolve.deconvolution(x, weight, bias, adj=self.output_padding, **geometry)
        return convolve.convolution(x, weight, bias, **geometry)

    def extra_repr(self) -> str:
        """Channels and geometry."""
        shape = self.weight.shape or ()
        known = shape[0] if self._transposed else shape[-1 if self.channels_last else 1] * self.groups
        text = f"{known if known > 0 else '?'} -> {self.channels}, kernel_size={self.kernel}, stride={self.strides}"
        for name, value, usual in (
            ("padding", self.padding, (0,) * self._axes),
            ("dilation", self.dilation, (1,) * self._axes),
            ("groups", self.groups, 1),
        ):
            text += f", {name}={value}" if value != usual else ""
        return text + (f", {self.act.name}" if self.act is not None else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class Conv2D(_Conv):
    """Convolution of images: (batch, in_channels, height, width) to (batch, channels, out_height, out_width).

    An output length is (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1.

    Args:
        channels: number of filters.
        kernel_size: a number, or (height, width); as strides, padding and dilation.
        strides: step of the window.
        padding: zeros around the image: also "same" and "valid", and (before, after) for each axis.
        dilation: distance between the elements of the window.
        groups: channels and filters are split into groups that do not see each other.
        layout: "NCHW", or "NHWC" for (batch, height, width, channels) and a weight with its channels last.
        activation: name of an `Activation`, or None.
        use_bias: whether there is a bias.
        weight_initializer: of the weight (channels, in_channels / groups, height, width).
        bias_initializer: of the bias (channels,).
        in_channels: 0 infers it from the first batch.
    """


class Conv1D(_Conv):
    """Convolution of sequences, (batch, in_channels, length). Arguments as for `Conv2D`; the layout is "NCW"."""

    _axes = 1


class Conv3D(_Conv):
    """Convolution of volumes, (batch, in_channels, depth, height, width). Arguments as for `Conv2D`."""

    _axes = 3


class Conv2DTranspose(_Conv):
    """Transposed convolution of images: the gradient of `Conv2D`, used forward, to make images larger.

    An output length is (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding. The weight
    is (in_channels, channels / groups, height, width). Arguments as for `Conv2D`, and

    Args:
        output_padding: how many elements to add at the end; less than the stride.
    """

    _transposed = True


class Conv1DTranspose(_Conv):
    """Transposed convolution of sequences; see `Conv2DTranspose`."""

    _axes, _transposed = 1, True


class Conv3DTranspose(_Conv):
    """Transposed convolution of volumes; see `Conv2DTranspose`."""

    _axes, _transposed = 3, True
