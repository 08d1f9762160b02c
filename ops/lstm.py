"""LSTM over a sequence (Hochreiter and Schmidhuber, 1997), with an optional projection (Sak et al., arXiv:1402.1128).

With the gates i, f, o (sigmoids) and the candidate g (tanh) of x @ wx.T + bx + h @ wh.T + bh, whose rows are in the
order i, f, g, o: c = f * c + i * g, and h = o * tanh(c), or (o * tanh(c)) @ wr.T with a projection. See `recurrent` for
what layers share.

All four are one tanh: sigmoid(a) = (1 + tanh(a / 2)) / 2.
"""

from functools import partial
from typing import Any

import numpy as np

from shoal.ops import recurrent as rec
from shoal.ops.registry import OPERATORS, Array, Op, Spec, op

__all__ = ["lstm_sequence", "lstm_sequence_grad", "lstm_step"]


def _lstm_spec(
    op: Op[Any],
    x: Spec,
    h0: Spec,
    c0: Spec,
    wx: Spec,
    wh: Spec,
    bx: Any = None,
    bh: Any = None,
    wr: Any = None,
    lengths: Any = None,
    reverse: bool = False,
) -> tuple[Spec, ...]:
    hidden = rec.check(op, 4, x, h0, wx, wh, lengths, projection=wr is not None)
    rec.expect(op, "the first cell state", c0, (x.shape[1], hidden))
    rec.expect(op, "the projection weight", wr, (h0.shape[1], hidden))
    for bias in (bx, bh):
        rec.expect(op, "a bias", bias, (4 * hidden,))
    dtype, wide = rec.common_dtype(x, h0, c0, wx, wh, bx, bh, wr), rec.wide_dtype(x, h0, c0, wx, wh, bx, bh, wr)
    return (
        Spec((*x.shape[:2], h0.shape[1]), dtype),
        Spec(h0.shape, dtype),
        Spec(c0.shape, dtype),
        Spec((*x.shape[:2], 4 * hidden), wide),
        Spec((*x.shape[:2], hidden), wide),
    )


@op(_lstm_spec)
def lstm_sequence(
    xp: Any,
    x: Array,
    h0: Array,
    c0: Array,
    wx: Array,
    wh: Array,
    bx: Array = None,
    bh: Array = None,
    wr: Array = None,
    lengths: Array = None,
    reverse: bool = False,
) -> Any:
    """An LSTM layer over a sequence, in one direction.

    Args:
        x: (time, batch, features).
        h0, c0: first state (batch, out) and cell state (batch, hidden); out is hidden without a projection.
        wx, wh: (4 * hidden, features), (4 * hidden, out).
        bx, bh: (4 * hidden,), or None.
        wr: projection (out, hidden), or None.
        lengths: integers (batch,), how many steps each sequence has; None: all.
        reverse: go from the last step to the first.
    Returns:
        (outputs (time, batch, out), last state, last cell state, values of the gates (time, batch, 4 * hidden), cell
        states (time, batch, hidden)); the last two are 0 beyond the ends.
    """
    given, dtype = rec.common_dtype(x, h0, c0, wx, wh, bx, bh, wr), rec.wide_dtype(x, h0, c0, wx, wh, bx, bh, wr)
    valid = rec.valid_steps(xp, lengths, len(x))
    hidden, bias = c0.shape[1], rec.plus(bx, bh)
    half, rest = _halves(xp, hidden, dtype)
    gates = rec.projected(xp, x, _halved(wx, half, dtype), None if bias is None else bias * half, valid, dtype)
    recur, down = _halved(wh, half, dtype).T, None if wr is None else wr.T.astype(dtype, copy=False)
    y = xp.empty((*x.shape[:2], h0.shape[1]), dtype)
    cells = xp.empty((*x.shape[:2], hidden), dtype)
    added, part = rec.by_columns(xp, gates.shape[1:], dtype), xp.empty(c0.shape, dtype)
    h, c = h0.astype(dtype), c0.astype(dtype)
    for t in rec.steps(len(x), reverse):
        a, new, out = gates[t], cells[t], y[t]
        a += xp.matmul(h, recur, out=added)
        xp.tanh(a, out=a)
        a *= half
        a += rest
        xp.multiply(a[:, hidden : 2 * hidden], c, out=new)
        new += xp.multiply(a[:, :hidden], a[:, 2 * hidden : 3 * hidden], out=part)
        full = xp.multiply(xp.tanh(new, out=part), a[:, 3 * hidden :], out=out if down is None else part)
        if down is not None:
            xp.matmul(full, down, out=out)
        if valid is None:
            h, c = out, new
        else:
            h, c = xp.where(valid[t], out, h), xp.where(valid[t], new, c)
            for kept in (a, new, out):
                kept *= valid[t]
    return y.astype(given, copy=False), h.astype(given), c.astype(given), gates, cells


