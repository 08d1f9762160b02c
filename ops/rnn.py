"""Recurrent networks of several layers and two directions, from the operators over one sequence.

The parameters of MXNet's fused operator are one vector: for each layer and direction the input and the recurrent weight
(and that of a projection), in the order of the layers, forward before backward; then, in the same order, their biases.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import dropout as dropping
from shoal.ops.graph.symbol import constant
from shoal.ops.gru import gru_sequence
from shoal.ops.lstm import lstm_sequence
from shoal.ops.recurrent import rnn_sequence
from shoal.ops.shape import concatenate, reshape, stack
from shoal.ops.tensor import Tensor

__all__ = ["GATES", "Weights", "first_state", "recurrent_layers", "rnn", "weight_shapes"]

GATES = {"rnn_relu": 1, "rnn_tanh": 1, "lstm": 4, "gru": 3}
"""How many blocks of rows a weight has, by mode."""


class Weights(NamedTuple):
    """What one layer learns in one direction.

    Attributes:
        i2h, h2h: (gates * hidden, features), (gates * hidden, out).
        i2h_bias, h2h_bias: (gates * hidden,), or None.
        h2r: (out, hidden): projection of an LSTM, or None.
    """

    i2h: Any
    h2h: Any
    i2h_bias: Any = None
    h2h_bias: Any = None
    h2r: Any = None


def recurrent_layers(
    mode: str,
    x: Any,
    states: Sequence[Any],
    weights: Sequence[Sequence[Weights]],
    lengths: Any = None,
    dropout: float = 0.0,
) -> tuple[Any, list[Any]]:
    """Layers upon each other, of one or two directions.

    Args:
        mode: one of `GATES`.
        x: (time, batch, features).
        states: (layers * directions, batch, out); of an LSTM also (layers * directions, batch, hidden).
        weights: for each layer, for each direction.
        lengths: integers (batch,), or None.
        dropout: probability of zero in what a layer hands to the next, while training.
    Returns:
        (outputs (time, batch, directions * out), states at the end, shaped as ``states``).
    Raises:
        ConfigError: there is no such mode.
    """
    if mode not in GATES:
        raise ConfigError(f"rnn: no mode {mode!r}; there are {', '.join(GATES)}")
    ends: list[tuple[Any, ...]] = []
    for number, directions in enumerate(weights):
        if number and dropout:
            x = dropping.dropout(x, dropout)
        outputs = []
        for backward, own in enumerate(directions):
            first = [s[len(ends)] for s in states]
            y, *last = _run(mode, x, first, own, lengths, bool(backward))
            outputs.append(y)
            ends.append(tuple(last))
        x = outputs[0] if len(outputs) == 1 else concatenate(outputs, axis=2)
    return x, [stack(list(s), axis=0) for s in zip(*ends, strict=True)]


def _run(mode: str, x: Any, first: list[Any], w: Weights, lengths: Any, reverse: bool) -> Any:
    """One layer in one direction: output, then the last states."""
    if mode == "lstm":
        h, c = first
        return lstm_sequence(x, h, c, w.i2h, w.h2h, w.i2h_bias, w.h2h_bias, w.h2r, lengths, reverse=reverse)[:3]
    if mode == "gru":
        return gru_sequence(x, first[0], w.i2h, w.h2h, w.i2h_bias, w.h2h_bias, lengths, reverse=reverse)[:2]
    kind = mode[4:]
    return rnn_sequence(x, first[0], w.i2h, w.h2h, w.i2h_bias, w.h2h_bias, lengths, activation=kind, reverse=reverse)


def first_state(x: Any, *shape: int) -> Any:
    """Zeros on the device, and of the dtype, of ``x``; a constant for a Symbol."""
    return Tensor(x.backend.zeros(shape, x.dtype)) if isinstance(x, Tensor) else constant(np.zeros(shape, x.dtype))


def weight_shapes(
    mode: str, features: int, hidden: int, layers: int, directions: int, projection: int | None = None
) -> list[list[Weights]]:
    """Shapes of the weights, for each layer, for each direction."""
    rows, out = GATES[mode] * hidden, projection or hidden
    made = []
    for layer in range(layers):
        size = features if layer == 0 else out * directions
        shapes = Weights((rows, size), (rows, out), (rows,), (rows,), (projection, hidden) if projection else None)
        made.append([shapes] * directions)
    return made


def _fields(weights: Sequence[Sequence[Weights]]) -> Iterator[tuple[int, int, str]]:
    """(layer, direction, field) in the order of MXNet's vector."""
    for fields in (("i2h", "h2h", "h2r"), ("i2h_bias", "h2h_bias")):
        for layer, directions in enumerate(weights):
            for direction, own in enumerate(directions):
                yield from ((layer, direction, f) for f in fields if getattr(own, f) is not None)


