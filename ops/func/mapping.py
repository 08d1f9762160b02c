"""`vmap`: a function of one example, applied to a batch at once."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops.func.batched import Batched, Level, entered
from shoal.ops.graph.tree import leaves, mapped
from shoal.ops.registry import OPS, Traced
from shoal.ops.tensor import Tensor

__all__ = ["vmap"]

Axes = Any
"""An int, None, or lists, tuples and dictionaries of these in the form of what they are about."""


def vmap(
    fn: Callable[..., Any],
    in_axes: Axes = 0,
    out_axes: Axes = 0,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """``fn`` of one example as a function of a batch: no loop, each operator is applied to the whole batch.

    Args:
        fn: takes and returns tensors, nested in lists, tuples and dictionaries. It may use gradients (`grad`,
            `jacobian`, ...) and `vmap` inside, and all operators; an operator without a rule for batches is applied to
            one example after the other, and a warning says so once.
        in_axes: along which axis the batch of each positional argument is; None: it is the same for all examples.
            One for all arguments, or a tuple with one for each, each of which may be in the form of its argument.
            Keyword arguments are the same for all examples.
        out_axes: where the batch is in the results.
        randomness: what random operators such as dropout do: "error" refuse, "different" draw for each example, "same"
            draw once.
        chunk_size: examples that are computed at once; all by default.
    Raises:
        ShapeError: the arguments have batches of different sizes, or an axis that is not there.
        ConfigError: no argument has a batch, or an option is unknown.

    >>> from shoal import np
    >>> vmap(lambda x, y: (x * y).sum())(np.ones((3, 2)), np.ones((3, 2)))
    Tensor([2., 2., 2.], dtype=float32)
    """
    if randomness not in ("error", "different", "same"):
        raise ConfigError(f"vmap: randomness must be 'error', 'different' or 'same', got {randomness!r}")
    if chunk_size is not None and chunk_size < 1:
        raise ConfigError(f"vmap: chunk_size must be at least 1, got {chunk_size}")

    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        axes = _axes_of(in_axes, args)
        size = _size(args, axes)
        if chunk_size is None or size <= chunk_size:
            return _run(fn, args, kwargs, axes, out_axes, size, randomness)
        parts = []
        for start in range(0, size, chunk_size):
            part = [_part(x, a, start, min(start + chunk_size, size)) for x, a in _pairs(args, axes)]
            given = _like(args, part)
            parts.append(_run(fn, given, kwargs, axes, out_axes, min(chunk_size, size - start), randomness))
        return _joined(parts, out_axes)

    return run


def _run(
    fn: Callable[..., Any], args: Any, kwargs: Any, axes: list[Any], out_axes: Axes, size: int, randomness: str
) -> Any:
    with entered(size, randomness) as level:
        given = [x if a is None else _put_in(x, a, level) for x, a in _pairs(args, axes)]
        out = fn(*_like(args, given), **kwargs)
        flat = [_take_out(x, a, level) for x, a in _pairs(out, _spread(out_axes, out, "out_axes"))]
    return _like(out, flat)


def _put_in(x: Any, axis: int, level: Level) -> Any:
    x = x if isinstance(x, Traced) else Tensor(x)
    return Batched(OPS["moveaxis"](x, source=axis, destination=0) if axis % x.ndim else x, level)


def _take_out(x: Any, axis: int | None, level: Level) -> Any:
    """A result, with the batch along ``axis``; one that does not depend on the batch is repeated, unless None."""
    if isinstance(x, Batched) and x.level is level:
        if axis is None:
            raise ConfigError(
                f"vmap: a result of shape {x.shape} depends on the example, and out_axes is None for it: give the axis "
                "that the batch is to be along"
            )
        return OPS["moveaxis"](x.value, source=0, destination=axis) if axis else x.value
    if x is None or axis is None:
        return x
    x = x if isinstance(x, Traced) else Tensor(x)
    whole = OPS["broadcast_to"](x, shape=(level.size, *x.shape))
    return OPS["moveaxis"](whole, source=0, destination=axis) if axis else whole


def _axes_of(in_axes: Axes, args: tuple[Any, ...]) -> list[Any]:
    """One axis for each value in the arguments."""
    if isinstance(in_axes, (list, tuple)) and len(in_axes) != len(args):
        raise ConfigError(f"vmap: in_axes has {len(in_axes)} entries for {len(args)} arguments")
    if not args:
        raise ConfigError(
            "vmap: the function was called without a positional argument; keyword arguments have no batch"
        )
    return _spread(tuple(in_axes) if isinstance(in_axes, list) else in_axes, args, "in_axes")


def _spread(axes: Axes, tree: Any, name: str) -> list[Any]:
    """One axis for each value in ``tree``: ``axes`` is a prefix of it."""
    if axes is None or isinstance(axes, int):
        return [axes for _ in leaves(tree)]
    same = isinstance(axes, dict) == isinstance(tree, dict) and isinstance(tree, (list, tuple, dict))
    if not same or len(axes) != len(tree) or (isinstance(axes, dict) and axes.keys() != tree.keys()):
        raise ConfigError(f"vmap: {name} {axes!r} is not in the form of what it is about, {type(tree).__name__}")
    pairs = [(axes[k], v) for k, v in tree.items()] if isinstance(tree, dict) else zip(axes, tree, strict=True)
    return [found for a, v in pairs for found in _spread(a, v, name)]


def _pairs(tree: Any, axes: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(leaves(tree), axes, strict=True))


def _like(tree: Any, values: list[Any]) -> Any:
    fresh = iter(values)
    return mapped(lambda _: next(fresh), tree)


def _size(args: tuple[Any, ...], axes: list[Any]) -> int:
    sizes = {}
    for number, (x, axis) in enumerate(_pairs(args, axes)):
        if axis is None:
            continue
        if not isinstance(x, (Traced, np.ndarray)) and not hasattr(x, "shape"):
            raise ConfigError(
                f"vmap: value {number} of the arguments is {x!r}, of type {type(x).__name__}, which has no batch: give "
                "None for it in in_axes, or pass it by keyword"
            )
        if not -len(x.shape) <= axis < len(x.shape):
            raise ShapeError(f"vmap: value {number} of the arguments has shape {tuple(x.shape)}, and no axis {axis}")
        sizes[number] = x.shape[axis]
    if not sizes:
        raise ConfigError("vmap: in_axes is None for all arguments, so that there is no batch")
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{n} examples in value {number}" for number, n in sizes.items())
        raise ShapeError(f"vmap: the arguments have batches of different sizes: {said}")
    return int(next(iter(sizes.values())))


def _part(x: Any, axis: int | None, start: int, stop: int) -> Any:
    if axis is None:
        return x
    x = x if isinstance(x, Traced) else Tensor(x)
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop),)]


def _joined(parts: list[Any], out_axes: Axes) -> Any:
    axes = _spread(out_axes, parts[0], "out_axes")
    columns = zip(*(leaves(p) for p in parts), strict=True)
    flat = [
        c[0] if a is None or c[0] is None else OPS["concatenate"](*c, axis=a)
        for c, a in zip(columns, axes, strict=True)
    ]
    return _like(parts[0], flat)