def _halves(xp: Any, hidden: int, dtype: Any) -> tuple[Any, Any]:
    """(factors, summands) that make sigmoids of tanh, for i, f and o, and leave g."""
    half = np.full(4 * hidden, 0.5, dtype)
    half[2 * hidden : 3 * hidden] = 1.0
    return xp.asarray(half), xp.asarray(1.0 - half)


def _halved(weight: Any, half: Any, dtype: Any) -> Any:
    """A weight whose products are what tanh takes: the factors are powers of 2, so no bit is lost."""
    return weight.astype(dtype, copy=False) * half[:, None]


def lstm_step(a: Any, c: Any, wr: Any = None) -> tuple[Any, Any, Any]:
    """One step in small operators: (state, cell state, gate values) from gates before their functions, and the cells.

    Args:
        a: (batch, 4 * hidden), in the order i, f, g, o.
        c: (batch, hidden).
        wr: projection (out, hidden), or None.
    Returns:
        (h, c, gates).
    """
    hidden = c.shape[-1]
    i, f, o = (OPERATORS.sigmoid(a[:, n * hidden : (n + 1) * hidden]) for n in (0, 1, 3))
    candidate = OPERATORS.tanh(a[:, 2 * hidden : 3 * hidden])
    c = f * c + i * candidate
    h = o * OPERATORS.tanh(c)
    if wr is not None:
        h = rec.linear(h, wr, None)
    return h, c, OPERATORS.concatenate(i, f, candidate, o, axis=1)


def _composed(
    x: Any, h0: Any, c0: Any, wx: Any, wh: Any, bx: Any, bh: Any, wr: Any, lengths: Any, reverse: bool
) -> Any:
    """`lstm_sequence` in small operators."""

    def step(xt: Any, h: Any, c: Any) -> Any:
        h, c, gates = lstm_step(rec.linear(xt, wx, bx) + rec.linear(h, wh, bh), c, wr)
        return (h, c), (gates, c)

    y, (h, c), rest = rec.unrolled(step, x, (h0, c0), lengths, reverse)
    return y, h, c, *(rest or [None, None])


@lstm_sequence.vjp
def _lstm_vjp(
    xp: Any,
    g: Any,
    out: Any,
    x: Any,
    h0: Any,
    c0: Any,
    wx: Any,
    wh: Any,
    bx: Any = None,
    bh: Any = None,
    wr: Any = None,
    lengths: Any = None,
    reverse: bool = False,
) -> Any:
    y, _, _, gates, cells = out
    dx, dh0, dc0, dwx, dwh, *rest = xp.lstm_sequence_grad(
        y, gates, cells, x, h0, c0, wx, wh, bx, bh, wr, lengths, *g, reverse=reverse
    )
    dwr = None if wr is None else rest.pop()
    db = rest[0] if rest else None
    return dx, dh0, dc0, dwx, dwh, db, db, dwr, None


def _lstm_grad_spec(
    op: Op[Any],
    y: Spec,
    gates: Spec,
    cells: Spec,
    x: Spec,
    h0: Spec,
    c0: Spec,
    wx: Spec,
    wh: Spec,
    bx: Any = None,
    bh: Any = None,
    wr: Any = None,
    *_: Any,
    **__: Any,
) -> Any:
    return rec.like(*(s for s in (x, h0, c0, wx, wh, bh if bx is None else bx, wr) if s is not None))


