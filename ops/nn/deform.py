"""Convolution layers whose windows are bent by offsets that a convolution of the same input computes."""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError, ShapeError
from shoal.ops.activation import sigmoid
from shoal.ops.deform import deformable_convolution
from shoal.ops.nn.activation import activation_layer
from shoal.ops.nn.conv import Conv2D, lengths
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Parameter

__all__ = ["DeformableConvolution", "ModulatedDeformableConvolution"]

Lengths = int | Sequence[int]
Init = str | float | Initializer | None


class DeformableConvolution(HybridBlock):
    """Convolution of images with bent windows (Dai et al., arXiv:1703.06211).

    Args:
        channels: number of filters.
        kernel_size, strides, padding, dilation, groups: as of `Conv2D`.
        num_deformable_group: groups of channels that have offsets of their own.
        use_bias: whether there is a bias.
        in_channels: 0 infers it from the first batch.
        activation: name of an `Activation`, or None.
        weight_initializer, bias_initializer: of the weight and the bias.
        offset_weight_initializer, offset_bias_initializer: of the convolution that computes the offsets; zeros begin
            with straight windows.
        offset_use_bias: whether that convolution has a bias.
    """

    _each = 2

    def __init__(
        self,
        channels: int,
        kernel_size: Lengths = 1,
        strides: Lengths = 1,
        padding: Lengths = 0,
        dilation: Lengths = 1,
        groups: int = 1,
        num_deformable_group: int = 1,
        use_bias: bool = True,
        in_channels: int = 0,
        activation: str | None = None,
        weight_initializer: Init = None,
        bias_initializer: Init = "zeros",
        offset_weight_initializer: Init = "zeros",
        offset_bias_initializer: Init = "zeros",
        offset_use_bias: bool = True,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if channels < 1 or groups < 1 or channels % groups or in_channels % groups or num_deformable_group < 1:
            raise ConfigError(f"{who}: {channels=} and {in_channels=} must be multiples of {groups=}")
        self.channels, self.groups, self.num_deformable_group = channels, groups, num_deformable_group
        self.kernel, self.strides = (lengths(who, "size", v, 2, 1) for v in (kernel_size, strides))
        self.padding, self.dilation = lengths(who, "padding", padding, 2, 0), lengths(who, "dilation", dilation, 2, 1)
        self.taps = num_deformable_group * self.kernel[0] * self.kernel[1]
        self.offset = Conv2D(
            self._each * self.taps,
            self.kernel,
            self.strides,
            self.padding,
            self.dilation,
            use_bias=offset_use_bias,
            weight_initializer=offset_weight_initializer,
            bias_initializer=offset_bias_initializer,
            in_channels=in_channels,
        )
        size = (channels, in_channels // groups if in_channels else -1, *self.kernel)
        self.weight = Parameter("weight", shape=size, init=weight_initializer, allow_deferred_init=True)
        self.bias = Parameter("bias", shape=(channels,), init=bias_initializer) if use_bias else None
        self.act = activation_layer(activation)

    def infer_shape(self, x: Any) -> None:
        """The channels of the input."""
        if x.ndim != 4 or x.shape[1] % self.groups:
            raise ShapeError(f"{self._label()} takes NCHW, C a multiple of {self.groups}; got {tuple(x.shape)}")
        self.weight.shape = (self.channels, x.shape[1] // self.groups, *self.kernel)

    def forward(self, x: Any) -> Any:
        """Apply the layer."""
        moved = self.offset(x)
        mask = None
        if self._each == 3:
            moved, mask = moved[:, : 2 * self.taps], sigmoid(moved[:, 2 * self.taps :]) * 2.0
        y = deformable_convolution(
            x,
            moved,
            self.weight.data(),
            None if self.bias is None else self.bias.data(),
            mask,
            stride=self.strides,
            pad=self.padding,
            dilate=self.dilation,
            num_group=self.groups,
            num_deformable_group=self.num_deformable_group,
        )
        return y if self.act is None else self.act(y)

    def extra_repr(self) -> str:
        """Channels and geometry."""
        return f"{self.channels}, kernel_size={self.kernel}, stride={self.strides}, padding={self.padding}"


class ModulatedDeformableConvolution(DeformableConvolution):
    """`DeformableConvolution` with a factor from 0 to 2 for each element of a window (Zhu et al., arXiv:1811.11168)."""

    _each = 3
