"""Jacobians, Hessians, and products with Hessians."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.func import derive
from shoal.ops.func.mapping import vmap
from shoal.ops.graph.tree import leaves, mapped
from shoal.ops.registry import OPS
from shoal.ops.tensor import Tensor, array

__all__ = ["hessian", "hvp", "jacfwd", "jacobian", "jacrev"]

Argnums = derive.Argnums


def jacrev(
    fn: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """``fn`` as a function that returns its Jacobian, row by row: best where results are smaller than arguments.

    All rows are computed at once, by `vmap` over the backward pass.

    Args:
        fn: takes and returns tensors, nested in lists, tuples and dictionaries.
        argnums: with respect to which positional arguments.
        has_aux: ``fn`` returns a pair of its value and anything else; the function returns (Jacobian, more).
        chunk_size: rows that are computed at once; all by default.
    Returns:
        A function that returns, in the form of the value, in the form of the arguments, tensors of the shape of that
        part of the value followed by the shape of that part of the arguments.

    >>> from shoal import np
    >>> jacrev(lambda x: x * x)(np.array([1.0, 2.0]))
    Tensor([[2., 0.],
            [0., 4.]], dtype=float32)
    """

    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        partial, chosen = _of_chosen(fn, argnums, args, kwargs)
        value, pull, *aux = derive.vjp(partial, *chosen, has_aux=has_aux)
        outs = [x if hasattr(x, "shape") else Tensor(np.asarray(x)) for x in leaves(value)]
        rows = _units([o.shape for o in outs], [o.dtype for o in outs])
        found = vmap(lambda *g: pull(_formed(g, value)), chunk_size=chunk_size)(*rows)
        made = _formed(_cut(found, outs), value)  # one tree of gradients per part of the value
        result = mapped(lambda grads: grads.tree if not isinstance(argnums, int) else grads.tree[0], made)
        return (result, aux[0]) if has_aux else result

    return run


def jacfwd(
    fn: Callable[..., Any], argnums: Argnums = 0, *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """``fn`` as a function that returns its Jacobian, column by column: best where results are larger than arguments.

    The same as `jacrev`, by `vmap` over `jvp`.
    """

    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        partial, chosen = _of_chosen(fn, argnums, args, kwargs)
        ins = list(leaves(chosen))
        columns = _units([x.shape for x in ins], [x.dtype for x in ins])

        def along(*directions: Any) -> Any:
            _, *found = derive.jvp(partial, chosen, _formed(directions, chosen), has_aux=has_aux)
            return found[0], found[1:]

        slopes, aux = vmap(along, out_axes=(-1, 0), chunk_size=chunk_size)(*columns)
        made = mapped(lambda s: _Tree(_formed(_blocks(s, ins), chosen)), slopes)
        result = mapped(lambda grads: grads.tree if not isinstance(argnums, int) else grads.tree[0], made)
        return (result, mapped(lambda x: x[0], aux[0])) if has_aux else result

    return run


def jacobian(
    fn: Callable[..., Any],
    argnums: Argnums = 0,
    *,
    mode: str = "reverse",
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """`jacrev`, or with ``mode="forward"`` `jacfwd`."""
    if mode not in ("reverse", "forward"):
        raise ConfigError(f"jacobian: mode must be 'reverse' or 'forward', got {mode!r}")
    make = jacrev if mode == "reverse" else jacfwd
    return make(fn, argnums, has_aux=has_aux, chunk_size=chunk_size)


def hessian(fn: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """``fn`` as a function that returns its second derivatives: the Jacobian of its Jacobian.

    >>> from shoal import np
    >>> hessian(lambda x: (x ** 3).sum())(np.array([1.0, 2.0]))
    Tensor([[ 6.,  0.],
            [ 0., 12.]], dtype=float32)
    """
    return jacrev(jacrev(fn, argnums), argnums)


def hvp(fn: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """The Hessian of ``fn``, a function that returns one number, times a vector, without computing the Hessian.

    Args:
        primals: a tuple of the arguments; or the only argument.
        tangents: the vector, in the form of ``primals``.
    Returns:
        As ``primals``.
    """
    single = not isinstance(primals, tuple)
    primals, tangents = ((primals,), (tangents,)) if single else (primals, tangents)
    gradient = derive.grad(fn, tuple(range(len(primals))))

    _, pull = derive.vjp(gradient, *primals)  # the Hessian is its own transpose
    found = pull(tuple(tangents))
    return found[0] if single else found


def _of_chosen(
    fn: Callable[..., Any], argnums: Argnums, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """``fn`` as a function of the chosen arguments, and these."""
    chosen = derive.chosen_of(argnums, args)

    def partial(*variables: Any) -> Any:
        found = dict(zip(chosen, variables, strict=True))
        return fn(*(found.get(i, x) for i, x in enumerate(args)), **kwargs)

    return partial, tuple(mapped(_tensor, args[i]) for i in chosen)


def _tensor(x: Any) -> Any:
    return x if hasattr(x, "shape") and hasattr(x, "astype") and not isinstance(x, np.ndarray) else array(x)


class _Tree:
    """A nested value that counts as one value where it is in another."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _units(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[Any]) -> list[Tensor]:
    """For all elements of arrays of these shapes: 1 at that element, and 0 at all others."""
    sizes = [_size(s) for s in shapes]
    total, start, made = sum(sizes), 0, []
    for shape, dtype, size in zip(shapes, dtypes, sizes, strict=True):
        unit = np.zeros((total, size), dtype)
        unit[np.arange(start, start + size), np.arange(size)] = 1
        made.append(Tensor(unit.reshape(total, *shape)))
        start += size
    return made


def _formed(values: Sequence[Any], form: Any) -> Any:
    fresh = iter(values)
    return mapped(lambda _: next(fresh), form)


def _cut(found: Any, outs: Sequence[Any]) -> list[_Tree]:
    """The rows of the Jacobian that belong to each part of the value."""
    made, start = [], 0
    for out in outs:
        size, shape = _size(out.shape), tuple(out.shape)

        def part(g: Any, start: int = start, size: int = size, shape: tuple[int, ...] = shape) -> Any:
            return OPS["reshape"](g[start : start + size], shape=(*shape, *g.shape[1:]))

        made.append(_Tree(mapped(part, found)))
        start += size
    return made


def _blocks(slopes: Any, ins: Sequence[Any]) -> list[Any]:
    """The columns of the Jacobian, which are its last axis, that belong to each argument."""
    made, start = [], 0
    for x in ins:
        size = _size(x.shape)
        made.append(OPS["reshape"](slopes[..., start : start + size], shape=(*slopes.shape[:-1], *x.shape)))
        start += size
    return made
