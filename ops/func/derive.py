"""Derivatives of functions: they take a function and return one, and leave no trace in their arguments.

All is reverse mode. A product with the Jacobian (`jvp`) is the derivative of the product with its transpose, which is
linear in the cotangent, so that it costs two backward passes, and needs no further rule of any operator (J. Townsend,
"A new trick for calculating Jacobian vector products", 2017).

Inside `vmap`, a variable is given the axes of all batches that are under way, so that each example has a gradient of
its own. While the outside records (as inside another `grad`), so does all that is done here.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import lines, tape
from shoal.ops.func.batched import Batched, active, arranged, expanded, unwrapped, wrapped
from shoal.ops.graph import trace
from shoal.ops.graph.gradient import gradients
from shoal.ops.graph.symbol import Symbol
from shoal.ops.graph.tree import leaves, mapped
from shoal.ops.registry import OPS, Traced
from shoal.ops.tensor import Tensor, array

__all__ = ["grad", "jvp", "value_and_grad", "vjp"]

Argnums = int | Sequence[int]


def value_and_grad(fn: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """``fn`` as a function that returns its value and the gradient of it.

    Args:
        fn: returns one number, as a tensor of shape (); with ``has_aux``, a pair of that and anything else.
        argnums: with respect to which positional arguments; each may be nested lists, tuples and dictionaries of
            tensors. For an int the gradient has the form of that argument, for several it is a tuple.
        has_aux: whether ``fn`` returns more than the number.
    Returns:
        A function that returns (value, gradient), or ((value, more), gradient).
    Raises:
        ShapeError: the function returned something else than one number.
        DTypeError: an argument holds no floating-point numbers.

    >>> from shoal import np
    >>> value_and_grad(lambda x: (x * x).sum())(np.array([1.0, 2.0]))
    (Tensor(5., dtype=float32), Tensor([2., 4.], dtype=float32))
    """

    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        chosen = chosen_of(argnums, args)
        with trace.mode(recording=True):
            variables = {i: lifted(args[i], f"argument {i}") for i in chosen}
            out = fn(*(variables.get(i, x) for i, x in enumerate(args)), **kwargs)
        out, aux = _with_aux(out, has_aux)
        if not hasattr(out, "shape") or tuple(out.shape) != ():
            got = f"shape {tuple(out.shape)}" if hasattr(out, "shape") else f"{type(out).__name__}"
            raise ShapeError(
                f"grad: the function must return one number, a tensor of shape (), got {got}: take the sum() or "
                "mean(), or use vjp, jacobian or vmap"
            )
        found = pulled([out], [None], [v for i in chosen for v in leaves(variables[i])])
        grads = _filled(found, [variables[i] for i in chosen])
        value = released(out)
        return ((value, mapped(released, aux)) if has_aux else value), grads[0] if isinstance(argnums, int) else grads

    return run


def grad(fn: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """``fn`` as a function that returns its gradient; with ``has_aux``, (gradient, more). See `value_and_grad`.

    >>> from shoal import np
    >>> grad(grad(lambda x: x ** 3))(np.array(2.0))
    Tensor(12., dtype=float32)
    """
    both = value_and_grad(fn, argnums, has_aux)

    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        value, grads = both(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return run


def vjp(fn: Callable[..., Any], *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of ``fn``, and a function that multiplies by the transpose of its Jacobian.

    Args:
        primals: the arguments, tensors or nested containers of tensors.
        has_aux: ``fn`` returns a pair of its value and anything else.
    Returns:
        (value, pull), or (value, pull, more). ``pull(cotangent)`` takes a cotangent in the form of the value, and
        returns a tuple of one gradient per argument; it can be called any number of times.
    """
    with trace.mode(recording=True):
        variables = [lifted(x, f"argument {i}") for i, x in enumerate(primals)]
        out, aux = _with_aux(fn(*variables), has_aux)
    heads = list(leaves(out))
    targets = [v for tree in variables for v in leaves(tree)]

    def pull(cotangents: Any) -> tuple[Any, ...]:
        """One gradient per argument, for a cotangent in the form of the value."""
        return _filled(pulled(heads, _like(cotangents, out, "cotangent", "the value"), targets), variables)

    value = mapped(released, out)
    return (value, pull, mapped(released, aux)) if has_aux else (value, pull)