@op(_lstm_grad_spec)
def lstm_sequence_grad(
    xp: Any,
    y: Array,
    gates: Array,
    cells: Array,
    x: Array,
    h0: Array,
    c0: Array,
    wx: Array,
    wh: Array,
    bx: Array = None,
    bh: Array = None,
    wr: Array = None,
    lengths: Array = None,
    gy: Array = None,
    gh: Array = None,
    gc: Array = None,
    ggates: Array = None,
    gcells: Array = None,
    reverse: bool = False,
) -> Any:
    """Gradients of `lstm_sequence` for (x, h0, c0, wx, wh, and a bias and the projection if there are such).

    ``y``, ``gates`` and ``cells``, what `lstm_sequence` returned, save time and count as functions of the others; the
    last five before ``reverse`` are the cotangents of its outputs.
    """
    dtype = gates.dtype
    valid = rec.valid_steps(xp, lengths, len(x))
    hidden = cells.shape[2]
    dfull = xp.zeros(y.shape if wr is not None else (0,), dtype)
    dh = xp.zeros(h0.shape, dtype) if gh is None else gh.astype(dtype)
    dc = xp.zeros(c0.shape, dtype) if gc is None else gc.astype(dtype)
    weights = rec.column_major(xp, wh, dtype), None if wr is None else wr.astype(dtype, copy=False)
    back = rec.by_columns(xp, h0.shape, dtype)
    d, through, extra = _factors(xp, gates, cells, rec.before(xp, cells, c0, valid, reverse), ggates)
    for t in rec.steps(len(x), not reverse):
        now = None if valid is None else valid[t]
        heads = [None if g is None else g[t] for g in (gy, gcells, extra)]
        full = dfull[t] if wr is not None else None
        values = through[t], gates[t, :, hidden : 2 * hidden]
        dh, dc = _step_back(xp, d[t], full, values, (dh, dc), heads, weights, now, back)
    h = rec.before(xp, y, h0, valid, reverse).astype(dtype, copy=False)
    inside = rec.masked(xp, x, valid).astype(dtype, copy=False)
    found = [
        (rec.input_gradient(xp, d, wx.astype(dtype, copy=False)), x),
        (dh, h0),
        (dc, c0),
        (rec.weight_gradient(xp, d, inside), wx),
        (rec.weight_gradient(xp, d, h), wh),
    ]
    if bx is not None or bh is not None:
        found.append((d.sum(axis=(0, 1)), bh if bx is None else bx))
    if wr is not None:
        found.append((rec.weight_gradient(xp, dfull, gates[:, :, 3 * hidden :] * xp.tanh(cells)), wr))
    return tuple(c.astype(to.dtype, copy=False) for c, to in found)


def _factors(xp: Any, gates: Any, cells: Any, began: Any, ggates: Any) -> tuple[Any, Any, Any]:
    """What does not depend on the steps after a step, for all steps at once.

    Returns:
        (what becomes the cotangents of the gates before their functions: for i, f and g by multiplication with that of
        the cell state, for o with that of the output before the projection; what the latter is multiplied with to be
        part of the former; what ``ggates``, the cotangents of the gates after their functions, adds: None without).
    """
    hidden = cells.shape[2]
    i, f, candidate, o = (slice(n * hidden, (n + 1) * hidden) for n in range(4))
    bent = xp.tanh(cells)
    through = bent * bent
    xp.subtract(1.0, through, out=through)
    through *= gates[..., o]
    d = 1.0 - gates
    d *= gates
    slope = xp.multiply(gates[..., candidate], gates[..., candidate], out=d[..., candidate])
    xp.subtract(1.0, slope, out=slope)
    extra = None if ggates is None else ggates * d
    for part, other in ((i, gates[..., candidate]), (f, began), (candidate, gates[..., i]), (o, bent)):
        d[..., part] *= other
    return d, through, extra


def _step_back(
    xp: Any, d: Any, dfull: Any, values: Any, states: Any, heads: Any, weights: Any, now: Any, back: Any
) -> tuple[Any, Any]:
    """The cotangents of the states before a step, from those after it; finishes ``d`` and fills ``dfull``.

    Args:
        d: the factors of `_factors`, which become the cotangents of the gates before their functions.
        dfull: gets that of the output, if it is projected.
        values: what leads from the output to the cells, and the gate f.
        states: cotangents of the state and the cell state.
        heads: cotangents of the step's output and its cells, and what those of its gates add; or None each.
        weights: wh, and wr or None.
        now: whether the step is within its sequence; None: all are.
        back: may get the cotangent of the state.
    """
    (through, forget), (dh, dc), (gy, gcell, extra), (recur, up) = values, states, heads, weights
    batch, hidden = through.shape
    total = dh if gy is None else dh + gy
    if up is not None:
        dfull[...] = total if now is None else total * now
        total = xp.matmul(total, up)
    dcell = total * through
    dcell += dc if gcell is None else dc + gcell
    blocks = d.reshape(batch, 4, hidden)[:, :3]
    blocks *= dcell[:, None]
    d[:, 3 * hidden :] *= total
    if extra is not None:
        d += extra
    if now is not None:
        d *= now
    dcell *= forget
    return rec.keep(xp, now, xp.matmul(d, recur, out=back), dh), rec.keep(xp, now, dcell, dc)


@lstm_sequence_grad.vjp
def _lstm_grad_vjp(
    xp: Any, g: Any, out: Any, y: Any, gates: Any, cells: Any, *inputs: Any, reverse: bool = False
) -> Any:
    def arrange(c: list[Any]) -> tuple[Any, ...]:
        bias, wr = any(b is not None for b in inputs[5:7]), inputs[7] is not None
        return (*c[:5], *([c[6] if c[5] is None else c[5]] if bias else []), *([c[7]] if wr else []))

    return (None, None, None, *rec.second(partial(_composed, reverse=reverse), inputs, 9, 5, g, arrange))
