"""Operators that hold graphs: loops and choices. `shoal.ops.control` has the functions that make them.

Inputs are first the arrays a loop goes over, then its states, then whatever else its body uses. A gradient runs the
loop once more, keeping what each step's gradient needs, and then back over the steps. Second derivatives unroll.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import recurrent as rec
from shoal.ops.backend import namespace
from shoal.ops.graph.body import STEP, Body, body, unrolled
from shoal.ops.precision import is_float
from shoal.ops.registry import OPERATORS, Array, Op, Spec, op, spec_of
from shoal.ops.tensor import Tensor

__all__ = ["choice", "choice_grad", "foreach_loop", "foreach_loop_grad", "key_at", "while_steps", "while_steps_grad"]


def _as_key(op: Op[Any], key: Spec, step: Spec) -> Spec:
    return Spec(key.shape, key.dtype)


@op(_as_key)
def key_at(xp: Any, key: Array, step: Array) -> Any:
    """A random key for one step of a loop: independent of those of other steps, and of the key itself.

    Args:
        key: from `shoal.ops.random.next_key`.
        step: an integer, from 0.
    """
    words = key.copy()
    words[4] = words[4] + ((step + 1).astype(words.dtype) << 32)  # the worker's upper half, which workers do not reach
    return words


# -- what the loops share


def _slice(x: Spec) -> Spec:
    return Spec(x.shape[1:], x.dtype)


def _specs(*arrays: Any) -> tuple[Spec, ...]:
    return tuple(spec_of(x) for x in arrays)


def _number(xp: Any, t: int) -> Any:
    return xp.asarray(t, dtype=np.int64)


def _wants(specs: Sequence[Any]) -> tuple[bool, ...]:
    """Which inputs have gradients: the step, before them, has none."""
    return (False, *(is_float(s.dtype) for s in specs))


def _floats(values: Sequence[Any]) -> list[Any]:
    return [v for v in values if is_float(v.dtype)]


def _cotangents(xp: Any, g: Sequence[Any], out: Sequence[Any]) -> list[Any]:
    """One for each output of floats; zeros where nothing depends on it."""
    return [xp.zeros_like(o) if c is None else c for c, o in zip(g, out, strict=True) if is_float(o.dtype)]


def _spread(values: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    """``values`` at the places of floats, None elsewhere."""
    given = iter(values)
    return [next(given) if is_float(o.dtype) else None for o in like]


def _grad_spec(op: Op[Any], *inputs: Spec, given: int, **_: Any) -> tuple[Spec, ...]:
    return tuple(s for s in inputs[: len(inputs) - given] if is_float(s.dtype))


def _added(total: list[Any], found: Sequence[Any]) -> None:
    """Add what there is to the totals, of which None is zero."""
    for i, c in enumerate(found):
        if c is not None:
            total[i] = c if total[i] is None else total[i] + c


def _or_zeros(xp: Any, c: Any, like: Any) -> Any:
    return xp.zeros(like.shape, like.dtype) if c is None else xp.array(c, dtype=like.dtype)


# -- foreach


def _foreach_body(inputs: Sequence[Any], text: str, data: int) -> Body:
    specs = _specs(*inputs)
    return body(text, (STEP, *map(_slice, specs[:data]), *specs[data:]))


def _check_states(name: str, new: Sequence[Spec], states: Sequence[Spec]) -> None:
    for i, (a, b) in enumerate(zip(new, states, strict=True)):
        if tuple(a) != tuple(b):
            raise ShapeError(
                f"{name}: state {i} begins with shape {b.shape}, {b.dtype}, and the body returns {a.shape}, {a.dtype}; "
                "a state keeps its shape and dtype"
            )


def _foreach_spec(op: Op[Any], *inputs: Spec, body: str, data: int, states: int, outputs: int) -> tuple[Spec, ...]:
    found = _foreach_body(inputs, body, data).specs
    _check_states("foreach", found[outputs:], inputs[data : data + states])
    length = inputs[0].shape[0]
    return (*(Spec((length, *s.shape), s.dtype) for s in found[:outputs]), *found[outputs:])


@op(_foreach_spec)
def foreach_loop(xp: Any, *inputs: Array, body: str, data: int, states: int, outputs: int) -> Any:
    """A loop over the first axis of some arrays.

    Args:
        inputs: arrays to go over, states, and what else the body uses.
        body: the graph of a step: (step, slices, states, rest) to (outputs, new states).
        data, states, outputs: how many there are of each.
    Returns:
        (outputs of all steps, stacked; states at the end).
    """
    made = _foreach_body(inputs, body, data)
    program, length = made.program(xp), len(inputs[0])
    stacked = [xp.empty((length, *s.shape), s.dtype) for s in made.specs[:outputs]]
    now, rest = list(inputs[data : data + states]), inputs[data + states :]
    for t in range(length):
        found = program(_number(xp, t), *(x[t] for x in inputs[:data]), *now, *rest)
        for into, value in zip(stacked, found, strict=False):
            into[t] = value
        now = found[outputs:]
    return (*stacked, *(xp.array(s) for s in now))


@foreach_loop.vjp
def _foreach_vjp(xp: Any, g: Any, out: Any, *inputs: Any, **attrs: Any) -> Any:
    heads = _cotangents(xp, g, out)
    found = xp.foreach_loop_grad(*inputs, *heads, **attrs, given=len(heads))
    return _spread(found, inputs)


@op(_grad_spec)
def foreach_loop_grad(xp: Any, *inputs: Array, body: str, data: int, states: int, outputs: int, given: int) -> Any:
    """Gradients of `foreach_loop` for its inputs of floats.

    Args:
        inputs: those of `foreach_loop`, then the cotangents of its ``given`` outputs of floats.
    """
    inputs, heads = inputs[: len(inputs) - given], inputs[len(inputs) - given :]
    made = _foreach_body(inputs, body, data)
    joint = made.joint(xp, _wants(inputs))
    runs, now, rest = [], list(inputs[data : data + states]), inputs[data + states :]
    for t in range(len(inputs[0])):
        runs.append(joint.program.start())
        now = runs[-1].forward([_number(xp, t), *(x[t] for x in inputs[:data]), *now, *rest])[outputs:]
    cotangents = _spread(heads, made.specs)
    after = list(cotangents[outputs:])
    along = [xp.zeros(x.shape, x.dtype) if is_float(x.dtype) else None for x in inputs[:data]]
    total: list[Any] = [None] * len(rest)
    for t in range(len(runs) - 1, -1, -1):
        step = [None if c is None else c[t] for c in cotangents[:outputs]]
        grads = _placed(joint.backward(runs.pop(), [*step, *after]), inputs)
        for into, c in zip(along, grads, strict=False):
            if into is not None and c is not None:
                into[t] = c
        after = [
            None if a is None else _or_zeros(xp, c, a) for a, c in zip(after, grads[data : data + states], strict=True)
        ]
        _added(total, grads[data + states :])
    found = [*along, *after, *total]
    return tuple(_or_zeros(xp, c, x) for c, x in zip(found, inputs, strict=True) if is_float(x.dtype))


def _placed(grads: Any, inputs: Sequence[Any]) -> list[Any]:
    """Gradients at the places of the inputs that have them."""
    return [next(grads) if is_float(x.dtype) else None for x in inputs]


@foreach_loop_grad.vjp
def _foreach_grad_vjp(
    xp: Any, g: Any, out: Any, *inputs: Any, body: str, data: int, states: int, outputs: int, given: int
) -> Any:
    count = len(inputs) - given

    def loop(*values: Any) -> Any:
        now, stacked = list(values[data : data + states]), []
        for t in range(values[0].shape[0]):
            found = unrolled(body, [_step(t, values), *(x[t] for x in values[:data]), *now, *values[data + states :]])
            stacked.append(found[:outputs])
            now = found[outputs:]
        joined = [OPERATORS.stack(*s, axis=0) for s in zip(*stacked, strict=True)] or [None] * outputs
        return _only_floats([*joined, *now])

    return rec.second(loop, inputs, count, given, g, lambda c: _of_floats(c, inputs))


def _only_floats(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(v for v in values if v is None or is_float(v.dtype))


def _of_floats(c: Sequence[Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(v for v, x in zip(c, inputs, strict=False) if is_float(x.dtype))


def _step(t: int, values: Sequence[Any]) -> Any:
    """The number of a step beside Tensors or Symbols."""
    first = next((v for v in values if isinstance(v, Tensor)), None)
    return np.asarray(t, np.int64) if first is None else Tensor(namespace(first.data).asarray(t, dtype=np.int64))


# -- while


def _while_spec(
    op: Op[Any], *inputs: Spec, condition: str, body: str, states: int, outputs: int, limit: int
) -> tuple[Spec, ...]:
    found = _while_body(inputs, body).specs
    _check_states("while_loop", found[outputs:], inputs[:states])
    (asked,) = _while_body(inputs, condition).specs
    if any(n != 1 for n in asked.shape):
        raise ShapeError(f"while_loop: the condition gives shape {asked.shape}; it must be a single truth")
    return (*(Spec((limit, *s.shape), s.dtype) for s in found[:outputs]), *found[outputs:], STEP)


def _while_body(inputs: Sequence[Any], text: str) -> Body:
    return body(text, (STEP, *_specs(*inputs)))


@op(_while_spec)
def while_steps(xp: Any, *inputs: Array, condition: str, body: str, states: int, outputs: int, limit: int) -> Any:
    """A loop that goes on while a condition holds, ``limit`` steps at most.

    Args:
        inputs: states, and what else the body and the condition use.
        condition: the graph of the condition: (step, states, rest) to a truth.
        body: the graph of a step: (step, states, rest) to (outputs, new states).
        states, outputs: how many there are of each.
    Returns:
        (outputs of all steps, stacked, zeros after the last; states at the end; number of steps).
    """
    made, ask = _while_body(inputs, body), _while_body(inputs, condition).program(xp)
    program, steps = made.program(xp), 0
    stacked = [xp.zeros((limit, *s.shape), s.dtype) for s in made.specs[:outputs]]
    now, rest = list(inputs[:states]), inputs[states:]
    while steps < limit and bool(ask(_number(xp, steps), *now, *rest)[0]):
        found = program(_number(xp, steps), *now, *rest)
        for into, value in zip(stacked, found, strict=False):
            into[steps] = value
        now, steps = found[outputs:], steps + 1
    return (*stacked, *(xp.array(s) for s in now), _number(xp, steps))


@while_steps.vjp
def _while_vjp(xp: Any, g: Any, out: Any, *inputs: Any, **attrs: Any) -> Any:
    heads = _cotangents(xp, g, out)
    return _spread(xp.while_steps_grad(*inputs, *heads, **attrs, given=len(heads)), inputs)


@op(_grad_spec)
def while_steps_grad(
    xp: Any, *inputs: Array, condition: str, body: str, states: int, outputs: int, limit: int, given: int
) -> Any:
    """Gradients of `while_steps` for its inputs of floats.

    Args:
        inputs: those of `while_steps`, then the cotangents of its ``given`` outputs of floats.
    """
    inputs, heads = inputs[: len(inputs) - given], inputs[len(inputs) - given :]
    made, ask = _while_body(inputs, body), _while_body(inputs, condition).program(xp)
    joint = made.joint(xp, _wants(inputs))
    runs: list[Any] = []
    now, rest = list(inputs[:states]), inputs[states:]
    while len(runs) < limit and bool(ask(_number(xp, len(runs)), *now, *rest)[0]):
        run = joint.program.start()
        now = run.forward([_number(xp, len(runs)), *now, *rest])[outputs:]
        runs.append(run)
    cotangents = _spread(heads, made.specs)
    after, total = list(cotangents[outputs:]), [None] * len(rest)
    for t in range(len(runs) - 1, -1, -1):
        step = [None if c is None else c[t] for c in cotangents[:outputs]]
        grads = _placed(joint.backward(runs.pop(), [*step, *after]), inputs)
        after = [None if a is None else _or_zeros(xp, c, a) for a, c in zip(after, grads[:states], strict=True)]
        _added(total, grads[states:])
    found = [*after, *total]
    return tuple(_or_zeros(xp, c, x) for c, x in zip(found, inputs, strict=True) if is_float(x.dtype))


@while_steps_grad.vjp
def _while_grad_vjp(
    xp: Any,
    g: Any,
    out: Any,
    *inputs: Any,
    condition: str,
    body: str,
    states: int,
    outputs: int,
    limit: int,
    given: int,
) -> Any:
    def loop(*values: Any) -> Any:  # every step up to the limit, of which only those count in which the condition holds
        now, rest, stacked, on = list(values[:states]), values[states:], [], None
        for t in range(limit):
            (asked,) = unrolled(condition, [_step(t, values), *now, *rest])
            asked = OPERATORS.reshape(asked, shape=()).astype("bool")
            on = asked if on is None else OPERATORS.logical_and(on, asked)
            if isinstance(on, Tensor) and not bool(on):
                break
            found = unrolled(body, [_step(t, values), *now, *rest])
            stacked.append([OPERATORS.where(on, o, OPERATORS.zeros_like(o)) for o in found[:outputs]])
            now = [OPERATORS.where(on, a, b) for a, b in zip(found[outputs:], now, strict=True)]
        return _only_floats([*_padded(stacked, outputs, limit), *now])

    return rec.second(loop, inputs, len(inputs) - given, given, g, lambda c: _of_floats(c, inputs))


def _padded(stacked: list[list[Any]], outputs: int, limit: int) -> list[Any]:
    """Outputs of steps, stacked, with zeros up to the limit; None if there are no steps."""
    if not stacked:
        return [None] * outputs
    made = []
    for parts in zip(*stacked, strict=True):
        zeros = [OPERATORS.zeros_like(parts[0])] * (limit - len(parts))
        made.append(OPERATORS.stack(*parts, *zeros, axis=0))
    return made


# -- choice


def _branch(inputs: Sequence[Any], text: str) -> Body:
    return body(text, (STEP, *_specs(*inputs)))


def _choice_spec(op: Op[Any], truth: Spec, *inputs: Spec, then: str, orelse: str) -> tuple[Spec, ...]:
    a, b = _branch(inputs, then).specs, _branch(inputs, orelse).specs
    if a != b:
        raise ShapeError(f"cond: one branch gives {_shown(a)}, the other {_shown(b)}; they must be alike")
    if any(n != 1 for n in truth.shape):
        raise ShapeError(f"cond: the condition has shape {truth.shape}; it must be a single truth")
    return a


def _shown(specs: Sequence[Spec]) -> str:
    return ", ".join(f"{s.shape} {s.dtype}" for s in specs) or "nothing"


@op(_choice_spec)
def choice(xp: Any, truth: Array, *inputs: Array, then: str, orelse: str) -> Any:
    """One of two graphs, as ``truth`` says; the other is not run.

    Args:
        truth: a single element.
        inputs: what the two use.
        then, orelse: graphs of (0, inputs).
    """
    made = _branch(inputs, then if bool(truth) else orelse)
    return tuple(xp.array(o) for o in made.program(xp)(_number(xp, 0), *inputs))


@choice.vjp
def _choice_vjp(xp: Any, g: Any, out: Any, truth: Any, *inputs: Any, then: str, orelse: str) -> Any:
    heads = _cotangents(xp, g, out)
    found = xp.choice_grad(truth, *inputs, *heads, then=then, orelse=orelse, given=len(heads))
    return [None, *_spread(found, inputs)]


def _choice_grad_spec(op: Op[Any], truth: Spec, *inputs: Spec, given: int, **_: Any) -> tuple[Spec, ...]:
    return _grad_spec(op, *inputs, given=given)


@op(_choice_grad_spec)
def choice_grad(xp: Any, truth: Array, *inputs: Array, then: str, orelse: str, given: int) -> Any:
    """Gradients of `choice` for its inputs of floats.

    Args:
        inputs: those of `choice`, then the cotangents of its ``given`` outputs of floats.
    """
    inputs, heads = inputs[: len(inputs) - given], inputs[len(inputs) - given :]
    made = _branch(inputs, then if bool(truth) else orelse)
    joint = made.joint(xp, _wants(inputs))
    run = joint.program.start()
    run.forward([_number(xp, 0), *inputs])
    grads = _placed(joint.backward(run, _spread(heads, made.specs)), inputs)
    return tuple(_or_zeros(xp, c, x) for c, x in zip(grads, inputs, strict=True) if is_float(x.dtype))


@choice_grad.vjp
def _choice_grad_vjp(xp: Any, g: Any, out: Any, truth: Any, *inputs: Any, then: str, orelse: str, given: int) -> Any:
    def both(*values: Any) -> Any:
        if isinstance(values[0], Tensor):
            return _only_floats(unrolled(then if bool(truth) else orelse, [_step(0, values), *values]))
        asked = OPERATORS.reshape(truth, shape=()).astype("bool")
        pairs = (unrolled(text, [_step(0, values), *values]) for text in (then, orelse))
        return _only_floats([OPERATORS.where(asked, a, b) for a, b in zip(*pairs, strict=True)])

    count = len(inputs) - given
    return [None, *rec.second(both, inputs, count, given, g, lambda c: _of_floats(c, inputs))]
