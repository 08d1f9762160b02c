"""Control flow that hybridizes: `foreach`, `while_loop`, `cond`, with MXNet's meanings.

Imperatively they are Python's own loops and choices, recorded step by step. While a model is traced each becomes one
call that holds the graph of its body, whatever the number of steps, and has a gradient. In a graph, bodies may use
parameters and whatever was computed before; they cannot write to parameters (running statistics); and random
numbers are other ones than imperatively, though fresh in each step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import autograd, loops
from shoal.ops.graph import trace
from shoal.ops.graph.body import STEP, free_symbols, inside, text_of
from shoal.ops.graph.symbol import Symbol, as_operand, variable
from shoal.ops.graph.tree import leaves, mapped
from shoal.ops.registry import Spec, Traced
from shoal.ops.shape import concatenate, stack
from shoal.ops.tensor import Tensor, array

__all__ = ["cond", "foreach", "while_loop"]


def foreach(body: Callable[[Any, Any], tuple[Any, Any]], data: Any, init_states: Any) -> tuple[Any, Any]:
    """Run ``body`` over the first axis of ``data``.

    Args:
        body: ``body(slice, states)`` returns (outputs, new states); a state keeps its shape and dtype.
        data: a tensor, or a list (tuple, dictionary) of tensors of the same length.
        init_states: a tensor, or a list of tensors.
    Returns:
        (outputs of all steps, stacked along a new first axis; states at the end), nested as ``body`` returns them.
    Raises:
        ShapeError: lengths differ, or (in a graph) a state changes its shape.
    """
    parts = [_traced_or_tensor(x) for x in leaves(data)]
    lengths = sorted({x.shape[0] if x.shape else -1 for x in parts})
    if len(lengths) != 1 or lengths[0] < 0:
        raise ShapeError(f"foreach: data of shapes {[tuple(x.shape) for x in parts]}; they need one length in common")
    if _in_graph(parts, init_states):
        return _foreach_graph(body, data, init_states)
    if not lengths[0]:
        return _none_of(lambda: body(_rebuilt(data, [_like_slice(x) for x in parts]), init_states)[0], 0), init_states
    steps, states = [], init_states
    for t in range(lengths[0]):
        out, states = body(_rebuilt(data, [x[t] for x in parts]), states)
        steps.append(out)
    return _stacked(steps), states


def while_loop(
    cond: Callable[..., Any], func: Callable[..., tuple[Any, Any]], loop_vars: Any, max_iterations: int
) -> tuple[Any, Any]:
    """Run ``func`` while ``cond`` holds.

    Args:
        cond: ``cond(*loop_vars)`` returns a single truth.
        func: ``func(*loop_vars)`` returns (outputs, new loop_vars); outputs may be None or [].
        loop_vars: a list of tensors, or one; each keeps its shape and dtype.
        max_iterations: the loop ends after so many steps at the latest. It bounds the memory of the outputs, and of
            the gradient, which keeps what each step taken needs; a graph holds one step, whatever the number.
    Returns:
        (outputs of all steps, stacked along a new first axis of length ``max_iterations``, zeros after the last step;
        loop_vars at the end).
    Raises:
        ConfigError: ``max_iterations`` is not positive.
        ShapeError: (in a graph) a variable changes its shape, or the condition is not a single truth.
    """
    if max_iterations < 1:
        raise ConfigError(f"while_loop: max_iterations={max_iterations}; it must be at least 1")
    single = not isinstance(loop_vars, (list, tuple))
    names = [loop_vars] if single else list(loop_vars)
    if _in_graph(names, None):
        outputs, final = _while_graph(cond, func, names, max_iterations)
        return outputs, final[0] if single else final
    steps: list[Any] = []
    now = names
    while len(steps) < max_iterations and bool(cond(*now)):
        out, new = func(*now)
        now = list(new) if isinstance(new, (list, tuple)) else [new]
        steps.append(_or_nothing(out))
    if steps:
        outputs = mapped(lambda x: _filled(x, max_iterations), _stacked(steps))
    else:
        outputs = _none_of(lambda: _or_nothing(func(*now)[0]), max_iterations)
    return outputs, now[0] if single else now


def cond(pred: Any, then_func: Callable[..., Any], else_func: Callable[..., Any], inputs: Any = ()) -> Any:
    """What one of two functions returns.

    Args:
        pred: a single truth; or a function of ``inputs`` that returns one.
        then_func, else_func: called with ``inputs``; in a graph both are traced, and must return alike, but one runs.
        inputs: a list of tensors, or one.
    Raises:
        ShapeError: (in a graph) the functions return other shapes or dtypes, or ``pred`` is not a single truth.
    """
    given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    truth = pred(*given) if callable(pred) else pred
    if not (isinstance(truth, Symbol) or (isinstance(truth, Tensor) and trace.active() is not None)):
        return (then_func if bool(truth) else else_func)(*given)
    given = [as_operand(x) for x in given]
    step = variable("step", STEP)
    results = []
    for fn in (then_func, else_func):
        with inside(step, "cond"):
            results.append(fn(*given))
    flat = [_symbols(r) for r in results]
    if len(flat[0]) != len(flat[1]):
        raise ShapeError(f"cond: one function returns {len(flat[0])} tensors, the other {len(flat[1])}")
    free = free_symbols([*flat[0], *flat[1]], [step], whole=True)
    then, orelse = (text_of(f, [step], free, whole=True) for f in flat)
    return _rebuilt(results[0], loops.choice(as_operand(truth), *free, then=then, orelse=orelse))


# -- in a graph


def _in_graph(*trees: Any) -> bool:
    return trace.active() is not None or any(isinstance(x, Symbol) for x in leaves(trees))


def _foreach_graph(body: Callable[[Any, Any], tuple[Any, Any]], data: Any, init_states: Any) -> tuple[Any, Any]:
    parts, states = [as_operand(x) for x in leaves(data)], _symbols(init_states)
    step = variable("step", STEP)
    slices = [variable(f"slice{i}", Spec(x.shape[1:], x.dtype)) for i, x in enumerate(parts)]
    inner = [variable(f"state{i}", x.spec) for i, x in enumerate(states)]
    with inside(step, "foreach"):
        out, new = body(_rebuilt(data, slices), _rebuilt(init_states, inner))
    made, after = _symbols(out), _symbols(new)
    _same_count("foreach", after, states)
    variables = [step, *slices, *inner]
    free = free_symbols([*made, *after], variables)
    text = text_of([*made, *after], variables, free)
    counts = {"data": len(parts), "states": len(states), "outputs": len(made)}
    found = loops.foreach_loop(*parts, *states, *free, body=text, **counts)
    return _rebuilt(out, found[: len(made)]), _rebuilt(new, found[len(made) :])


def _while_graph(
    cond: Callable[..., Any], func: Callable[..., tuple[Any, Any]], names: list[Any], limit: int
) -> tuple[Any, list[Any]]:
    states = _symbols(names)
    step = variable("step", STEP)
    inner = [variable(f"state{i}", x.spec) for i, x in enumerate(states)]
    with inside(step, "while_loop"):
        asked = as_operand(cond(*inner))
        out, new = func(*inner)
    out = _or_nothing(out)
    made, after = _symbols(out), _symbols(new)
    _same_count("while_loop", after, states)
    variables = [step, *inner]
    free = free_symbols([asked, *made, *after], variables)
    found = loops.while_steps(
        *states,
        *free,
        condition=text_of([asked], variables, free),
        body=text_of([*made, *after], variables, free),
        states=len(states),
        outputs=len(made),
        limit=limit,
    )
    return _rebuilt(out, found[: len(made)]), list(found[len(made) : -1])


def _same_count(name: str, new: list[Any], states: list[Any]) -> None:
    if len(new) != len(states):
        raise ShapeError(f"{name}: {len(states)} states go in, and the body returns {len(new)}")


def _symbols(tree: Any) -> list[Symbol]:
    """The values in a tree as symbols; numbers become constants."""
    return [as_operand(array(x) if isinstance(x, (bool, int, float)) else x) for x in leaves(tree)]


# -- nested values


def _traced_or_tensor(x: Any) -> Any:
    return x if isinstance(x, Traced) else Tensor(np.asarray(x))


def _rebuilt(tree: Any, values: Any) -> Any:
    """``tree`` with ``values`` in the place of its own."""
    fresh = iter(values)
    return mapped(lambda _: next(fresh), tree)


def _or_nothing(tree: Any) -> Any:
    return [] if tree is None else tree


def _stacked(steps: list[Any]) -> Any:
    """Trees of outputs, step by step, as one tree of stacked outputs."""
    columns = zip(*(list(leaves(s)) for s in steps), strict=True)
    return _rebuilt(steps[0], [stack([_traced_or_tensor(x) for x in c], axis=0) for c in columns])


def _filled(x: Any, length: int) -> Any:
    """With zeros up to ``length`` along the first axis."""
    if x.shape[0] == length:
        return x
    zeros = Tensor(x.backend.zeros((length - x.shape[0], *x.shape[1:]), x.dtype))
    return concatenate([x, zeros], axis=0)


def _like_slice(x: Any) -> Any:
    return Tensor(x.backend.zeros(x.shape[1:], x.dtype))


def _none_of(outputs: Callable[[], Any], length: int) -> Any:
    """Zeros in the shape of what ``outputs`` returns, for ``length`` steps."""
    with autograd.pause():
        tree = outputs()
    return mapped(lambda x: Tensor(x.backend.zeros((length, *x.shape), x.dtype)), tree)
