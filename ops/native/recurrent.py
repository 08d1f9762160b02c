"""LSTM and GRU layers over whole sequences of one length, without a projection: see `ops/native/c/recurrent.c`."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler, gemm
from shoal.ops.native.sums import column_sums
from shoal.ops.native.table import Bound, In, kernel

SINGLE = np.dtype(np.float32)


@cache
def _functions() -> Any:
    """The functions of recurrent.c; None if something is missing."""
    library = compiler.load(compiler.text("recurrent.c"), exact=True)
    if library is None or gemm.library() is None or column_sums() is None:
        return None
    arrays = {"lstm_sequence": 6, "lstm_sequence_grad": 8, "gru_sequence": 7, "gru_sequence_grad": 8}
    for name, count in arrays.items():
        getattr(library, name).argtypes = [*[ctypes.c_void_p] * count, *[ctypes.c_long] * 4]
    return library


def _single(arrays: Sequence[Any]) -> bool:
    return all(isinstance(a, In) and a.dtype == SINGLE and a.size for a in arrays)


def _at(x: Any) -> int | None:
    return None if x is None else int(x.ctypes.data)


def _held(done: int) -> None:
    if not done:
        raise MemoryError("a recurrent layer: there is no memory for a copy of its recurrent weights")


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
    back = bool(attrs.get("reverse"))
    inward = gemm.product(time * batch, 4 * hidden, features, tb=True)

    def run(
        x: Any, h0: Any, c0: Any, wx: Any, wh: Any, bx: Any, bh: Any, wr: Any, lengths: Any,
        y: Any, last: Any, last_cell: Any, gates: Any, cells: Any,
    ) -> None:  # fmt: skip
        bias = bx if bh is None else bh if bx is None else bx + bh
        inward(x.ctypes.data, wx.ctypes.data, gates.ctypes.data, _at(bias))
        _held(functions.lstm_sequence(*map(_at, (gates, wh, h0, c0, cells, y)), time, batch, hidden, back))
        end = 0 if back else time - 1
        last[...], last_cell[...] = y[end], cells[end]

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
        _run_back(functions.lstm_sequence_grad, back, *arrays[: 9 - 1], *arrays[12:15], *arrays[17:])

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
    time, batch, _ = x.shape
    hidden, d = c0.shape[1], np.empty_like(gates)
    dc[...] = 0.0 if gc is None else gc
    dh[...] = 0.0 if gh is None else gh
    _held(step(*map(_at, (gates, cells, c0, wh, gy, d, dh, dc)), time, batch, hidden, back))
    _weight_gradients(d, d, x, h0, wx, y, back, dx, dwx, dwh)
    if db is not None:
        column_sums()(d.ctypes.data, db.ctypes.data, time * batch, 4 * hidden)


def _weight_gradients(
    d: Any, ds: Any, x: Any, h0: Any, wx: Any, y: Any, back: bool, dx: Any, dwx: Any, dwh: Any
) -> None:
    """Fill dx, dwx, dwh from the cotangents of what comes from inputs, ``d``, and from states, ``ds``."""
    (time, batch, features), hidden, width = x.shape, h0.shape[1], d.shape[2]
    rows, made = time * batch, d.ctypes.data
    gemm.product(rows, features, width)(made, wx.ctypes.data, dx.ctypes.data)
    gemm.product(width, features, rows, ta=True)(made, x.ctypes.data, dwx.ctypes.data)
    first = ds[-1] if back else ds[0]  # of the step that began with h0
    gemm.product(width, hidden, batch, ta=True)(first.ctypes.data, h0.ctypes.data, dwh.ctypes.data)
    if time > 1:
        later, states = (ds[:-1], y[1:]) if back else (ds[1:], y[:-1])
        after = gemm.product(width, hidden, rows - batch, ta=True, add=True)
        after(later.ctypes.data, states.ctypes.data, dwh.ctypes.data)


@kernel("gru_sequence")
def _gru(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    x, h0, wx, wh, bx, bh, lengths = inputs
    if lengths is not None or not _single((x, h0, wx, wh, *(b for b in (bx, bh) if b is not None))):
        return None
    functions = _functions()
    if functions is None or len(x.shape) != 3:
        return None
    (time, batch, features), hidden = x.shape, h0.shape[1]
    back, inward = bool(attrs.get("reverse")), gemm.product(time * batch, 3 * hidden, features, tb=True)

    def run(
        x: Any, h0: Any, wx: Any, wh: Any, bx: Any, bh: Any, lengths: Any, y: Any, last: Any, gates: Any
    ) -> None:  # fmt: skip
        given, room = np.empty((time, batch, 3 * hidden), np.float32), np.empty((batch, 3 * hidden), np.float32)
        inward(x.ctypes.data, wx.ctypes.data, given.ctypes.data, _at(bx))
        _held(functions.gru_sequence(*map(_at, (given, wh, bh, h0, gates, y, room)), time, batch, hidden, back))
        last[...] = y[0 if back else time - 1]

    steps = time, batch
    shapes = (*steps, hidden), (batch, hidden), (*steps, 4 * hidden)
    return Bound(tuple(In(s, SINGLE) for s in shapes), run)


@kernel("gru_sequence_grad")
def _gru_grad(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    all_of_them: list[Any] = [*inputs, *[None] * (12 - len(inputs))]
    y, gates, x, h0, wx, wh, bx, bh, lengths, gy, gh, ggates = all_of_them
    given = [a for a in (y, gates, x, h0, wx, wh, bx, bh, gy, gh) if a is not None]
    if len(inputs) < 11 or lengths is not None or ggates is not None or not _single(given):
        return None
    if len(x.shape) != 3 or len(y.shape) != 3:
        return None
    (time, batch, features), hidden, functions = x.shape, y.shape[2], _functions()
    states, steps, three = (batch, hidden), (time, batch, hidden), 3 * hidden
    wanted = (steps, (time, batch, 4 * hidden), x.shape, states, (three, features), (three, hidden))
    right = all(a.shape == w for a, w in zip(given, wanted, strict=False))
    right = right and all(b is None or b.shape == (three,) for b in (bx, bh))
    if functions is None or not right or (gy and gy.shape != steps) or (gh and gh.shape != states):
        return None
    back = bool(attrs.get("reverse"))

    def run(*arrays: Any) -> None:
        y, gates, x, h0, wx, wh, bx, bh, _, gy, gh = arrays[:11]
        dx, dh, dwx, dwh, *biases = arrays[len(inputs) :]
        d, ds = (np.empty((time, batch, three), np.float32) for _ in range(2))
        dh[...] = 0.0 if gh is None else gh
        function = functions.gru_sequence_grad
        _held(function(*map(_at, (gates, y, h0, wh, gy, d, ds, dh)), time, batch, hidden, back))
        _weight_gradients(d, ds, x, h0, wx, y, back, dx, dwx, dwh)
        for db, of in zip(biases, [c for c, b in ((d, bx), (ds, bh)) if b is not None], strict=True):
            column_sums()(of.ctypes.data, db.ctypes.data, time * batch, three)

    return Bound(tuple(In(a.shape, SINGLE) for a in (x, h0, wx, wh, bx, bh) if a is not None), run)
