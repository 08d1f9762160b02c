"""The operator ``fused``: several element-wise operators as one call, so that a kernel passes over memory once.

Its ``body`` is the program that it stands for: one step per operator, ``(name, operands, attributes)``. An operand is
``"i2"`` (the input number 2), ``"t5"`` (the result of step 5), a number, or None. The results of the steps ``results``
are the outputs. Without a kernel the steps are carried out one by one, which is also what kernels are compared with.
"""

from collections.abc import Callable, Sequence
from typing import Any

from shoal.errors import GraphError
from shoal.ops.precision import is_float, narrow_numbers
from shoal.ops.registry import OPS, Array, Op, Spec, op

__all__ = ["carry_out", "fused", "steps_of"]

OTHERS = frozenset(["broadcast_to", "sum", "mean", "max", "min", "sum_to", "reshape", "expand_dims", "squeeze"])
"""Operators that bodies may have though they are not element-wise: `fused` the first, `fused_rows` all."""

Body = tuple[tuple[str, tuple[Any, ...], tuple[tuple[str, Any], ...]], ...]


def _infer(op: Op[Any], *specs: Any, body: Body, results: Sequence[int]) -> tuple[Spec, ...]:
    inferred = carry_out(body, specs, lambda name, inputs, attrs: OPS[name].infer(*inputs, **attrs))
    return tuple(inferred[n] for n in results)


@op(_infer, elementwise=True)
def fused(xp: Any, *arrays: Array, body: Body, results: Sequence[int]) -> Any:
    """Element-wise operators carried out together.

    Args:
        body: the steps.
        results: which of their results are the outputs; always a tuple.
    """
    values = carry_out(body, arrays, lambda name, inputs, attrs: _forward(xp, name, inputs, attrs))
    return tuple(values[n] for n in results)


def _forward(xp: Any, name: str, inputs: Sequence[Any], attrs: dict[str, Any]) -> Any:
    return OPS[name].forward(xp, *narrow_numbers(list(inputs), OPS[name].ufunc), **attrs)


@op(_infer)
def fused_rows(xp: Any, *arrays: Array, body: Body, results: Sequence[int]) -> Any:
    """Element-wise operators and reductions over the last axis carried out together; see `fused`."""
    values = carry_out(body, arrays, lambda name, inputs, attrs: OPS[name].forward(xp, *inputs, **attrs))
    return tuple(values[n] for n in results)


def _fused_vjp(xp: Any, g: Any, out: Any, *arrays: Any, body: Body, results: Sequence[int]) -> Any:
    steps = steps_of(body)
    values = carry_out(body, arrays, lambda name, inputs, attrs: getattr(xp, name)(*inputs, **attrs))
    found: dict[str, Any] = {}
    for n, c in zip(results, g, strict=True):
        if c is not None:
            _add(found, f"t{n}", c)
    for n in reversed(range(len(steps))):
        name, operands, attrs = steps[n]
        c = found.pop(f"t{n}", None)
        if c is None or OPS[name].rule is None:
            continue
        inputs = [_operand(x, arrays, values) for x in operands]
        needed = [isinstance(x, str) and is_float(v.dtype) for x, v in zip(operands, inputs, strict=True)]
        for x, part in zip(operands, OPS[name].cotangents(xp, c, values[n], inputs, attrs, needed), strict=True):
            if part is not None:
                _add(found, x, part)
    return tuple(found.get(f"i{n}") for n in range(len(arrays)))


fused.vjp(_fused_vjp)
fused_rows.vjp(_fused_vjp)


def _add(found: dict[str, Any], to: str, c: Any) -> None:
    found[to] = found[to] + c if to in found else c


def _operand(x: Any, inputs: Sequence[Any], values: Sequence[Any]) -> Any:
    return (inputs if x[0] == "i" else values)[int(x[1:])] if isinstance(x, str) else x


def carry_out(body: Body, inputs: Sequence[Any], apply: Callable[[str, list[Any], dict[str, Any]], Any]) -> list[Any]:
    """What ``apply`` gives for each step of a body.

    Raises:
        GraphError: the body refers to what does not exist.
    """
    values: list[Any] = []
    for name, operands, attrs in steps_of(body):
        try:
            found = [_operand(x, inputs, values) for x in operands]
        except (IndexError, ValueError):
            raise GraphError(
                f"fused: step {len(values)} ({name}) refers to {operands}; inputs: {len(inputs)}"
            ) from None
        values.append(apply(name, found, attrs))
    return values


def steps_of(body: Body) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """The steps of a body, with their attributes as dictionaries.

    Raises:
        GraphError: a step is no operator that can be fused.
    """
    for name, _, _ in body:
        if name not in OPS or not (OPS[name].elementwise or name in OTHERS) or name == "fused":
            raise GraphError(
                f"fused: {name!r} is neither an element-wise operator nor one of {', '.join(sorted(OTHERS))}"
            )
    return [(name, operands, dict(attrs)) for name, operands, attrs in body]
