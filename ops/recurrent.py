"""Recurrent layers, one direction at a time: what they share, and the plain one. See `lstm` and `gru` for the others.

An operator runs over a whole sequence: the inputs of all steps meet their weights in one product of matrices, the loop
over time adds the recurrent part, and the gradients of the weights are one product each again. Time is the first axis.
Layouts are those of MXNet's fused RNN operator, which are those of cuDNN and PyTorch: weights (gates * hidden, inputs)
with the gates one below the other, LSTM: input, forget, cell, output; GRU: reset, update, new.

Sequences may differ in length: ``lengths`` (batch,) says how long each is. Beyond its end an output is 0, the state
stays what it was, and a reversed layer begins at the end of each sequence.

What the gradient needs besides (the values of the gates, and of the cells of an LSTM) are outputs. float16 is computed
in float32, and these are float32 then. Each operator has a companion that is its gradient; the gradient of that
one is taken by composition (`shoal.ops.composed`).
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from shoal.errors import DTypeError, ShapeError
from shoal.ops.composed import pullback
from shoal.ops.native import pool
from shoal.ops.registry import OPERATORS, Array, Op, Spec, op
from shoal.ops.tensor import Tensor

__all__ = ["rnn_sequence", "rnn_sequence_grad"]


# -- what all layers share


def wide_dtype(*arrays: Any) -> np.dtype[Any]:
    """The dtype to compute in: the common one of the arrays that are given; float32 for half precision."""
    found = common_dtype(*arrays)
    return np.dtype(np.float32) if found.itemsize < 4 else found


def common_dtype(*arrays: Any) -> np.dtype[Any]:
    """The dtype of the results: the common one of the arrays that are given."""
    return np.result_type(*(x.dtype for x in arrays if x is not None))


def steps(length: int, reverse: bool) -> Iterable[int]:
    """The positions in time in the order in which a layer goes through them."""
    return range(length - 1, -1, -1) if reverse else range(length)


def valid_steps(xp: Any, lengths: Any, length: int) -> Any:
    """(time, batch, 1) truths: whether a step is within its sequence; None if all are."""
    if lengths is None:
        return None
    return (xp.arange(length)[:, None] < lengths[None, :])[:, :, None]


def projected(xp: Any, x: Any, weight: Any, bias: Any, valid: Any, dtype: Any) -> Any:
    """x @ weight.T + bias for all steps at once: (time, batch, units), an array of its own."""
    time, batch, size = x.shape
    flat = masked(xp, x, valid).reshape(time * batch, size).astype(dtype, copy=False)
    out = xp.matmul(flat, weight.T.astype(dtype, copy=False))
    if bias is not None:
        out += bias
    return out.reshape(time, batch, weight.shape[0])


def masked(xp: Any, x: Any, valid: Any) -> Any:
    """``x`` with zeros beyond the ends of the sequences, where anything may stand."""
    return x if valid is None else xp.where(valid, x, np.zeros((), x.dtype)[()])


def before(xp: Any, sequence: Any, first: Any, valid: Any, reverse: bool) -> Any:
    """For each step the state it began with, from the states after each step: (time, batch, hidden)."""
    time = len(sequence)
    out = xp.empty(sequence.shape, sequence.dtype)
    if not time:
        return out
    if not reverse:
        out[0], out[1:] = first, sequence[:-1]
        return out
    out[-1], out[:-1] = first, sequence[1:]
    if valid is not None:  # the end of a shorter sequence is where it began
        out[:-1] = xp.where(valid[1:], out[:-1], first[None])
    return out


def weight_gradient(xp: Any, d: Any, x: Any) -> Any:
    """Sum over time and batch of the outer products of ``d`` and ``x``: one product of matrices."""
    return xp.matmul(d.reshape(-1, d.shape[-1]).T, x.reshape(-1, x.shape[-1]))


def by_columns(xp: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An empty matrix for a product with few rows: it lies as BLAS fills it fastest, which with several threads is
    column by column."""
    return xp.empty(shape[::-1], dtype).T if _several_threads(xp) else xp.empty(shape, dtype)