def jvp(
    fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """The value of ``fn``, and its Jacobian times a vector: how fast the value changes in a direction.

    Args:
        primals: a tuple of the arguments.
        tangents: a tuple of the directions, in the form of ``primals``.
        has_aux: ``fn`` returns a pair of its value and anything else.
    Returns:
        (value, derivative), or (value, derivative, more).
    """
    if not isinstance(primals, (list, tuple)) or not isinstance(tangents, (list, tuple)):
        raise ConfigError("jvp: primals and tangents are tuples, with one entry for each argument: jvp(f, (x,), (v,))")
    with trace.mode(recording=True):
        variables = [lifted(x, f"argument {i}") for i, x in enumerate(primals)]
        out, aux = _with_aux(fn(*variables), has_aux)
        heads = list(leaves(out))
        followed = [i for i, h in enumerate(heads) if is_followed(h)]
        cotangents = {i: lifted(OPS["ones_like"](heads[i]), "a result") for i in followed}
        targets = [v for tree in variables for v in leaves(tree)]
        backs = pulled([heads[i] for i in followed], [cotangents[i] for i in followed], targets)
    directions = _like(tuple(tangents), tuple(variables), "tangents", "primals")
    pairs = [(b, d) for b, d in zip(backs, directions, strict=True) if b is not None and is_followed(b)]
    found = pulled([b for b, _ in pairs], [d for _, d in pairs], list(cotangents.values())) if pairs else []
    moved = dict(zip(followed, found, strict=False)) if pairs else {}
    slopes = iter([_or_zeros(moved.get(i), released(h)) for i, h in enumerate(heads)])
    value = mapped(released, out)
    slope = mapped(lambda _: next(slopes), out)
    return (value, slope, mapped(released, aux)) if has_aux else (value, slope)


# -- variables and cotangents, on the tape, in a graph, and under vmap


def lifted(tree: Any, name: str) -> Any:
    """The values in ``tree`` as variables: the same numbers, from which on derivatives are followed.

    Raises:
        DTypeError: a value holds no floating-point numbers.
    """
    return mapped(lambda x: _lifted(x, name), tree)


def _lifted(x: Any, name: str) -> Any:
    x = x if isinstance(x, Traced) else array(x)
    if x.dtype.kind not in "fcV":  # V: the floats of ml_dtypes
        raise DTypeError(
            f"{lines.user_line()}: {name} holds {x.dtype}, and has no gradient; convert it with astype('float32'), or "
            "leave it out of argnums"
        )
    levels = active()
    value = expanded(x, levels)
    copy = OPS["copy"]
    if isinstance(value, Symbol):
        value = copy(value)
    elif value.node is not None:  # it stays connected with what it was computed from
        value = Tensor(value.data, tape.Node(copy, (value,), {}, value.data))
    else:
        value = Tensor(value.data, tape.Leaf(None, "write"))
    return wrapped(value, levels)


def is_followed(x: Any) -> bool:
    """Whether ``x`` may depend on a variable."""
    value, _ = unwrapped(x)
    return isinstance(value, Symbol) or getattr(value, "node", None) is not None


def released(x: Any) -> Any:
    """A result for the outside: a constant, unless the outside records too."""
    if tape.state.recording or not isinstance(x, Traced):
        return x
    value, levels = unwrapped(x)
    return wrapped(value.detach(), levels) if isinstance(value, Tensor) else x


def pulled(heads: Sequence[Any], cotangents: Sequence[Any], targets: Sequence[Any]) -> list[Any]:
    """Gradients of ``targets``, which may be under `vmap`, from cotangents of ``heads``, which may be so too.

    Args:
        cotangents: one per head, of its shape; None for ones.
    Returns:
        One per target; None where no head depends on it.
    """
    ends = [unwrapped(t) for t in targets]
    tops, given = [], []
    for head, g in zip(heads, cotangents, strict=True):
        if is_followed(head):
            value, levels = unwrapped(head)
            tops.append(value)
            given.append(OPS["ones_like"](value.detach()) if g is None else _lowered(g, levels, value))
    if not tops:
        return [None] * len(targets)
    found = _backward(tops, given, [value for value, _ in ends])
    return [None if g is None else _raised(g, levels) for g, (_, levels) in zip(found, ends, strict=True)]


def _backward(heads: list[Any], cotangents: list[Any], targets: list[Any]) -> list[Any]:
    if any(isinstance(x, Symbol) for x in (*heads, *targets)):
        return list(gradients(heads, cotangents, targets))
    recording = tape.state.recording
    create = recording or any(isinstance(g, Batched) for g in cotangents)
    with trace.mode(recording=recording):
        raw = cotangents if create else [g.data for g in cotangents]
        found = tape.backward(heads, raw, targets, retain=True, create=create)
    assert found is not None
    if create:
        return found
    return [None if g is None else Tensor(np.array(g) if np.isscalar(g) else g.copy()) for g in found]


def _lowered(g: Any, levels: Sequence[Any], head: Any) -> Any:
    """A cotangent for the innermost value of a head: with the axes of its levels, and under further ones as before."""
    g = g if isinstance(g, Traced) else Tensor(np.asarray(g))
    if g.dtype != head.dtype:
        g = g.astype(head.dtype)
    value, have = unwrapped(g)
    more = tuple(level for level in have if level not in levels)
    return wrapped(arranged(value, have, (*more, *levels)), more)


def _raised(g: Any, levels: Sequence[Any]) -> Any:
    """The gradient of an innermost value, under its levels again, and those that the cotangent had besides."""
    value, more = unwrapped(g)
    want = sorted((*more, *levels), key=lambda level: level.number)
    return wrapped(arranged(value, (*more, *levels), want), want)


# -- forms


def chosen_of(argnums: Argnums, args: tuple[Any, ...]) -> list[int]:
    """The positions that ``argnums`` means.

    Raises:
        ConfigError: there is no such argument.
    """
    wanted = [argnums] if isinstance(argnums, int) else list(argnums)
    for i in wanted:
        if not -len(args) <= i < len(args):
            raise ConfigError(f"argnums {argnums} names argument {i}, but there are {len(args)} positional arguments")
    return [i % len(args) for i in wanted]


def _with_aux(out: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        return out, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise ConfigError(f"has_aux=True: the function must return a pair, (value, more), got {type(out).__name__}")
    return out


def _like(tree: Any, form: Any, what: str, of: str) -> list[Any]:
    """The values in ``tree``, which must have the form and the shapes of those in ``form``."""
    values, wanted = list(leaves(tree)), list(leaves(form))
    if len(values) != len(wanted):
        raise ShapeError(f"{what} has {len(values)} tensors, {of} has {len(wanted)}")
    for x, y in zip(values, wanted, strict=True):
        if getattr(x, "shape", ()) != getattr(y, "shape", ()):
            raise ShapeError(f"{what} of shape {getattr(x, 'shape', ())}, but {of} has shape {getattr(y, 'shape', ())}")
    return values


def _filled(found: Sequence[Any], trees: Sequence[Any]) -> tuple[Any, ...]:
    """The gradients in the form of the variables; zeros where there is none."""
    fresh = iter(found)
    return tuple(mapped(lambda v: _or_zeros(next(fresh), v), tree) for tree in trees)


def _or_zeros(g: Any, like: Any) -> Any:
    if g is not None:
        return g
    value, levels = unwrapped(like if isinstance(like, Traced) else array(like))
    return wrapped(OPS["zeros_like"](value.detach()), levels)
