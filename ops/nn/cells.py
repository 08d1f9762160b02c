"""Recurrent cells: one step of a recurrent network as a block, and how to unroll it over a sequence.

Names and arguments are those of Gluon's ``rnn`` module. A cell maps (input, states) to (output, new states). Where the
whole sequence is known and nothing happens between its steps, the layers of `recurrent` do the same, faster.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import linalg
from shoal.ops.activation import ACTIVATIONS
from shoal.ops.creation import here
from shoal.ops.elementwise import where
from shoal.ops.gru import gru_step
from shoal.ops.lstm import lstm_step
from shoal.ops.nn.basic import Init
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.parameter import Parameter
from shoal.ops.rnn import first_state
from shoal.ops.sequence import as_lengths, sequence_mask
from shoal.ops.shape import stack
from shoal.ops.tensor import Tensor

__all__ = ["GRUCell", "LSTMCell", "LSTMPCell", "RNNCell", "RecurrentCell"]

States = list[Any]


class RecurrentCell(HybridBlock):
    """Base of all cells: `forward(x, states)` returns (output, new states), `state_info` says what states are."""

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """Shape and layout of each state."""
        raise TypeError(f"{type(self).__name__} does not define state_info(self, batch_size)")

    def begin_state(self, batch_size: int = 0, dtype: Any = "float32") -> list[Tensor]:
        """States of zeros."""
        return [here(np.zeros(info["shape"], dtype)) for info in self.state_info(batch_size)]

    def reset(self) -> None:
        """Forget what the cell remembers of the current sequence besides its states, such as dropout masks."""
        for child in self._children.values():
            if isinstance(child, RecurrentCell):
                child.reset()

    def first_states(self, x: Any) -> States:
        """States of zeros for a batch of inputs ``x`` (batch, ...), on its device and of its dtype."""
        return [first_state(x, *info["shape"]) for info in self.state_info(x.shape[0])]

    def unroll(
        self,
        length: int,
        inputs: Any,
        begin_state: States | None = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
        valid_length: Any = None,
    ) -> tuple[Any, States]:
        """Run the cell over a sequence.

        Args:
            length: number of steps.
            inputs: (batch, time, ...) as ``layout`` says, or a list with the input of each step.
            begin_state: first states; None: zeros.
            layout: "NTC" or "TNC".
            merge_outputs: True returns outputs as one tensor, False as a list; None as the inputs are.
            valid_length: (batch,), how many steps each sequence has; outputs beyond are 0, states those at its end.
        Returns:
            (outputs, states).
        Raises:
            ShapeError: the inputs have another number of steps.
        """
        self.reset()
        axis, merged = _time_axis(layout), not isinstance(inputs, (list, tuple))
        steps = split_steps(inputs, length, axis)
        valid_length = as_lengths(valid_length)
        states = self.first_states(steps[0]) if begin_state is None else list(begin_state)
        outputs = []
        for t, x in enumerate(steps):
            out, new = self(x, states)
            if valid_length is not None:
                new = [where(_inside(t, valid_length, n.ndim), n, s) for n, s in zip(new, states, strict=True)]
            states = new
            outputs.append(out)
        return merge_steps(outputs, axis, merged if merge_outputs is None else merge_outputs, valid_length), states


def _time_axis(layout: str) -> int:
    if layout not in ("NTC", "TNC"):
        raise ConfigError(f"unroll: layout must be 'NTC' or 'TNC', got {layout!r}")
    return layout.index("T")


def _inside(t: int, lengths: Any, ndim: int) -> Any:
    """Whether step ``t`` is within each sequence, to choose between states with ``ndim`` axes."""
    return (lengths > t).reshape((-1,) + (1,) * (ndim - 1))


def split_steps(inputs: Any, length: int, axis: int) -> list[Any]:
    """The input of each step.

    Raises:
        ShapeError: there are not ``length`` of them.
    """
    many = isinstance(inputs, (list, tuple))
    found = len(inputs) if many else inputs.shape[axis]
    if found != length or not length:
        raise ShapeError(f"unroll: length={length}, and the inputs have {found} steps; there must be one at least")
    if many:
        return list(inputs)
    return [inputs[:, t] if axis else inputs[t] for t in range(length)]


def merge_steps(outputs: list[Any], axis: int, merge: bool, lengths: Any) -> Any:
    """Outputs of steps as one tensor, or as a list; 0 beyond the ends of the sequences."""
    if not merge and lengths is None:
        return outputs
    joined = stack(outputs, axis=axis)
    if lengths is not None:
        joined = sequence_mask(joined, lengths, True, axis=axis)
    return joined if merge else split_steps(joined, len(outputs), axis)


class _GatedCell(RecurrentCell):
    """A cell with an input and a recurrent weight of several gates."""

    def __init__(
        self,
        gates: int,
        hidden_size: int,
        out_size: int,
        input_size: int,
        weights: Sequence[Init],
        biases: Sequence[Init],
        dtype: Any,
    ) -> None:
        super().__init__()
        if hidden_size < 1 or input_size < 0:
            raise ConfigError(f"{type(self).__name__} needs hidden_size >= 1, got {hidden_size}")
        self.gates, self.hidden_size, self.input_size = gates, hidden_size, input_size
        rows = gates * hidden_size
        i2h, h2h = weights
        self.i2h_weight = Parameter(
            "i2h_weight", shape=(rows, input_size or -1), dtype=dtype, init=i2h, allow_deferred_init=True
        )
        self.h2h_weight = Parameter("h2h_weight", shape=(rows, out_size), dtype=dtype, init=h2h)
        self.i2h_bias = Parameter("i2h_bias", shape=(rows,), dtype=dtype, init=biases[0])
        self.h2h_bias = Parameter("h2h_bias", shape=(rows,), dtype=dtype, init=biases[1])

    def infer_shape(self, x: Any, *_: Any) -> None:
        """The input's last axis, as features."""
        self.i2h_weight.shape = (self.gates * self.hidden_size, x.shape[-1])

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """One state, (batch, hidden)."""
        return [{"shape": (batch_size, self.hidden_size), "__layout__": "NC"}]

    def _parts(self, x: Any, h: Any) -> tuple[Any, Any]:
        """What comes from the input, and what comes from the state."""
        i2h = linalg.fully_connected(x, self.i2h_weight.data(), self.i2h_bias.data())
        return i2h, linalg.fully_connected(h, self.h2h_weight.data(), self.h2h_bias.data())

    def extra_repr(self) -> str:
        """Sizes."""
        size = self.i2h_weight.shape
        return f"{size[1] if size is not None and size[1] > 0 else '?'} -> {self.hidden_size}"