def column_major(xp: Any, weight: Any, dtype: Any) -> Any:
    """The right side of products that fill a matrix of `by_columns`, as it should lie for them."""
    return xp.ascontiguousarray(weight.T, dtype).T if _several_threads(xp) else weight.astype(dtype, copy=False)


def _several_threads(xp: Any) -> bool:
    """Whether products of matrices are shared by threads of the host."""
    return bool(xp.host) and pool.threads() > 1


def input_gradient(xp: Any, d: Any, weight: Any) -> Any:
    """(time, batch, units) @ (units, size): one product of matrices."""
    return xp.matmul(d.reshape(-1, d.shape[-1]), weight).reshape(*d.shape[:2], weight.shape[1])


def keep(xp: Any, valid: Any, new: Any, old: Any) -> Any:
    """The new state of a step; the old one where the sequence has ended."""
    return new if valid is None else xp.where(valid, new, old)


def check(op: Op[Any], gates: int, x: Spec, h0: Spec, wx: Spec, wh: Spec, lengths: Any, projection: bool) -> int:
    """The hidden size, after checking what every layer wants.

    Raises:
        ShapeError, DTypeError: what does not fit; has both shapes.
    """
    if x.ndim != 3:
        raise ShapeError(f"{op.name}: x must be (time, batch, features), got shape {x.shape}")
    if x.dtype.kind in "biu":
        raise DTypeError(f"{op.name}: x must hold floating-point numbers, got {x.dtype}; use astype('float32')")
    hidden, rest = divmod(wx.shape[0], gates)
    if rest or wx.shape != (gates * hidden, x.shape[2]):
        raise ShapeError(
            f"{op.name}: x of shape {x.shape} has {x.shape[2]} features, so the input weight must be "
            f"({gates} * hidden, {x.shape[2]}), got {wx.shape}"
        )
    if h0.ndim != 2 or h0.shape[0] != x.shape[1] or (not projection and h0.shape[1] != hidden):
        raise ShapeError(
            f"{op.name}: the first state has shape {h0.shape}, expected (batch, hidden) = ({x.shape[1]}, {hidden}) "
            f"for x of shape {x.shape} and an input weight of {wx.shape}"
        )
    expect(op, "the recurrent weight", wh, (gates * hidden, h0.shape[1]))
    if lengths is not None:
        expect(op, "lengths", lengths, (x.shape[1],))
        if lengths.dtype.kind not in "iu":
            raise DTypeError(f"{op.name}: lengths must be integers, got {lengths.dtype}; use astype('int64')")
    return hidden


def expect(op: Op[Any], what: str, found: Any, shape: tuple[int, ...]) -> None:
    """Raise a ShapeError unless ``found`` is None or has this shape."""
    if found is not None and found.shape != shape:
        raise ShapeError(f"{op.name}: {what} has shape {found.shape}, expected {shape}")


Step = Callable[..., tuple[Any, ...]]


def unrolled(step: Step, x: Any, state: tuple[Any, ...], lengths: Any, reverse: bool) -> tuple[Any, ...]:
    """A layer in small operators: (outputs, states at the end, further values), each step of which is ``step``.

    Args:
        step: (x_t, *state) to (new state, further values to be kept for each step); the first of a state is the output.
        x: (time, batch, features).
    Returns:
        (outputs, list of final states, list of further values); no outputs if there are no steps.
    """
    time = x.shape[0]
    valid = None if lengths is None else OPERATORS.less(_times(time, lengths), lengths)
    kept: list[tuple[Any, ...]] = [()] * time
    for t in steps(time, reverse):
        new, more = step(x[t], *state)
        if valid is None:
            state, kept[t] = new, (new[0], *more)
            continue
        inside = OPERATORS.reshape(valid[t], shape=(-1, 1))
        state = tuple(OPERATORS.where(inside, a, b) for a, b in zip(new, state, strict=True))
        kept[t] = tuple(OPERATORS.where(inside, v, 0.0) for v in (new[0], *more))
    if not time:
        return None, list(state), []
    y, *rest = (OPERATORS.stack(*values, axis=0) for values in zip(*kept, strict=True))
    return y, list(state), rest


