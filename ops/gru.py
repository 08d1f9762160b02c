"""GRU over a sequence (Cho et al., arXiv:1406.1078), in cuDNN's form, which MXNet and PyTorch share.

With r, z = sigmoid(x @ wx.T + bx + h @ wh.T + bh) for their rows, and s = h @ wh.T + bh for those of the candidate:
n = tanh(x @ wx.T + bx + r * s), and h = (1 - z) * n + z * h. Rows are in the order r, z, n. See `recurrent` for what
layers share.
"""

from functools import partial
from typing import Any

from shoal.ops import recurrent as rec
from shoal.ops.registry import OPERATORS, Array, Op, Spec, op

__all__ = ["gru_sequence", "gru_sequence_grad", "gru_step"]


def _gru_spec(
    op: Op[Any],
    x: Spec,
    h0: Spec,
    wx: Spec,
    wh: Spec,
    bx: Any = None,
    bh: Any = None,
    lengths: Any = None,
    reverse: bool = False,
) -> tuple[Spec, ...]:
    hidden = rec.check(op, 3, x, h0, wx, wh, lengths, projection=False)
    for bias in (bx, bh):
        rec.expect(op, "a bias", bias, (3 * hidden,))
    dtype, wide = rec.common_dtype(x, h0, wx, wh, bx, bh), rec.wide_dtype(x, h0, wx, wh, bx, bh)
    shape = x.shape[:2]
    return Spec((*shape, hidden), dtype), Spec(h0.shape, dtype), Spec((*shape, 4 * hidden), wide)


@op(_gru_spec)
def gru_sequence(
    xp: Any,
    x: Array,
    h0: Array,
    wx: Array,
    wh: Array,
    bx: Array = None,
    bh: Array = None,
    lengths: Array = None,
    reverse: bool = False,
) -> Any:
    """A GRU layer over a sequence, in one direction.

    Args:
        x: (time, batch, features).
        h0: first state (batch, hidden).
        wx, wh: (3 * hidden, features), (3 * hidden, hidden).
        bx, bh: (3 * hidden,), or None.
        lengths: integers (batch,), how many steps each sequence has; None: all.
        reverse: go from the last step to the first.
    Returns:
        (outputs (time, batch, hidden), last state (batch, hidden), values of r, z, n and s (time, batch, 4 * hidden),
        0 beyond the ends).
    """
    given, dtype = rec.common_dtype(x, h0, wx, wh, bx, bh), rec.wide_dtype(x, h0, wx, wh, bx, bh)
    valid, hidden = rec.valid_steps(xp, lengths, len(x)), h0.shape[1]
    inputs, recur = rec.projected(xp, x, wx, bx, valid, dtype), wh.T.astype(dtype, copy=False)
    gates = xp.empty((*x.shape[:2], 4 * hidden), dtype)
    y = xp.empty((*x.shape[:2], hidden), dtype)
    h = h0.astype(dtype)
    for t in rec.steps(len(x), reverse):
        out, a = y[t], gates[t]
        s = xp.matmul(h, recur)
        if bh is not None:
            s += bh
        both, n = a[:, : 2 * hidden], a[:, 2 * hidden : 3 * hidden]
        xp.add(inputs[t, :, : 2 * hidden], s[:, : 2 * hidden], out=both)
        both *= 0.5
        xp.tanh(both, out=both)
        both *= 0.5
        both += 0.5
        a[:, 3 * hidden :] = s[:, 2 * hidden :]
        xp.multiply(a[:, :hidden], s[:, 2 * hidden :], out=n)
        n += inputs[t, :, 2 * hidden :]
        xp.tanh(n, out=n)
        xp.subtract(h, n, out=out)
        out *= a[:, hidden : 2 * hidden]
        out += n
        if valid is None:
            h = out
        else:
            h = xp.where(valid[t], out, h)
            out *= valid[t]
            a *= valid[t]
    last = h.astype(given)
    return y.astype(given, copy=False), last, gates


def gru_step(a: Any, s: Any, h: Any) -> tuple[Any, Any]:
    """One step in small operators: (state, values of r, z, n and s).

    Args:
        a: what comes from the input, x @ wx.T + bx: (batch, 3 * hidden), in the order r, z, n.
        s: what comes from the state, h @ wh.T + bh: likewise.
        h: state (batch, hidden).
    """
    hidden = h.shape[-1]
    r, z = (
        OPERATORS.sigmoid(a[:, n * hidden : (n + 1) * hidden] + s[:, n * hidden : (n + 1) * hidden]) for n in (0, 1)
    )
    inner = s[:, 2 * hidden :]
    n = OPERATORS.tanh(a[:, 2 * hidden :] + r * inner)
    return n + z * (h - n), OPERATORS.concatenate(r, z, n, inner, axis=1)


