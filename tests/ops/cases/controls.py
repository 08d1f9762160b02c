"""Cases of the operators that hold graphs: loops and choices."""

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.ops.elementwise import exp, tanh
from shoal.ops.graph.body import STEP, free_symbols, text_of
from shoal.ops.graph.symbol import Symbol, variable
from shoal.ops.registry import Spec
from shoal.ops.trigonometric import sin
from tests.ops.cases.making import Case, case, key

F = np.dtype(np.float64)


def body(fn: Callable[..., list[Any]], *shapes: tuple[int, ...]) -> str:
    """The text of a body: ``fn`` of the step and inputs of these shapes."""
    inputs = [variable(f"x{i}", Spec(s, F)) for i, s in enumerate(shapes)]
    step = variable("step", STEP)
    outputs: list[Symbol] = fn(step, *inputs)
    assert not free_symbols(outputs, [step, *inputs])
    return text_of(outputs, [step, *inputs], [])


def _scan(step: Any, x: Any, state: Any, w: Any) -> list[Any]:
    new = tanh(x * w + state)
    return [new * x, new]


def _growing(step: Any, state: Any, w: Any) -> list[Any]:
    return [sin(state), state * w + 1.0]


SCAN = {"body": body(_scan, (2,), (2,), (2,)), "data": 1, "states": 1, "outputs": 1}
WHILE = {
    "condition": body(lambda step, state, w: [step < 3], (2,), (2,)),
    "body": body(_growing, (2,), (2,)),
    "states": 1,
    "outputs": 1,
    "limit": 5,
}
BRANCHES = {
    "then": body(lambda step, x, y: [x * x * y, exp(y)], (3,), (3,)),
    "orelse": body(lambda step, x, y: [sin(x), y * 2.0], (3,), (3,)),
}


def yes(rng: Any) -> Any:
    return np.array(True)


def no(rng: Any) -> Any:
    return np.array(False)


CASES: dict[str, list[Case]] = {
    "key_at": [case(key, lambda rng: np.array(3))],
    "foreach_loop": [case((4, 2), (2,), (2,), empty=((0, 2), (2,), (2,)), **SCAN)],
    "foreach_loop_grad": [case((4, 2), (2,), (2,), (4, 2), (2,), given=2, **SCAN)],
    "while_steps": [case((2,), (2,), low=0.5, high=1.5, **WHILE)],
    "while_steps_grad": [case((2,), (2,), (5, 2), (2,), low=0.5, high=1.5, given=2, **WHILE)],
    "choice": [case(yes, (3,), (3,), **BRANCHES), case(no, (3,), (3,), **BRANCHES)],
    "choice_grad": [
        case(yes, (3,), (3,), (3,), (3,), given=2, **BRANCHES),
        case(no, (3,), (3,), (3,), (3,), given=2, **BRANCHES),
    ],
}

NO_GRADIENT = frozenset(["key_at"])