class RNNCell(_GatedCell):
    """h = activation(x @ i2h.T + i2h_bias + h @ h2h.T + h2h_bias); the output is h.

    Args:
        hidden_size: features of the state.
        activation: its name; see `Activation`.
        i2h_weight_initializer, h2h_weight_initializer, i2h_bias_initializer, h2h_bias_initializer: of the parameters.
        input_size: features of x; 0 infers them from the first batch.
        dtype: of the parameters.
    """

    def __init__(
        self,
        hidden_size: int,
        activation: str = "tanh",
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        input_size: int = 0,
        dtype: Any = "float32",
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ConfigError(f"RNNCell: no activation is called {activation!r}; there are {', '.join(ACTIVATIONS)}")
        weights, biases = (i2h_weight_initializer, h2h_weight_initializer), (i2h_bias_initializer, h2h_bias_initializer)
        super().__init__(1, hidden_size, hidden_size, input_size, weights, biases, dtype)
        self.activation = activation

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(batch, features), [(batch, hidden)] to (output, states)."""
        from_input, from_state = self._parts(x, states[0])
        h = ACTIVATIONS[self.activation](from_input + from_state)
        return h, [h]


class LSTMCell(_GatedCell):
    """One step of an LSTM; states are h and c, both (batch, hidden), the output is h. Arguments as of `RNNCell`."""

    def __init__(
        self,
        hidden_size: int,
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        input_size: int = 0,
        dtype: Any = "float32",
    ) -> None:
        weights, biases = (i2h_weight_initializer, h2h_weight_initializer), (i2h_bias_initializer, h2h_bias_initializer)
        super().__init__(4, hidden_size, hidden_size, input_size, weights, biases, dtype)

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """h and c."""
        return [{"shape": (batch_size, self.hidden_size), "__layout__": "NC"} for _ in range(2)]

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(batch, features), [h, c] to (h, [h, c])."""
        from_input, from_state = self._parts(x, states[0])
        h, c, _ = lstm_step(from_input + from_state, states[1])
        return h, [h, c]


class LSTMPCell(_GatedCell):
    """One step of an LSTM whose output is projected: h = (o * tanh(c)) @ h2r.T.

    Args:
        projection_size: features of h; c has ``hidden_size``.
        h2r_weight_initializer: of the projection (projection_size, hidden_size).

    The other arguments are those of `RNNCell`.
    """

    def __init__(
        self,
        hidden_size: int,
        projection_size: int,
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        h2r_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        input_size: int = 0,
        dtype: Any = "float32",
    ) -> None:
        weights, biases = (i2h_weight_initializer, h2h_weight_initializer), (i2h_bias_initializer, h2h_bias_initializer)
        super().__init__(4, hidden_size, projection_size, input_size, weights, biases, dtype)
        self.projection_size = projection_size
        self.h2r_weight = Parameter(
            "h2r_weight", shape=(projection_size, hidden_size), dtype=dtype, init=h2r_weight_initializer
        )

    def state_info(self, batch_size: int = 0) -> list[dict[str, Any]]:
        """h and c."""
        sizes = self.projection_size, self.hidden_size
        return [{"shape": (batch_size, size), "__layout__": "NC"} for size in sizes]

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(batch, features), [h, c] to (h, [h, c])."""
        from_input, from_state = self._parts(x, states[0])
        h, c, _ = lstm_step(from_input + from_state, states[1], self.h2r_weight.data())
        return h, [h, c]


class GRUCell(_GatedCell):
    """One step of a GRU in cuDNN's form; the state and the output are h. Arguments as of `RNNCell`."""

    def __init__(
        self,
        hidden_size: int,
        i2h_weight_initializer: Init = None,
        h2h_weight_initializer: Init = None,
        i2h_bias_initializer: Init = "zeros",
        h2h_bias_initializer: Init = "zeros",
        input_size: int = 0,
        dtype: Any = "float32",
    ) -> None:
        weights, biases = (i2h_weight_initializer, h2h_weight_initializer), (i2h_bias_initializer, h2h_bias_initializer)
        super().__init__(3, hidden_size, hidden_size, input_size, weights, biases, dtype)

    def forward(self, x: Any, states: States) -> tuple[Any, States]:
        """(batch, features), [(batch, hidden)] to (output, states)."""
        h, _ = gru_step(*self._parts(x, states[0]), states[0])
        return h, [h]