def _composed(x: Any, h0: Any, wx: Any, wh: Any, bx: Any, bh: Any, lengths: Any, reverse: bool) -> Any:
    """`gru_sequence` in small operators."""

    def step(xt: Any, h: Any) -> Any:
        h, gates = gru_step(rec.linear(xt, wx, bx), rec.linear(h, wh, bh), h)
        return (h,), (gates,)

    y, (h,), rest = rec.unrolled(step, x, (h0,), lengths, reverse)
    return y, h, *(rest or [None])


@gru_sequence.vjp
def _gru_vjp(
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
    reverse: bool = False,
) -> Any:
    y, _, gates = out
    dx, dh0, dwx, dwh, *rest = xp.gru_sequence_grad(y, gates, x, h0, wx, wh, bx, bh, lengths, *g, reverse=reverse)
    dbh = None if bh is None else rest.pop()
    return dx, dh0, dwx, dwh, rest[0] if rest else None, dbh, None


def _gru_grad_spec(
    op: Op[Any],
    y: Spec,
    gates: Spec,
    x: Spec,
    h0: Spec,
    wx: Spec,
    wh: Spec,
    bx: Any = None,
    bh: Any = None,
    *_: Any,
    **__: Any,
) -> Any:
    return rec.like(*(s for s in (x, h0, wx, wh, bx, bh) if s is not None))


@op(_gru_grad_spec)
def gru_sequence_grad(
    xp: Any,
    y: Array,
    gates: Array,
    x: Array,
    h0: Array,
    wx: Array,
    wh: Array,
    bx: Array = None,
    bh: Array = None,
    lengths: Array = None,
    gy: Array = None,
    gh: Array = None,
    ggates: Array = None,
    reverse: bool = False,
) -> Any:
    """Gradients of `gru_sequence` for (x, h0, wx, wh, and the biases that there are).

    ``y`` and ``gates``, what `gru_sequence` returned, save time and count as functions of the others; the last three
    before ``reverse`` are the cotangents of its outputs.
    """
    dtype = gates.dtype
    valid = rec.valid_steps(xp, lengths, len(x))
    time, batch, hidden = y.shape
    d, ds = xp.empty((time, batch, 3 * hidden), dtype), xp.empty((time, batch, 3 * hidden), dtype)
    dh = xp.zeros(h0.shape, dtype) if gh is None else gh.astype(dtype)
    recur = wh.astype(dtype, copy=False)
    began = rec.before(xp, y, h0, valid, reverse).astype(dtype, copy=False)
    for t in rec.steps(time, not reverse):
        now = None if valid is None else valid[t]
        total = dh if gy is None else dh + gy[t]
        _gate_gradients(xp, d[t], ds[t], gates[t], began[t], total, None if ggates is None else ggates[t])
        if now is not None:
            d[t] *= now
            ds[t] *= now
        back = xp.matmul(ds[t], recur)
        back += total * gates[t, :, hidden : 2 * hidden]
        dh = rec.keep(xp, now, back, dh)
    inside = rec.masked(xp, x, valid).astype(dtype, copy=False)
    found = [
        (rec.input_gradient(xp, d, wx.astype(dtype, copy=False)), x),
        (dh, h0),
        (rec.weight_gradient(xp, d, inside), wx),
        (rec.weight_gradient(xp, ds, began), wh),
    ]
    found += [(c.sum(axis=(0, 1)), b) for c, b in ((d, bx), (ds, bh)) if b is not None]
    return tuple(c.astype(to.dtype, copy=False) for c, to in found)


def _gate_gradients(xp: Any, d: Any, ds: Any, gates: Any, began: Any, total: Any, extra: Any) -> None:
    """Fill ``d`` and ``ds`` with the cotangents of what comes from the input, and from the state, of one step."""
    hidden = began.shape[1]
    r, z, n, s = (gates[:, k * hidden : (k + 1) * hidden] for k in range(4))
    dr, dz, dn, dinner = (None,) * 4 if extra is None else (extra[:, k * hidden : (k + 1) * hidden] for k in range(4))
    candidate = rec.plus(total * (1.0 - z), dn)
    candidate *= 1.0 - n * n
    d[:, 2 * hidden :] = candidate
    ds[:, 2 * hidden :] = rec.plus(candidate * r, dinner)
    d[:, :hidden] = rec.plus(candidate * s, dr) * r * (1.0 - r)
    d[:, hidden : 2 * hidden] = rec.plus(total * (began - n), dz) * z * (1.0 - z)
    ds[:, : 2 * hidden] = d[:, : 2 * hidden]


@gru_sequence_grad.vjp
def _gru_grad_vjp(xp: Any, g: Any, out: Any, y: Any, gates: Any, *inputs: Any, reverse: bool = False) -> Any:
    def arrange(c: list[Any]) -> tuple[Any, ...]:
        return (*c[:4], *(c[k] for k in (4, 5) if inputs[k] is not None))

    return (None, None, *rec.second(partial(_composed, reverse=reverse), inputs, 7, 3, g, arrange))
