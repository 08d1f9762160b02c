"""Recurrent networks as layers: Gluon's ``rnn.RNN``, ``rnn.LSTM`` and ``rnn.GRU``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import rnn
from shoal.ops.creation import here
from shoal.ops.nn.basic import Init
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.parameter import Parameter
from shoal.ops.sequence import as_lengths
from shoal.ops.shape import swapaxes
from shoal.ops.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN"]

_TORCH = {"i2h": "weight_ih", "h2h": "weight_hh", "i2h_bias": "bias_ih", "h2h_bias": "bias_hh", "h2r": "weight_hr"}


class _RecurrentLayer(HybridBlock):
    """What the three have in common.

    The parameters are called as in Gluon: "l0_i2h_weight" is the input weight of layer 0, "r0_..." is of its backward
    direction; "h2h" is from the state, "h2r" the projection.
    """

    def __init__(
        self,
        mode: str,
        hidden_size: int,
        num_layers: int,
        layout: str,
        dropout: float,
        bidirectional: bool,
        input_size: int,
        initializers: Mapping[str, Init],
        projection_size: int | None,
        use_sequence_length: bool,
        use_bias: bool,
        dtype: Any,
    ) -> None:
        super().__init__()
        if layout not in ("TNC", "NTC"):
            raise ConfigError(f"{type(self).__name__}: layout must be 'TNC' or 'NTC', got {layout!r}")
        if hidden_size < 1 or num_layers < 1 or not 0.0 <= dropout <= 1.0:
            raise ConfigError(
                f"{type(self).__name__} needs hidden_size >= 1, num_layers >= 1 and a dropout from 0 to 1, got "
                f"{hidden_size}, {num_layers} and {dropout}"
            )
        self.mode, self.hidden_size, self.num_layers, self.layout = mode, hidden_size, num_layers, layout
        self.dropout, self.directions, self.projection_size = dropout, 1 + bool(bidirectional), projection_size
        self.use_sequence_length = use_sequence_length
        shapes = rnn.weight_shapes(mode, input_size or -1, hidden_size, num_layers, self.directions, projection_size)
        for layer, both in enumerate(shapes):
            for direction, own in enumerate(both):
                for field, shape in own._asdict().items():
                    if shape is None or (field.endswith("bias") and not use_bias):
                        continue
                    name = _name(layer, direction, field)
                    init = initializers.get(field)
                    made = Parameter(name, shape=shape, dtype=dtype, init=init, allow_deferred_init=True)
                    setattr(self, name, made)

    def infer_shape(self, x: Any, *_: Any) -> None:
        """The input's last axis, as the features of the first layer."""
        for direction in range(self.directions):
            param = self._reg_params[_name(0, direction, "i2h")]
            param.shape = (rnn.GATES[self.mode] * self.hidden_size, x.shape[-1])

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """Shape and layout of each state."""
        count = self.num_layers * self.directions
        sizes = [self.projection_size or self.hidden_size] + [self.hidden_size] * (self.mode == "lstm")
        return [{"shape": (count, batch_size, size), "__layout__": "LNC"} for size in sizes]

    def begin_state(self, batch_size: int = 0, dtype: Any = "float32") -> list[Tensor]:
        """States of zeros: (layers * directions, batch, out), and of an LSTM (layers * directions, batch, hidden)."""
        return [here(np.zeros(info["shape"], dtype)) for info in self.state_info(batch_size)]

    def forward(self, x: Any, states: Any = None, sequence_length: Any = None) -> Any:
        """Run over whole sequences.

        Args:
            x: (time, batch, features), or (batch, time, features) with the layout "NTC".
            states: what `begin_state` returns, or what an earlier call returned; None: zeros.
            sequence_length: integers (batch,), how many steps each sequence has, if the layer was made with
                ``use_sequence_length``; outputs beyond are 0.
        Returns:
            Outputs, shaped as x with directions * out features; with ``states`` given: (outputs, states at the end).
        Raises:
            ShapeError: what does not fit.
        """
        if x.ndim != 3:
            raise ShapeError(f"{self._label()} wants three axes, {self.layout}; got shape {tuple(x.shape)}")
        if (sequence_length is not None) != self.use_sequence_length:
            raise ConfigError(
                f"{self._label()} was made with use_sequence_length={self.use_sequence_length}, and called "
                f"{'without' if sequence_length is None else 'with'} a sequence_length"
            )
        time_first = x if self.layout == "TNC" else swapaxes(x, 0, 1)
        given = states
        if states is None:
            states = [rnn.first_state(x, *i["shape"]) for i in self.state_info(time_first.shape[1])]
        states = list(states) if isinstance(states, (list, tuple)) else [states]
        sequence_length = as_lengths(sequence_length)
        if len(states) != len(self.state_info()):
            raise ShapeError(f"{self._label()} has {len(self.state_info())} states, got {len(states)}")
        y, last = rnn.recurrent_layers(self.mode, time_first, states, self._weights(), sequence_length, self.dropout)
        y = y if self.layout == "TNC" else swapaxes(y, 0, 1)
        return y if given is None else (y, last)

    def _weights(self) -> list[list[rnn.Weights]]:
        def data(layer: int, direction: int, field: str) -> Any:
            param = self._reg_params.get(_name(layer, direction, field))
            return None if param is None else param.data()

        return [
            [rnn.Weights(*(data(n, d, f) for f in rnn.Weights._fields)) for d in range(self.directions)]
            for n in range(self.num_layers)
        ]

    def fused_parameters(self) -> Tensor:
        """All parameters in one vector, as MXNet's fused operator (`npx.rnn`) wants them."""
        return rnn.joined(self._weights())  # type: ignore[no-any-return]  # operators return Any

    def load_fused_parameters(self, vector: Any) -> None:
        """Take all parameters from a vector as `fused_parameters` returns it. The input size must be known.

        Raises:
            ShapeError: its length is not that of this layer's parameters.
        """
        shapes = [
            [rnn.Weights(*(None if w is None else w.shape for w in own)) for own in both] for both in self._weights()
        ]
        vector = vector if isinstance(vector, Tensor) else here(np.asarray(vector))
        for layer, both in enumerate(rnn.parted(vector, shapes)):
            for direction, own in enumerate(both):
                for field, value in own._asdict().items():
                    if value is not None:
                        self._reg_params[_name(layer, direction, field)].set_data(value)

    def load_torch(self, state: Mapping[str, Any]) -> None:
        """Take the parameters from the ``state_dict()`` of PyTorch's layer of the same kind and sizes.

        Raises:
            ConfigError: names that are missing, or that this layer has no place for.
            ShapeError: a parameter of another shape.
        """
        places = {}
        for layer in range(self.num_layers):
            for direction in range(self.directions):
                for field, theirs in _TORCH.items():
                    name = _name(layer, direction, field)
                    if name in self._reg_params:
                        places[f"{theirs}_l{layer}{'_reverse' * direction}"] = self._reg_params[name]
        if set(places) != set(state):
            raise ConfigError(
                f"{self._label()}.load_torch: missing {sorted(set(places) - set(state))}, "
                f"unknown {sorted(set(state) - set(places))}"
            )
        for theirs, param in places.items():
            param.set_data(np.asarray(state[theirs]))

    def extra_repr(self) -> str:
        """Sizes and layout."""
        size = self._reg_params["l0_i2h_weight"].shape
        features = size[1] if size is not None and size[1] > 0 else "?"
        parts = [f"{features} -> {self.hidden_size}", self.layout]
        parts += [f"num_layers={self.num_layers}"] * (self.num_layers > 1)
        parts += [f"dropout={self.dropout}"] * (self.dropout > 0)
        return ", ".join(parts + ["bidirectional"] * (self.directions == 2))