def joined(weights: Sequence[Sequence[Weights]]) -> Any:
    """MXNet's vector of parameters."""
    parts = [getattr(weights[layer][direction], field) for layer, direction, field in _fields(weights)]
    return concatenate([reshape(p, shape=(-1,)) for p in parts], axis=0)


def parted(vector: Any, shapes: Sequence[Sequence[Weights]]) -> list[list[Weights]]:
    """The weights in MXNet's vector of parameters.

    Raises:
        ShapeError: it has another length than the shapes say.
    """
    places = list(_fields(shapes))
    sizes = [getattr(shapes[layer][direction], field) for layer, direction, field in places]
    total = sum(int(np.prod(size)) for size in sizes)
    if tuple(vector.shape) != (total,):
        raise ShapeError(f"rnn: parameters have shape {tuple(vector.shape)}, these layers need ({total},)")
    found: dict[tuple[int, int], dict[str, Any]] = {}
    start = 0
    for (layer, direction, field), size in zip(places, sizes, strict=True):
        stop = start + int(np.prod(size))
        found.setdefault((layer, direction), {})[field] = reshape(vector[start:stop], shape=size)
        start = stop
    return [[Weights(**found[n, d]) for d in range(len(directions))] for n, directions in enumerate(shapes)]


def rnn(
    data: Any,
    parameters: Any,
    state: Any,
    state_cell: Any = None,
    sequence_length: Any = None,
    mode: str = "lstm",
    state_size: int = 0,
    num_layers: int = 1,
    bidirectional: bool = False,
    state_outputs: bool = False,
    p: float = 0.0,
    use_sequence_length: bool = False,
    projection_size: int | None = None,
) -> Any:
    """MXNet's fused recurrent network.

    Args:
        data: (time, batch, features).
        parameters: all weights, then all biases, in one vector; see the module's text.
        state: (layers * directions, batch, out).
        state_cell: (layers * directions, batch, hidden) of an LSTM.
        sequence_length: with ``use_sequence_length``, how many steps each sequence has: (batch,).
        mode: "rnn_relu", "rnn_tanh", "lstm" or "gru".
        state_size: hidden.
        state_outputs: return (outputs, state, and of an LSTM the cell state).
        p: probability of dropout between layers, while training.
        projection_size: of an LSTM; None: there is no projection.
    Raises:
        ConfigError: an unknown mode, or a projection of something else than an LSTM.
        ShapeError: what does not fit.
    """
    if mode not in GATES or (projection_size and mode != "lstm"):
        raise ConfigError(
            f"rnn: mode={mode!r}, projection_size={projection_size}; there are {', '.join(GATES)}, and "
            "only an LSTM has a projection"
        )
    directions = 1 + bool(bidirectional)
    shapes = weight_shapes(mode, data.shape[2], state_size, num_layers, directions, projection_size)
    states = [state, state_cell] if mode == "lstm" else [state]
    lengths = sequence_length if use_sequence_length else None
    y, last = recurrent_layers(mode, data, states, parted(parameters, shapes), lengths, p)
    return (y, *last) if state_outputs else y
