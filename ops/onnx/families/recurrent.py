"""RNN, LSTM and GRU as ONNX has them: layouts, directions, lengths, peepholes, clipping and activations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.ops import activation, elementwise, linalg, threshold
from shoal.ops import shape as shaping
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []

Step = Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]
"""From the projected input of a step and the states to the new states; the first of them is the output."""


def _activation(name: str, alpha: float | None, beta: float | None) -> Callable[[Any], Any]:
    def by(default: float, value: float | None) -> float:
        return default if value is None else float(value)

    table: dict[str, Callable[[Any], Any]] = {
        "affine": lambda x: x * by(1.0, alpha) + by(0.0, beta),
        "elu": lambda x: activation.elu(x, alpha=by(1.0, alpha)),
        "hardsigmoid": lambda x: activation.hard_sigmoid(x, alpha=by(0.2, alpha), beta=by(0.5, beta)),
        "leakyrelu": lambda x: activation.leaky_relu(x, by(0.01, alpha)),
        "relu": activation.relu,
        "scaledtanh": lambda x: elementwise.tanh(x * by(1.0, beta)) * by(1.0, alpha),
        "sigmoid": activation.sigmoid,
        "softplus": activation.softplus,
        "softsign": activation.softsign,
        "tanh": elementwise.tanh,
        "thresholdedrelu": lambda x: threshold.threshold(x, threshold=by(1.0, alpha), value=0.0),
    }
    return table[name.lower()]


def _activations(c: Call, defaults: Sequence[str]) -> list[Callable[[Any], Any]]:
    """Of both directions, one after the other."""
    names = list(c.get("activations", ())) or list(defaults) * _directions(c)
    alphas, betas = list(c.get("activation_alpha", ())), list(c.get("activation_beta", ()))
    found = []
    for i, name in enumerate(names):
        found.append(_activation(name, *(v[i] if i < len(v) else None for v in (alphas, betas))))
    return found


def _directions(c: Call) -> int:
    return 2 if c.get("direction", "forward") == "bidirectional" else 1


def _clipped(c: Call, x: Any) -> Any:
    limit = c.get("clip")
    return x if limit is None else elementwise.clip(x, -float(limit), float(limit))


def _scan(projected: Any, states: tuple[Any, ...], step: Step, lengths: Any, backward: bool) -> tuple[Any, list[Any]]:
    """The outputs of all steps, (steps, batch, hidden), and the last states of each sample."""
    steps = int(projected.shape[0])
    first = states
    outputs: list[Any] = [None] * steps
    for t in range(steps)[::-1] if backward else range(steps):
        new = step(projected[t], states)
        if lengths is not None:
            alive = (t < lengths).reshape(-1, 1)
            outputs[t] = elementwise.where(alive, new[0], elementwise.zeros_like(new[0]))
            new = tuple(elementwise.where(alive, n, old) for n, old in zip(new, states, strict=True))
        else:
            outputs[t] = new[0]
        states = new
    return shaping.stack(outputs, axis=0) if outputs else first[0][None][:0], list(states)


def _run(
    c: Call, x: Any, weight: Any, lengths: Any, initial: Sequence[Any], make: Callable[[int], tuple[Any, Any, Step]]
) -> Any:
    """Both directions: make(direction) -> (input weights, bias of the projection or None, step)."""
    batch_first = bool(c.get("layout", 0))
    x = shaping.swapaxes(x, 0, 1) if batch_first else x
    hidden, (steps, batch) = int(c.get("hidden_size", 0)), x.shape[:2]
    known = None if lengths is None else np.array(c.ints(lengths, "the lengths"))
    known = None if known is None or (known == steps).all() else known
    outputs, lasts = [], []
    for d in range(_directions(c)):
        w, bias, step = make(d)
        projected = linalg.matmul(shaping.reshape(x, (steps * batch, -1)), w.T)
        projected = shaping.reshape(projected if bias is None else projected + bias, (steps, batch, -1))
        states = tuple(_start(v, d, batch_first, (batch, hidden), np.dtype(x.dtype)) for v in initial)
        reverse = c.get("direction", "forward") == "reverse" or d == 1
        out, last = _scan(projected, states, step, known, reverse)
        outputs.append(out)
        lasts.append(last)
    y = shaping.stack(outputs, axis=1)
    ends = [shaping.stack(list(s), axis=0) for s in zip(*lasts, strict=True)]
    if batch_first:
        y, ends = shaping.transpose(y, (2, 0, 1, 3)), [shaping.swapaxes(e, 0, 1) for e in ends]
    return (y, *ends)


def _start(v: Any, direction: int, batch_first: bool, shape: tuple[int, int], dtype: np.dtype[Any]) -> Any:
    if v is None:
        return np.zeros(shape, dtype)
    return v[:, direction] if batch_first else v[direction]


def _halves(bias: Any, d: int, size: int) -> tuple[Any, Any]:
    """The biases of the input and of the state."""
    return (None, None) if bias is None else (bias[d, :size], bias[d, size:])


def _joined(a: Any, b: Any) -> Any:
    return None if a is None else a + b


@node("RNN", known=[4])
def rnn(c: Call, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None) -> Any:
    """h = f(x W + h R + bias)."""
    functions = _activations(c, ["Tanh"])

    def make(d: int) -> tuple[Any, Any, Step]:
        back, f = r[d].T, functions[d]

        def step(xt: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
            return (f(_clipped(c, xt + linalg.matmul(states[0], back))),)

        return w[d], _joined(*_halves(b, d, int(w.shape[1]))), step

    return _run(c, x, w, lengths, [h0], make)


@node("LSTM", known=[4])
def lstm(
    c: Call, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None, c0: Any = None, p: Any = None
) -> Any:
    """Gates in the order input, output, forget, cell."""
    functions, hidden = _activations(c, ["Sigmoid", "Tanh", "Tanh"]), int(r.shape[-1])

    def make(d: int) -> tuple[Any, Any, Step]:
        back, (f, g, h) = r[d].T, functions[3 * d : 3 * d + 3]
        peep = [None] * 3 if p is None else [p[d, hidden * i : hidden * (i + 1)] for i in range(3)]

        def gate(z: Any, i: int, cell: Any) -> Any:
            part = z[:, hidden * i : hidden * (i + 1)]
            if cell is not None and i < 3 and peep[i] is not None:
                part = part + peep[i] * cell
            return _clipped(c, part)

        def step(xt: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
            z, cell = xt + linalg.matmul(states[0], back), states[1]
            enter = f(gate(z, 0, cell))
            forget = 1.0 - enter if c.get("input_forget", 0) else f(gate(z, 2, cell))
            new = forget * cell + enter * g(gate(z, 3, None))
            return f(gate(z, 1, new)) * h(new), new

        return w[d], _joined(*_halves(b, d, int(w.shape[1]))), step

    return _run(c, x, w, lengths, [h0, c0], make)


@node("GRU", known=[4])
def gru(c: Call, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None) -> Any:
    """Gates in the order update, reset, hidden."""
    functions, hidden = _activations(c, ["Sigmoid", "Tanh"]), int(r.shape[-1])

    def make(d: int) -> tuple[Any, Any, Step]:
        gates, own, (f, g) = r[d, : 2 * hidden].T, r[d, 2 * hidden :].T, functions[2 * d : 2 * d + 2]
        given, back = _halves(b, d, int(w.shape[1]))
        later = 0.0 if back is None else back[2 * hidden :]

        def step(xt: Any, states: tuple[Any, ...]) -> tuple[Any, ...]:
            h = states[0]
            z = xt[:, : 2 * hidden] + linalg.matmul(h, gates)
            z = f(_clipped(c, z if back is None else z + back[: 2 * hidden]))
            update, reset = z[:, :hidden], z[:, hidden:]
            if c.get("linear_before_reset", 0):
                seen = reset * (linalg.matmul(h, own) + later)
            else:
                seen = linalg.matmul(reset * h, own) + later
            new = g(_clipped(c, xt[:, 2 * hidden :] + seen))
            return (new + update * (h - new),)

        return w[d], given, step

    return _run(c, x, w, lengths, [h0], make)