def _name(layer: int, direction: int, field: str) -> str:
    """The parameter's name in Gluon."""
    kind = field if field.endswith("bias") else f"{field}_weight"
    return f"{'lr'[direction]}{layer}_{kind}"


def _initializers(i2h: Init, h2h: Init, i2h_bias: Init, h2h_bias: Init, h2r: Init = None) -> dict[str, Init]:
    return {"i2h": i2h, "h2h": h2h, "i2h_bias": i2h_bias, "h2h_bias": h2h_bias, "h2r": h2r}


class RNN(_RecurrentLayer):
    """Plain recurrent layers: h = activation(x @ i2h.T + i2h_bias + h @ h2h.T + h2h_bias).

    Args:
        hidden_size: features of the state.
        num_layers: how many are upon each other.
        activation: "relu" or "tanh".
        layout: "TNC" (time, batch, features) or "NTC".
        dropout: probability of zero in what a layer hands to the next, while training.
        bidirectional: each layer also goes backward; outputs have both, side by side.
        input_size: features of x; 0 infers them from the first batch.
        i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer: of the parameters.
        use_sequence_length: calls give the length of each sequence.
        use_bias: whether there are biases.
        dtype: of the parameters.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 1,
        activation: str = "relu",
        layout: str = "TNC",
        dropout: float = 0.0,
        bidirectional: bool = False,
        input_size: int = 0,
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        use_sequence_length: bool = False,
        use_bias: bool = True,
        dtype: Any = "float32",
    ) -> None:
        if activation not in ("relu", "tanh"):
            raise ConfigError(f"RNN: activation must be 'relu' or 'tanh', got {activation!r}")
        inits = _initializers(
            i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer
        )
        super().__init__(
            f"rnn_{activation}",
            hidden_size,
            num_layers,
            layout,
            dropout,
            bidirectional,
            input_size,
            inits,
            None,
            use_sequence_length,
            use_bias,
            dtype,
        )


class LSTM(_RecurrentLayer):
    """LSTM layers (Hochreiter and Schmidhuber, 1997), with an optional projection (Sak et al., arXiv:1402.1128).

    Args:
        projection_size: features of the state and of the outputs if they are projected; None: hidden_size.
        h2r_weight_initializer: of the projection.

    The other arguments are those of `RNN`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 1,
        layout: str = "TNC",
        dropout: float = 0.0,
        bidirectional: bool = False,
        input_size: int = 0,
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        projection_size: int | None = None,
        h2r_weight_initializer: Init = None,
        use_sequence_length: bool = False,
        use_bias: bool = True,
        dtype: Any = "float32",
    ) -> None:
        inits = _initializers(
            i2h_weight_initializer,
            h2h_weight_initializer,
            i2h_bias_initializer,
            h2h_bias_initializer,
            h2r_weight_initializer,
        )
        super().__init__(
            "lstm",
            hidden_size,
            num_layers,
            layout,
            dropout,
            bidirectional,
            input_size,
            inits,
            projection_size,
            use_sequence_length,
            use_bias,
            dtype,
        )


class GRU(_RecurrentLayer):
    """GRU layers (Cho et al., arXiv:1406.1078), in cuDNN's form: the reset gate acts after the product of matrices.

    The arguments are those of `RNN`, but for the activation.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 1,
        layout: str = "TNC",
        dropout: float = 0.0,
        bidirectional: bool = False,
        input_size: int = 0,
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        use_sequence_length: bool = False,
        use_bias: bool = True,
        dtype: Any = "float32",
    ) -> None:
        inits = _initializers(
            i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer
        )
        super().__init__(
            "gru",
            hidden_size,
            num_layers,
            layout,
            dropout,
            bidirectional,
            input_size,
            inits,
            None,
            use_sequence_length,
            use_bias,
            dtype,
        )
