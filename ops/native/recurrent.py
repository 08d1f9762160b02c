"""LSTM layers over whole sequences of one length, without a projection: products by BLAS, gates in one pass."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.native.blas import sgemm
from shoal.ops.native.sums import column_sums
from shoal.ops.native.table import Bound, In, kernel

SINGLE = np.dtype(np.float32)


@cache
def _functions() -> Any:
    """(forward, backward) of a step; None if something is missing."""
    library = compiler.load(compiler.text("recurrent.c"), exact=True)
    if library is None or sgemm() is None or column_sums() is None:
        return None
    for function, arrays in ((library.lstm_forward, 4), (library.lstm_backward, 6)):
        function.argtypes = [*[ctypes.c_void_p] * arrays, ctypes.c_long, ctypes.c_long]
        function.restype = None
    return library.lstm_forward, library.lstm_backward


def _single(arrays: Sequence[Any]) -> bool:
    return all(isinstance(a, In) and a.dtype == SINGLE and a.size for a in arrays)


def _places(x: Any) -> tuple[int, int]:
    """Address and bytes of each of the first axis's entries."""
    return x.ctypes.data, x.strides[0]


@kernel("lstm_sequence")
def _lstm(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    x, h0, c0, wx, wh, bx, bh, wr, lengths = inputs
    biases = [b for b in (bx, bh) if b is not None]
    if wr is not None or lengths is not None or not _single((x, h0, c0, wx, wh, *biases)):
        return None
    functions = _functions()
    if functions is None or len(x.shape) != 3:
        return None
    time, batch, features = x.shape
    hidden = c0.shape[1]
    order = range(time - 1, -1, -1) if attrs.get("reverse") else range(time)

    def run(
        x: Any, h0: Any, c0: Any, wx: Any, wh: Any, bx: Any, bh: Any, wr: Any, lengths: Any,
        y: Any, last: Any, last_cell: Any, gates: Any, cells: Any,
    ) -> None:  # fmt: skip
        product, step = sgemm(), functions[0]
        for bias in (bx, bh):
            if bias is not None:
                np.add(gates, bias, out=gates) if bias is bh and bx is not None else np.copyto(gates, bias)
        given = 0.0 if bx is None and bh is None else 1.0
        product(
            x.ctypes.data, False, wx.ctypes.data, True, gates.ctypes.data, time * batch, 4 * hidden, features, given
        )
        recur, h, c = wh.ctypes.data, h0.ctypes.data, c0.ctypes.data
        (a, a_step), (out, out_step), (cell, cell_step) = _places(gates), _places(y), _places(cells)
        for t in order:
            now, kept, made = a + t * a_step, cell + t * cell_step, out + t * out_step
            product(h, False, recur, True, now, batch, 4 * hidden, hidden, 1.0)
            step(now, c, kept, made, batch, hidden)
            h, c = made, kept
        last[...], last_cell[...] = y[order[-1]], cells[order[-1]]

    states = In((batch, hidden), SINGLE)
    steps, values = In((time, batch, hidden), SINGLE), In((time, batch, 4 * hidden), SINGLE)
    return Bound((steps, states, states, values, steps), run)


@kernel("lstm_sequence_grad")
def _lstm_grad(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    inputs = [*inputs, *[None] * (17 - len(inputs))]
    y, gates, cells, x, h0, c0, wx, wh, bx, bh, wr, lengths, gy, gh, gc, ggates, gcells = inputs
    given = [a for a in (y, gates, cells, x, h0, c0, wx, wh, bx, bh, gy, gh, gc) if a is not None]
    if any(a is not None for a in (wr, lengths, ggates, gcells)) or not _single(given):
        return None
    functions = _functions()
    if functions is None or not _matching(x, (y, gates, cells), (h0, c0, gh, gc), (wx, wh), (bx, bh), gy):
        return None
    outputs = [In(a.shape, SINGLE) for a in (x, h0, c0, wx, wh)]
    if bx is not None or bh is not None:
        outputs.append(In(wh.shape[:1], SINGLE))
    back = bool(attrs.get("reverse"))

    def run(*arrays: Any) -> None:
        _run_back(functions[1], back, *arrays[: 9 - 1], *arrays[12:15], *arrays[17:])

    return Bound(tuple(outputs), run)


def _matching(x: In, made: Any, states: Any, weights: Any, biases: Any, gy: Any) -> bool:
    """Whether all shapes are those of one layer."""
    if len(x.shape) != 3 or len(made[2].shape) != 3:
        return False
    (time, batch, features), hidden = x.shape, made[2].shape[2]
    steps, four = (time, batch, hidden), 4 * hidden
    known = zip((*made, *weights), (steps, (*steps[:2], four), steps, (four, features), (four, hidden)), strict=True)
    more = [*[(s, (batch, hidden)) for s in states], *[(b, (four,)) for b in biases], (gy, steps)]
    return all(a is None or a.shape == shape for a, shape in (*known, *more))


def _run_back(
    step: Any, back: bool, y: Any, gates: Any, cells: Any, x: Any, h0: Any, c0: Any, wx: Any, wh: Any,
    gy: Any, gh: Any, gc: Any, dx: Any, dh: Any, dc: Any, dwx: Any, dwh: Any, db: Any = None,
) -> None:  # fmt: skip
    """Fill dx, dh, ... from the cotangents gy, gh, gc of outputs, last state and last cell state."""
    product = sgemm()
    time, batch, features = x.shape
    hidden = c0.shape[1]
    d, top = np.empty_like(gates), np.zeros((batch, hidden), np.float32)
    dc[...] = 0.0 if gc is None else gc
    if gh is not None:
        top += gh
    (a, a_step), (cell, cell_step), (made, d_step) = _places(gates), _places(cells), _places(d)
    carried, recur, above = dc.ctypes.data, wh.ctypes.data, top.ctypes.data
    for n in range(time):
        t = n if back else time - 1 - n
        earlier = t + 1 if back else t - 1
        began = c0.ctypes.data if n == time - 1 else cell + earlier * cell_step
        if gy is not None:
            top += gy[t]
        step(a + t * a_step, cell + t * cell_step, began, above, carried, made + t * d_step, batch, hidden)
        product(made + t * d_step, False, recur, False, above, batch, hidden, 4 * hidden, 0.0)
    dh[...] = top
    rows = time * batch
    product(made, False, wx.ctypes.data, False, dx.ctypes.data, rows, features, 4 * hidden, 0.0)
    product(made, True, x.ctypes.data, False, dwx.ctypes.data, 4 * hidden, features, rows, 0.0)
    first = made + (time - 1) * d_step if back else made  # of the step that began with h0
    product(first, True, h0.ctypes.data, False, dwh.ctypes.data, 4 * hidden, hidden, batch, 0.0)
    if time > 1:
        later, states = (made, _places(y)[0] + y.strides[0]) if back else (made + d_step, y.ctypes.data)
        product(later, True, states, False, dwh.ctypes.data, 4 * hidden, hidden, rows - batch, 1.0)
    if db is not None:
        column_sums()(made, db.ctypes.data, rows, 4 * hidden)
