"""Optimizers of ONNX's training domain: one step for any number of tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.ops import elementwise
from shoal.ops.onnx.nodes import Call, node

__all__: list[str] = []

TRAINING = "ai.onnx.preview.training"


def _grouped(given: tuple[Any, ...], each: int) -> list[tuple[Any, ...]]:
    """Inputs come kind by kind: all weights, all gradients, all states."""
    n = len(given) // each
    return [tuple(given[kind * n + i] for kind in range(each)) for i in range(n)]


def _spread(results: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(value for kind in zip(*results, strict=True) for value in kind)


def _optimizer(name: str, each: int, step: Callable[..., tuple[Any, ...]]) -> None:
    @node(name, domain=TRAINING, known=[0, 1])
    def apply(c: Call, rate: Any, turn: Any, *given: Any) -> Any:
        r, t = float(c.known(rate, "the rate")), int(c.known(turn, "the step"))
        return _spread([step(c, r, t, *group) for group in _grouped(given, each)])


def _momentum(c: Call, rate: float, t: int, x: Any, g: Any, v: Any) -> tuple[Any, ...]:
    g = g + x * float(c.get("norm_coefficient"))
    alpha, beta = float(c.get("alpha")), float(c.get("beta")) if t > 0 else 1.0
    v = v * alpha + g * beta
    step = g + v * alpha if c.get("mode") == "nesterov" else v
    return x - step * rate, v


def _adagrad(c: Call, rate: float, t: int, x: Any, g: Any, h: Any) -> tuple[Any, ...]:
    r = rate / (1.0 + t * float(c.get("decay_factor", 0.0)))
    g = g + x * float(c.get("norm_coefficient", 0.0))
    h = h + g * g
    return x - g * r / (elementwise.sqrt(h) + float(c.get("epsilon", 1e-6))), h


def _adam(c: Call, rate: float, t: int, x: Any, g: Any, v: Any, h: Any) -> tuple[Any, ...]:
    alpha, beta = float(c.get("alpha", 0.9)), float(c.get("beta", 0.999))
    g = g + x * float(c.get("norm_coefficient", 0.0))
    v, h = v * alpha + g * (1.0 - alpha), h * beta + g * g * (1.0 - beta)
    r = rate * float(np.sqrt(1.0 - beta**t)) / (1.0 - alpha**t) if t > 0 else rate
    new = x - v * r / (elementwise.sqrt(h) + float(c.get("epsilon", 1e-6)))
    return new * (1.0 - float(c.get("norm_coefficient_post", 0.0))), v, h


_optimizer("Momentum", 3, _momentum)
_optimizer("Adagrad", 3, _adagrad)
_optimizer("Adam", 4, _adam)
