"""Branches and loops: sub-graphs that are run as often as their conditions say, one by one."""

from typing import Any

import numpy as np

from shoal.ops import shape as shaping
from shoal.ops.onnx.nodes import Call, node
from shoal.ops.onnx.proto import Graph

__all__: list[str] = []


@node("If", known=[0])
def if_(c: Call, condition: Any) -> Any:
    """One of two graphs."""
    chosen = c.get("then_branch") if bool(c.known(condition, "the condition")) else c.get("else_branch")
    return tuple(c.run(chosen, {}))


@node("Loop", known=[0, 1])
def loop(c: Call, count: Any, condition: Any, *states: Any) -> Any:
    """A graph again and again: at most ``count`` times, as long as its condition holds."""
    body: Graph = c.get("body")
    most = None if count is None else int(c.known(count, "the number of turns"))
    going = True if condition is None else bool(c.known(condition, "the condition"))
    carried, turn = list(states), 0
    kept: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    while going and (most is None or turn < most):
        given = dict(zip(body.inputs, [np.array(turn, np.int64), np.array(going), *carried], strict=True))
        more, *made = c.run(body, given)
        going, carried = bool(c.known(more, "the condition")), made[: len(carried)]
        for row, value in zip(kept, made[len(carried) :], strict=True):
            row.append(value)
        turn += 1
    return (*carried, *(_stacked(row) for row in kept))


def _stacked(row: list[Any], axis: int = 0) -> Any:
    return shaping.stack(row, axis=axis) if row else np.zeros((0,), np.float32)


@node("Scan")
def scan(c: Call, *given: Any) -> Any:
    """A graph for each step of some inputs, with states from step to step."""
    if c.opset < 9:
        return _scan_of_batches(c, given[1:])
    return tuple(_scanned(c, list(given)))


def _scanned(c: Call, given: list[Any]) -> list[Any]:
    body: Graph = c.get("body")
    n = int(c.get("num_scan_inputs"))
    states, inputs = given[: len(given) - n], given[len(given) - n :]
    axes = [a % x.ndim for a, x in zip(c.get("scan_input_axes", (0,) * n), inputs, strict=True)]
    backward = c.get("scan_input_directions", c.get("directions", (0,) * n))
    steps = int(inputs[0].shape[axes[0]])
    kept: list[list[Any]] = [[] for _ in range(len(body.outputs) - len(states))]
    for t in range(steps):
        parts = []
        for x, axis, back in zip(inputs, axes, backward, strict=True):
            key = (slice(None),) * axis + (steps - 1 - t if back else t,)
            parts.append(x[key])
        made = c.run(body, dict(zip(body.inputs, [*states, *parts], strict=True)))
        states, rows = made[: len(states)], made[len(states) :]
        for row, value in zip(kept, rows, strict=True):
            row.append(value)
    out_axes = c.get("scan_output_axes", (0,) * len(kept))
    turned = c.get("scan_output_directions", (0,) * len(kept))
    stacked = [
        _stacked(row[::-1] if back else row, axis) for row, axis, back in zip(kept, out_axes, turned, strict=True)
    ]
    return [*states, *stacked]


def _scan_of_batches(c: Call, given: tuple[Any, ...]) -> Any:
    """Opset 8: the first axis is a batch, each sample by itself."""
    rows = [_scanned(c, [x[i] for x in given]) for i in range(int(given[0].shape[0]))]
    return tuple(shaping.stack(list(column), axis=0) for column in zip(*rows, strict=True))
