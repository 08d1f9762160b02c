"""Recurrent layers."""

from collections.abc import Sequence
from typing import Any

from shoal.ops.graph.ir import Call
from shoal.ops.onnx.writers.shapes import unsqueezed
from shoal.ops.onnx.writing import Writer, writes

__all__: list[str] = []

LSTM_ORDER, GRU_ORDER = (0, 3, 1, 2), (1, 0, 2)
"""Where ONNX's gates (input, output, forget, cell; update, reset, hidden) are among ours."""


def _reordered(w: Writer, x: str, order: Sequence[int]) -> str:
    """Blocks of rows in another order."""
    if len(order) == 1:
        return x
    parts = w.node("Split", x, w.ints(*[w.specs[x].shape[0] // len(order)] * len(order)), outputs=len(order), axis=0)
    found: str = w.node("Concat", *[parts[i] for i in order], axis=0)
    return found


def _layer(
    w: Writer,
    c: Call,
    op: str,
    order: Sequence[int],
    x: str,
    states: Sequence[str],
    given: Sequence[str | None],
    **more: Any,
) -> tuple[str, ...]:
    """One direction: output, then the last states."""
    wx, wh, bx, bh, lengths = given
    assert wx is not None and wh is not None
    hidden = w.specs[wh].shape[0] // len(order)
    rows = [unsqueezed(w, _reordered(w, v, order), [0]) for v in (wx, wh)]
    bias = None
    if bx is not None or bh is not None:
        size = (w.specs[wx].shape[0],)
        both = [w.const(0, w.specs[wx].dtype) if v is None else _reordered(w, v, order) for v in (bx, bh)]
        both = [w.node("Expand", v, w.ints(*size)) if g is None else v for v, g in zip(both, (bx, bh), strict=True)]
        bias = unsqueezed(w, w.node("Concat", *both, axis=0), [0])
    steps = None if lengths is None else w.cast(lengths, "int32")
    first = [unsqueezed(w, s, [0]) for s in states]
    direction = "reverse" if c.attrs["reverse"] else "forward"
    made = w.node(
        op, x, *rows, bias, steps, *first, outputs=1 + len(states), hidden_size=hidden, direction=direction, **more
    )
    return tuple(w.node("Squeeze", m, w.ints(1 if i == 0 else 0)) for i, m in enumerate(made))


@writes("lstm_sequence")
def lstm(
    w: Writer, c: Call, x: str, h0: str, c0: str, wx: str, wh: str, bx: Any, bh: Any, wr: Any, lengths: Any
) -> tuple[str, ...]:
    """Without a projection, which ONNX has not."""
    if wr is not None:
        raise w.refuse("ONNX has no LSTM with a projection")
    return _layer(w, c, "LSTM", LSTM_ORDER, x, (h0, c0), (wx, wh, bx, bh, lengths))


@writes("gru_sequence")
def gru(w: Writer, c: Call, x: str, h0: str, wx: str, wh: str, bx: Any, bh: Any, lengths: Any) -> tuple[str, ...]:
    """With the reset gate after the product, as cuDNN and PyTorch have it."""
    return _layer(w, c, "GRU", GRU_ORDER, x, (h0,), (wx, wh, bx, bh, lengths), linear_before_reset=1)


@writes("rnn_sequence")
def rnn(w: Writer, c: Call, x: str, h0: str, wx: str, wh: str, bx: Any, bh: Any, lengths: Any) -> tuple[str, ...]:
    """With tanh or relu."""
    name = str(c.attrs["activation"]).capitalize()
    return _layer(w, c, "RNN", (0,), x, (h0,), (wx, wh, bx, bh, lengths), activations=[name])
