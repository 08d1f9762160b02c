"""The steps of a program, when somebody looks at them, and when one of them fails."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from shoal.ops import instrument, lines
from shoal.ops.graph.ir import Call

__all__ = ["blame", "told"]

Values = list[Any]
StepFn = Callable[[Values], None]


def told(
    steps: Sequence[StepFn], calls: Sequence[Call], slots: Sequence[tuple[list[int], list[int]]], part: str
) -> list[StepFn]:
    """The same steps, each of which is told to whoever looks.

    Args:
        calls: which call each step carries out.
        slots: where its inputs and its outputs are among the values.
        part: "forward" or "backward".
    """

    def watched(step: StepFn, call: Call, inputs: list[int], outputs: list[int]) -> StepFn:
        def run(values: Values) -> None:
            given, began = tuple(values[i] for i in inputs), monotonic()
            step(values)
            ended = monotonic()
            made = tuple(values[i] for i in outputs)
            happened = instrument.Happened(call.op, part, "hybrid", began, ended, given, made, call.attrs, call.line)
            instrument.tell(happened)

        return run

    return [watched(step, call, *places) for step, call, places in zip(steps, calls, slots, strict=True)]


def blame(error: BaseException, call: Call, specs: Sequence[Any], part: str) -> None:
    """Add to ``error`` which operator of a graph it is about, on what, and the user's line.

    Args:
        specs: of the inputs of the call: a Spec, a scalar or None each.
    """
    shapes = ", ".join(f"{s.shape} {s.dtype}" if hasattr(s, "shape") else repr(s) for s in specs)
    where = lines.text(call.line)
    at = f", called at {where}" if where else ""
    lines.noted(error, f"in the {part} part of a hybridized graph, operator {call.op!r} of {shapes}{at}")
