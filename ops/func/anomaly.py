"""The search for the first NaN: which operator made it, from what, and where the user called it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from shoal.errors import AutogradError
from shoal.ops import instrument, lines

__all__ = ["detect_anomaly"]


@contextmanager
def detect_anomaly(check_nan: bool = True, check_inf: bool = False) -> Iterator[None]:
    """Within this context the first operator that makes a NaN is an error: forward and backward, imperative and hybrid.

    It also notes the line of every operator that is recorded, so that any error of a backward pass tells it. Every
    result is looked through, so that it costs time; outside of this context nothing does.

    Args:
        check_nan: False only notes lines.
        check_inf: an infinite value is an error too.
    Raises:
        AutogradError: (by the operator) names the operator, whether forward or backward, the shapes and ranges of its
            inputs, and the user's line; says so if the NaN came in with an input.
    """

    def look(h: instrument.Happened) -> None:
        if check_nan or check_inf:
            _look(h, check_nan, check_inf)

    with instrument.watching(look):
        yield


def _look(h: instrument.Happened, nan: bool, inf: bool) -> None:
    for number, x in enumerate(h.outputs):
        found = _wrong(x, nan, inf)
        if found is not None:
            raise AutogradError(_text(h, number, x, *found, nan, inf))


def _wrong(x: Any, nan: bool, inf: bool) -> tuple[str, int] | None:
    """What is wrong with the values of ``x``, and how many are."""
    dtype = getattr(x, "dtype", None)
    if dtype is None or dtype.kind not in "fcV" or not x.size:
        return None
    bad = int(np.count_nonzero(x != x))
    if nan and bad:
        return "NaN", bad
    if inf:
        infinite = int(np.count_nonzero(abs(x) == np.inf))
        return ("inf", infinite) if infinite else None
    return None


def _text(h: instrument.Happened, number: int, x: Any, what: str, count: int, nan: bool, inf: bool) -> str:
    backward = h.part == "backward" and h.mode != "hybrid"
    made = f"gradient {number} of" if backward else "result of" if len(h.outputs) == 1 else f"result {number} of"
    said = f"the first {what}, in the {h.part} pass ({h.mode}): {count} of {x.size} elements of the {made} operator "
    said += f"{instrument.title(h)!r}, of shape {x.shape}"
    where = lines.text(h.place)
    said += f", called at {where}. " if where else ". "
    inputs = [("cotangent" if backward else "input", i, v) for i, v in enumerate(h.inputs)]
    inputs += [("input", i, v) for i, v in enumerate(h.operands)]
    came = [(kind, i) for kind, i, v in inputs if v is not x and _wrong(v, nan, inf) is not None]
    told = "; ".join(f"{kind} {i} {_described(v)}" for kind, i, v in inputs if v is not None)
    said += f"It was given: {told}. "
    if came:
        names = ", ".join(f"{kind} {i}" for kind, i in came)
        return said + f"It came in with {names}, which no operator here has made: look at the data and the parameters."
    return said + _advice(h.op)


def _described(x: Any) -> str:
    if not hasattr(x, "shape"):
        return repr(x)
    text = f"{x.shape} {x.dtype}"
    if not x.size or x.dtype.kind not in "fiu":
        return text
    finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    if not finite.size:
        return f"{text}, nothing finite"
    return f"{text} from {float(finite.min()):.4g} to {float(finite.max()):.4g}"


_ADVICE = {
    "log": "log of a negative number is NaN, and its gradient at 0 is infinite: log(maximum(x, eps))",
    "sqrt": "sqrt of a negative number is NaN, and its gradient at 0 is infinite: sqrt(maximum(x, eps))",
    "divide": "0 / 0 and inf / inf are NaN: add eps to the divisor",
    "power": "a negative number to a fractional power is NaN",
    "multiply": "0 * inf is NaN",
    "subtract": "inf - inf is NaN",
    "where": "the gradient of the branch that was not taken is computed too: make that branch safe before where()",
}


def _advice(op: str) -> str:
    return _ADVICE.get(op, "Its inputs are as they should be: it is this operator that made it.").rstrip(".") + "."
