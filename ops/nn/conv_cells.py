"""Recurrent cells whose products are convolutions (Shi et al., arXiv:1506.04214): for sequences of images and signals.

Names and arguments are Gluon's. States have the channels asked for and the lengths that the input's convolution gives;
the state's convolution keeps its lengths, so its kernel is odd.
"""

from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError
from shoal.ops import activation, conv
from shoal.ops.elementwise import tanh
from shoal.ops.nn.basic import Init
from shoal.ops.nn.cells import RecurrentCell, States
from shoal.ops.nn.parameter import Parameter

__all__ = [
    "Conv1DGRUCell",
    "Conv1DLSTMCell",
    "Conv1DRNNCell",
    "Conv2DGRUCell",
    "Conv2DLSTMCell",
    "Conv2DRNNCell",
    "Conv3DGRUCell",
    "Conv3DLSTMCell",
    "Conv3DRNNCell",
]

Lengths = int | Sequence[int]


class _ConvCell(RecurrentCell):
    """Base of the cells below. See `Conv1DRNNCell` for the arguments."""

    dims = 0
    gates = 1
    states = 1

    def __init__(
        self,
        input_shape: Sequence[int],
        hidden_channels: int,
        i2h_kernel: Lengths,
        h2h_kernel: Lengths,
        i2h_pad: Lengths = 0,
        i2h_dilate: Lengths = 1,
        h2h_dilate: Lengths = 1,
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        activation: str = "tanh",
        dtype: Any = "float32",
    ) -> None:
        super().__init__()
        who, (channels, *space) = type(self).__name__, tuple(input_shape)
        kernel, state_kernel = conv.lengths(i2h_kernel, self.dims), conv.lengths(h2h_kernel, self.dims)
        self.pad, self.dilate = conv.lengths(i2h_pad, self.dims), conv.lengths(i2h_dilate, self.dims)
        self.state_dilate = conv.lengths(h2h_dilate, self.dims)
        if len(space) != self.dims or any(k % 2 == 0 for k in state_kernel):
            raise ConfigError(
                f"{who}: input_shape={tuple(input_shape)}, h2h_kernel={state_kernel}; expected channels and "
                f"{self.dims} lengths, and odd kernels"
            )
        self.state_pad = tuple(d * (k - 1) // 2 for d, k in zip(self.state_dilate, state_kernel, strict=True))
        self.hidden_channels, self.activation = hidden_channels, activation_named(who, activation)
        self.space = tuple(
            n + 2 * p - d * (k - 1) for n, p, d, k in zip(space, self.pad, self.dilate, kernel, strict=True)
        )
        if min(self.space) < 1:
            raise ConfigError(f"{who}: i2h_kernel={kernel} does not fit input_shape={tuple(input_shape)}")
        rows = self.gates * hidden_channels
        inits = (i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer)
        shapes = ((rows, channels, *kernel), (rows, hidden_channels, *state_kernel), (rows,), (rows,))
        names = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")
        for name, shape, init in zip(names, shapes, inits, strict=True):
            setattr(self, name, Parameter(name, shape=shape, dtype=dtype, init=init))

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """(batch, channels, lengths...), once or twice."""
        shape = (batch_size, self.hidden_channels, *self.space)
        return [{"shape": shape, "__layout__": "NC" + "DHW"[3 - self.dims :]} for _ in range(self.states)]

    def _parts(self, x: Any, h: Any) -> tuple[list[Any], list[Any]]:
        """What comes from the input, and from the state, gate by gate."""
        params = self._reg_params
        i2h = conv.convolution(
            x, params["i2h_weight"].data(), params["i2h_bias"].data(), pad=self.pad, dilate=self.dilate
        )
        h2h = conv.convolution(
            h, params["h2h_weight"].data(), params["h2h_bias"].data(), pad=self.state_pad, dilate=self.state_dilate
        )
        size = self.hidden_channels
        cut = [slice(n * size, (n + 1) * size) for n in range(self.gates)]
        return [i2h[:, c] for c in cut], [h2h[:, c] for c in cut]

    def extra_repr(self) -> str:
        """Channels and lengths."""
        return f"{self._reg_params['i2h_weight'].shape} -> {(self.hidden_channels, *self.space)}"


def activation_named(who: str, name: str) -> Any:
    """The function of that name.

    Raises:
        ConfigError: there is none.
    """
    if name == "tanh":
        return tanh
    if name not in activation.ACTIVATIONS:
        raise ConfigError(f"{who}: no activation is called {name!r}; there are {', '.join(activation.ACTIVATIONS)}")
    return activation.ACTIVATIONS[name]


class _ConvRNNCell(_ConvCell):
    """h = activation(convolution of x + convolution of h)."""

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(batch, channels, ...), [h] to (h, [h])."""
        (from_input,), (from_state,) = self._parts(x, states[0])
        h = self.activation(from_input + from_state)
        return h, [h]


class _ConvLSTMCell(_ConvCell):
    """An LSTM of convolutions; gates in the order input, forget, cell, output."""

    gates = 4
    states = 2

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(batch, channels, ...), [h, c] to (h, [h, c])."""
        i, f, g, o = (a + b for a, b in zip(*self._parts(x, states[0]), strict=True))
        c = activation.sigmoid(f) * states[1] + activation.sigmoid(i) * self.activation(g)
        h = activation.sigmoid(o) * self.activation(c)
        return h, [h, c]


class _ConvGRUCell(_ConvCell):
    """A GRU of convolutions; gates in the order reset, update, new."""

    gates = 3

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(batch, channels, ...), [h] to (h, [h])."""
        (ar, az, an), (br, bz, bn) = self._parts(x, states[0])
        new = self.activation(an + activation.sigmoid(ar + br) * bn)
        h = new + activation.sigmoid(az + bz) * (states[0] - new)
        return h, [h]


class Conv1DRNNCell(_ConvRNNCell):
    """A plain recurrent cell of convolutions over signals (batch, channels, width).

    Args:
        input_shape: (channels, lengths...) of one step's input, without the batch.
        hidden_channels: channels of the state.
        i2h_kernel, i2h_pad, i2h_dilate: of the convolution of the input.
        h2h_kernel, h2h_dilate: of the convolution of the state; the kernel is odd.
        i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer: of the parameters.
        activation: the name of the function of the candidate, and of an LSTM's cells on their way out.
        dtype: of the parameters.
    Raises:
        ConfigError: an even kernel of the state, or lengths that do not fit.
    """

    dims = 1


class Conv2DRNNCell(_ConvRNNCell):
    """A plain recurrent cell of convolutions over images (batch, channels, h, w). Arguments as of `Conv1DRNNCell`."""

    dims = 2


class Conv3DRNNCell(_ConvRNNCell):
    """A plain recurrent cell of convolutions over volumes (batch, channels, ...). Arguments as of `Conv1DRNNCell`."""

    dims = 3


class Conv1DLSTMCell(_ConvLSTMCell):
    """An LSTM of convolutions over signals (batch, channels, width). Arguments as of `Conv1DRNNCell`."""

    dims = 1


class Conv2DLSTMCell(_ConvLSTMCell):
    """An LSTM of convolutions over images (batch, channels, h, w). Arguments as of `Conv1DRNNCell`."""

    dims = 2


class Conv3DLSTMCell(_ConvLSTMCell):
    """An LSTM of convolutions over volumes (batch, channels, ...). Arguments as of `Conv1DRNNCell`."""

    dims = 3


class Conv1DGRUCell(_ConvGRUCell):
    """A GRU of convolutions over signals (batch, channels, width). Arguments as of `Conv1DRNNCell`."""

    dims = 1


class Conv2DGRUCell(_ConvGRUCell):
    """A GRU of convolutions over images (batch, channels, h, w). Arguments as of `Conv1DRNNCell`."""

    dims = 2


class Conv3DGRUCell(_ConvGRUCell):
    """A GRU of convolutions over volumes (batch, channels, ...). Arguments as of `Conv1DRNNCell`."""

    dims = 3
