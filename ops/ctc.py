"""Connectionist temporal classification (Graves et al., 2006): the loss of a labelling without alignment.

A path gives each step a class; without repetitions and blanks it spells a labelling. The loss is minus the logarithm of
the sum of the probabilities of all paths that spell the label. With the label widened by blanks before, between and
after its classes (2 * L + 1 places), the sum is a recursion over time: from each place to itself, the next, and,
over a blank, to the next but one if that is another class.
"""

from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import loss
from shoal.ops import recurrent as rec
from shoal.ops.compare import not_equal
from shoal.ops.composed import pullback
from shoal.ops.registry import OPERATORS, Array, Op, Spec, op
from shoal.ops.sequence import as_lengths
from shoal.ops.tensor import Tensor

__all__ = ["ctc", "ctc_grad", "ctc_loss"]

FAR = -1e30
"""Logarithm of a probability of 0, in small operators: an infinity would make their gradients nan."""


def _ctc_spec(
    op: Op[Any],
    log_probs: Spec,
    labels: Spec,
    input_lengths: Spec,
    label_lengths: Spec,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Spec:
    if log_probs.ndim != 3:
        raise ShapeError(f"{op.name}: log_probs must be (time, batch, classes), got shape {log_probs.shape}")
    if log_probs.dtype.kind in "biu":
        raise DTypeError(f"{op.name}: log_probs must hold floating-point numbers, got {log_probs.dtype}")
    batch, classes = log_probs.shape[1:]
    if labels.ndim != 2 or labels.shape[0] != batch:
        raise ShapeError(
            f"{op.name}: labels have shape {labels.shape}, expected ({batch}, L) for log_probs of {log_probs.shape}"
        )
    for name, lengths in (("input_lengths", input_lengths), ("label_lengths", label_lengths)):
        rec.expect(op, name, lengths, (batch,))
    for name, whole in (("labels", labels), ("input_lengths", input_lengths), ("label_lengths", label_lengths)):
        if whole.dtype.kind not in "iu":
            raise DTypeError(f"{op.name}: {name} must be integers, got {whole.dtype}; use astype('int64')")
    if not 0 <= blank < max(classes, 1):
        raise ShapeError(f"{op.name}: blank={blank} is not one of the {classes} classes")
    return Spec((batch,), log_probs.dtype)


@op(_ctc_spec)
def ctc(
    xp: Any,
    log_probs: Array,
    labels: Array,
    input_lengths: Array,
    label_lengths: Array,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    """Minus the log-probability of each label, over all alignments.

    Args:
        log_probs: logarithms of the probabilities of the classes: (time, batch, classes).
        labels: classes (batch, L), not blank; what lies beyond a label's length does not matter.
        input_lengths: how many steps each sequence has: (batch,).
        label_lengths: how long each label is: (batch,).
        blank: the class that stands for none.
        zero_infinity: give 0, and no gradient, for a label that is too long for its sequence, instead of infinity.
    Returns:
        (batch,).
    """
    places, jump = _places(xp, labels, label_lengths, blank)
    scores = _scores(xp, log_probs, places)
    found, _ = _forth(xp, scores, jump, input_lengths, label_lengths)
    if zero_infinity:
        found = xp.where(xp.isinf(found), 0.0, found)
    return found.astype(log_probs.dtype, copy=False)


def _places(xp: Any, labels: Any, label_lengths: Any, blank: int) -> tuple[Any, Any]:
    """The widened labels (batch, 2 * L + 1), and whether each place is reached from the last but one."""
    batch, length = labels.shape
    places = xp.full((batch, 2 * length + 1), blank, dtype=np.int64)
    places[:, 1::2] = xp.where(xp.arange(length)[None, :] < label_lengths[:, None], labels, blank)
    jump = xp.zeros(places.shape, bool)
    jump[:, 2:] = (places[:, 2:] != blank) & (places[:, 2:] != places[:, :-2])
    return places, jump


def _scores(xp: Any, log_probs: Any, places: Any) -> Any:
    """Log-probabilities of the places: (time, batch, 2 * L + 1), in float32 at least."""
    wide = log_probs.astype(rec.wide_dtype(log_probs), copy=False)
    return xp.take_along_axis(wide, xp.broadcast_to(places, (len(wide), *places.shape)), 2)


def _reached(xp: Any, before: Any, jump: Any) -> Any:
    """Log-probability to come to each place, from those of the step before."""
    out = before.copy()
    out[:, 1:] = xp.logaddexp(out[:, 1:], before[:, :-1])
    out[:, 2:] = xp.where(jump[:, 2:], xp.logaddexp(out[:, 2:], before[:, :-2]), out[:, 2:])
    return out


def _forth(xp: Any, scores: Any, jump: Any, input_lengths: Any, label_lengths: Any) -> tuple[Any, Any]:
    """(losses, log-probability of all beginnings that are at each place at each step)."""
    time, batch, width = scores.shape
    alphas = xp.empty(scores.shape, scores.dtype)
    now = xp.full((batch, width), -np.inf, scores.dtype)
    now[:, 0] = 0.0  # before the first step: one can come to the first two places
    blocked = xp.zeros(jump.shape, bool)
    for t in range(time):
        reached = _reached(xp, now, jump if t else blocked) + scores[t]
        now = xp.where((t < input_lengths)[:, None], reached, now)
        alphas[t] = now
    rows, last = xp.arange(batch), 2 * label_lengths
    ends = now[rows, xp.maximum(last - 1, 0)]
    ends = xp.where((label_lengths > 0) & (input_lengths > 0), ends, -np.inf)
    return -xp.logaddexp(now[rows, last], ends), alphas


@ctc.vjp
def _ctc_vjp(
    xp: Any,
    g: Any,
    out: Any,
    log_probs: Any,
    labels: Any,
    input_lengths: Any,
    label_lengths: Any,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    own = xp.ctc_grad(log_probs, labels, input_lengths, label_lengths, blank=blank, zero_infinity=zero_infinity)
    return own * g.reshape((1, -1, 1)), None, None, None


def _ctc_grad_spec(op: Op[Any], log_probs: Spec, *rest: Any, **attrs: Any) -> Spec:
    _ctc_spec(op, log_probs, *rest, **attrs)
    return Spec(log_probs.shape, log_probs.dtype)


@op(_ctc_grad_spec)
def ctc_grad(
    xp: Any,
    log_probs: Array,
    labels: Array,
    input_lengths: Array,
    label_lengths: Array,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    """The gradient of `ctc` for log_probs: minus the probability that a path of the label has a class at a step.

    It is nan for a label that is too long for its sequence, and 0 with ``zero_infinity``.
    """
    time, batch, classes = log_probs.shape
    places, jump = _places(xp, labels, label_lengths, blank)
    scores = _scores(xp, log_probs, places)
    losses, alphas = _forth(xp, scores, jump, input_lengths, label_lengths)
    lost = xp.isinf(losses)
    shift = xp.where(lost, 0.0, losses)[:, None]
    rows, last = xp.arange(batch), 2 * label_lengths
    final = xp.full(places.shape, -np.inf, scores.dtype)
    final[rows, xp.maximum(last - 1, 0)] = 0.0
    final[rows, last] = 0.0
    back = final
    turned = xp.zeros(jump.shape, bool)
    turned[:, 2:] = jump[:, ::-1][:, :-2]  # seen from the end: place s is reached from s + 2 if that is a jump
    shares = xp.zeros(scores.shape, scores.dtype)
    for t in range(time - 1, -1, -1):
        if t < time - 1:
            reached = _reached(xp, (back + scores[t + 1])[:, ::-1], turned)[:, ::-1]
            back = xp.where((t < input_lengths - 1)[:, None], reached, final)
        shares[t] = xp.where((t < input_lengths)[:, None], xp.exp(alphas[t] + back + shift), 0.0)
    index = xp.arange(time * batch).reshape(time, batch, 1) * classes + places
    out = xp.bincount(index.reshape(-1), weights=-shares.reshape(-1), minlength=time * batch * classes)
    out = out.reshape(log_probs.shape)
    fill = 0.0 if zero_infinity else np.nan
    inside = xp.arange(time)[:, None] < input_lengths[None, :]
    return xp.where((lost[None, :] & inside)[:, :, None], fill, out).astype(log_probs.dtype)


def _composed(log_probs: Any, labels: Any, input_lengths: Any, label_lengths: Any, blank: int) -> tuple[Any]:
    """`ctc` in small operators; the loss of a label that is too long is 0."""
    log_probs = log_probs.astype("float32") if log_probs.dtype.itemsize < 4 else log_probs
    ops, length = OPERATORS, labels.shape[1]
    known = ops.less(_count(length, labels), ops.reshape(label_lengths, shape=(-1, 1)))
    own = ops.where(known, labels, blank)
    blanks = own * 0 + blank
    places = ops.stack(own, blanks, axis=2).reshape((labels.shape[0], 2 * length))
    first = ops.reshape(label_lengths * 0 + blank, shape=(-1, 1))
    places = ops.concatenate(first, places, axis=1)
    differ = ops.logical_and(not_equal(places[:, 2:], places[:, :-2]), not_equal(places[:, 2:], blank))
    now: Any = None
    for t in range(log_probs.shape[0]):
        scores = ops.take_along_axis(log_probs[t], places, axis=1)
        if now is None:
            now = ops.where(ops.less(_count(2 * length + 1, labels), 2), scores, FAR)
            continue
        one = ops.pad(now[:, :-1], pad_width=((0, 0), (1, 0)), constant=FAR)
        two = ops.pad(ops.where(differ, now[:, :-2], FAR), pad_width=((0, 0), (2, 0)), constant=FAR)
        reached = ops.logaddexp(ops.logaddexp(now, one), two) + scores
        now = ops.where(ops.reshape(ops.greater(input_lengths, t), shape=(-1, 1)), reached, now)
    if now is None:
        return (None,)
    last = ops.reshape(label_lengths * 2, shape=(-1, 1))
    ends = ops.take_along_axis(now, ops.maximum(last - 1, 0), axis=1)
    ends = ops.where(ops.greater(last, 0), ends, FAR)
    total = ops.logaddexp(ops.take_along_axis(now, last, axis=1), ends).reshape((-1,))
    fits = ops.logical_and(ops.greater(total, FAR / 2), ops.greater(input_lengths, 0))
    return (ops.where(fits, -total, 0.0),)


def _count(n: int, like: Any) -> Any:
    return Tensor(like.backend.arange(n)) if isinstance(like, Tensor) else np.arange(n)


@ctc_grad.vjp
def _ctc_grad_vjp(
    xp: Any,
    g: Any,
    out: Any,
    log_probs: Any,
    labels: Any,
    input_lengths: Any,
    label_lengths: Any,
    blank: int = 0,
    zero_infinity: bool = False,
) -> Any:
    def gradient(values: Any, *whole: Any) -> Any:
        def losses(x: Any) -> tuple[Any]:
            return _composed(x, whole[0], whole[1], whole[2], blank)

        ones = OPERATORS.ones_like(values[0, :, 0]) if 0 not in values.shape else None
        return tuple(pullback(losses, (values,), (ones,)))

    return pullback(gradient, (log_probs, labels, input_lengths, label_lengths), (g,))


def ctc_loss(
    data: Any,
    label: Any,
    data_lengths: Any = None,
    label_lengths: Any = None,
    use_data_lengths: bool = False,
    use_label_lengths: bool = False,
    blank_label: str = "first",
    zero_infinity: bool = False,
) -> Any:
    """MXNet's CTC loss, of scores that are no probabilities yet.

    Args:
        data: (time, batch, classes); a softmax over the classes is taken here.
        label: classes (batch, L), padded with 0 (with the blank first) or -1 (with the blank last).
        data_lengths: with ``use_data_lengths``, how many steps each sequence has.
        label_lengths: with ``use_label_lengths``, how long each label is; otherwise up to the first padding.
        blank_label: the blank is the "first" class, or the "last".
        zero_infinity: as of `ctc`.
    Returns:
        (batch,).
    Raises:
        ConfigError: ``blank_label`` is neither.
    """
    if blank_label not in ("first", "last"):
        raise ConfigError(f"ctc_loss: blank_label must be 'first' or 'last', got {blank_label!r}")
    blank, padding = (0, 0) if blank_label == "first" else (data.shape[2] - 1, -1)
    label = label if hasattr(label, "dtype") else np.asarray(label)
    label = OPERATORS.astype(label, dtype="int64")
    steps, lengths = as_lengths(data_lengths, use_data_lengths), as_lengths(label_lengths, use_label_lengths)
    if lengths is None:
        lengths = OPERATORS.cumprod(OPERATORS.astype(not_equal(label, padding), dtype="int64"), axis=1).sum(axis=1)
    if steps is None:
        steps = OPERATORS.sum(label * 0, axis=1) + data.shape[0]
    steps, lengths = (OPERATORS.astype(n, dtype="int64") for n in (steps, lengths))
    return ctc(loss.log_softmax(data, axis=-1), label, steps, lengths, blank=blank, zero_infinity=zero_infinity)