def _times(n: int, like: Any) -> Any:
    """0, 1, ... as a column, on the device of the Tensor ``like``; for a Symbol, an array that becomes a constant."""
    return Tensor(like.backend.arange(n)[:, None]) if isinstance(like, Tensor) else np.arange(n)[:, None]


def plus(a: Any, b: Any) -> Any:
    """The sum of those that are given."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


# -- the plain layer


def _rnn_spec(
    op: Op[Any],
    x: Spec,
    h0: Spec,
    wx: Spec,
    wh: Spec,
    bx: Any = None,
    bh: Any = None,
    lengths: Any = None,
    activation: str = "tanh",
    reverse: bool = False,
) -> tuple[Spec, ...]:
    hidden = check(op, 1, x, h0, wx, wh, lengths, projection=False)
    for bias in (bx, bh):
        expect(op, "a bias", bias, (hidden,))
    dtype = common_dtype(x, h0, wx, wh, bx, bh)
    return Spec((*x.shape[:2], hidden), dtype), Spec(h0.shape, dtype)


@op(_rnn_spec)
def rnn_sequence(
    xp: Any,
    x: Array,
    h0: Array,
    wx: Array,
    wh: Array,
    bx: Array = None,
    bh: Array = None,
    lengths: Array = None,
    activation: str = "tanh",
    reverse: bool = False,
) -> Any:
    """A plain recurrent layer over a sequence: h = activation(x @ wx.T + bx + h @ wh.T + bh).

    Args:
        x: (time, batch, features).
        h0: first state (batch, hidden).
        wx, wh: (hidden, features), (hidden, hidden).
        bx, bh: (hidden,), or None.
        lengths: integers (batch,), how many steps each sequence has; None: all.
        activation: "tanh" or "relu".
        reverse: go from the last step to the first.
    Returns:
        (outputs (time, batch, hidden), last state (batch, hidden)).
    """
    dtype, given = wide_dtype(x, h0, wx, wh, bx, bh), common_dtype(x, h0, wx, wh, bx, bh)
    valid = valid_steps(xp, lengths, len(x))
    y = projected(xp, x, wx, plus(bx, bh), valid, dtype)
    h, recur = h0.astype(dtype), wh.T.astype(dtype, copy=False)
    for t in steps(len(x), reverse):
        a = y[t]
        a += xp.matmul(h, recur)
        if activation == "tanh":
            xp.tanh(a, out=a)
        else:
            xp.maximum(a, 0, out=a)
        if valid is not None:
            h = xp.where(valid[t], a, h)
            a *= valid[t]
        else:
            h = a
    last = h.astype(given)  # a copy: y is another output
    return y.astype(given, copy=False), last


@rnn_sequence.vjp
def _rnn_vjp(
    xp: Any,
    g: Any,
    out: Any,
    x: Any,
    h0: Any,
    wx: Any,
    wh: Any,
    bx: Any = None,
    bh: Any = None,
    lengths: Any = None,
    activation: str = "tanh",
    reverse: bool = False,
) -> Any:
    dx, dh0, dwx, dwh, *db = xp.rnn_sequence_grad(
        out[0], x, h0, wx, wh, bx, bh, lengths, g[0], g[1], activation=activation, reverse=reverse
    )
    return dx, dh0, dwx, dwh, *(db or [None]) * 2, None


def like(*arrays: Any) -> tuple[Spec, ...]:
    """Specs as those of ``arrays``."""
    return tuple(Spec(a.shape, a.dtype) for a in arrays)


def _rnn_grad_spec(
    op: Op[Any], y: Spec, x: Spec, h0: Spec, wx: Spec, wh: Spec, bx: Any = None, bh: Any = None, *_: Any, **__: Any
) -> Any:
    bias = bx if bx is not None else bh
    return like(*(s for s in (x, h0, wx, wh, bias) if s is not None))


@op(_rnn_grad_spec)
def rnn_sequence_grad(
    xp: Any,
    y: Array,
    x: Array,
    h0: Array,
    wx: Array,
    wh: Array,
    bx: Array = None,
    bh: Array = None,
    lengths: Array = None,
    gy: Array = None,
    gh: Array = None,
    activation: str = "tanh",
    reverse: bool = False,
) -> Any:
    """Gradients of `rnn_sequence` for (x, h0, wx, wh, and a bias if there is one), from the cotangents of its outputs.

    ``y``, what `rnn_sequence` returned, saves time and counts as a function of the others.
    """
    dtype = wide_dtype(x, h0, wx, wh, bx, bh)
    valid = valid_steps(xp, lengths, len(x))
    d = xp.zeros(y.shape, dtype)  # cotangents before the activation
    dh = xp.zeros(h0.shape, dtype) if gh is None else gh.astype(dtype)
    recur = wh.astype(dtype, copy=False)
    for t in steps(len(x), not reverse):
        total = dh if gy is None else dh + gy[t]
        out = y[t].astype(dtype, copy=False)
        slope = 1.0 - out * out if activation == "tanh" else out > 0
        part = total * slope if valid is None else total * slope * valid[t]
        d[t] = part
        dh = keep(xp, None if valid is None else valid[t], xp.matmul(part, recur), dh)
    h = before(xp, y, h0, valid, reverse)
    inside = masked(xp, x, valid)
    found = [
        input_gradient(xp, d, wx.astype(dtype, copy=False)).astype(x.dtype, copy=False),
        dh.astype(h0.dtype, copy=False),
        weight_gradient(xp, d, inside.astype(dtype, copy=False)).astype(wx.dtype, copy=False),
        weight_gradient(xp, d, h.astype(dtype, copy=False)).astype(wh.dtype, copy=False),
    ]
    bias = bx if bx is not None else bh
    return tuple(found) if bias is None else (*found, d.sum(axis=(0, 1)).astype(bias.dtype, copy=False))


@rnn_sequence_grad.vjp
def _rnn_grad_vjp(
    xp: Any, g: Any, out: Any, y: Any, *inputs: Any, activation: str = "tanh", reverse: bool = False
) -> Any:
    def layer(x: Any, h0: Any, wx: Any, wh: Any, bx: Any, bh: Any, lengths: Any) -> Any:
        act = OPERATORS.tanh if activation == "tanh" else OPERATORS.relu

        def step(xt: Any, h: Any) -> Any:
            return (act(linear(xt, wx, bx) + linear(h, wh, bh)),), ()

        out, (last,), _ = unrolled(step, x, (h0,), lengths, reverse)
        return out, last

    return (None, *second(layer, inputs, 7, 2, g, lambda c: (*c[:4], c[4] if c[5] is None else c[5])[: len(g)]))


def linear(x: Any, weight: Any, bias: Any) -> Any:
    """x @ weight.T + bias, of Tensors or Symbols."""
    return OPERATORS.fully_connected(x, weight, bias, flatten=False)


def second(
    layer: Callable[..., Any],
    inputs: tuple[Any, ...],
    count: int,
    outputs: int,
    g: Any,
    arrange: Callable[[list[Any]], tuple[Any, ...]],
) -> list[Any]:
    """Cotangents of the inputs of a layer's gradient operator: of ``count`` inputs of the layer, then the
    cotangents of its ``outputs``.

    Args:
        layer: the forward in small operators.
        g: cotangents of the gradients.
        arrange: makes the outputs of the gradient operator from the cotangents of the layer's inputs.
    """

    def gradient(*values: Any) -> Any:
        return arrange(pullback(layer, values[:count], values[count:]))

    return pullback(gradient, (*inputs, *[None] * (count + outputs - len(inputs))), g)
