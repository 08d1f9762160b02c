"""Positions in sorted arrays: partitions, searches. Sorting itself is in `shoal.ops.index`."""

from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import specs
from shoal.ops.registry import Array, Op, Shape, Spec, op


def _partitioned(op: Op[Any], x: Spec, *, kth: int | tuple[int, ...], axis: int = -1) -> Spec:
    n = x.shape[specs.axis_of(op, axis, x.ndim)]
    for k in (kth,) if isinstance(kth, int) else kth:
        if not -n <= k < n:
            raise ShapeError(f"{op.name}: kth={k} of axis {axis} of shape {x.shape}; expected {-n} to {n - 1}")
    return Spec(x.shape, np.dtype(np.int64))


@op(_partitioned)
def argpartition(xp: Any, x: Array, kth: int | tuple[int, ...], axis: int = -1) -> Any:
    """Positions that put the ``kth`` smallest element in its place, smaller ones before and larger ones behind it."""
    return xp.argpartition(x, kth, axis=axis)


def _searched(op: Op[Any], x: Spec, values: Any, side: str = "left") -> Spec:
    if not x.ndim:
        raise ShapeError("searchsorted: x must have an axis to search along, got shape ()")
    if side not in ("left", "right"):
        raise ConfigError(f"searchsorted: side must be 'left' or 'right', got {side!r}")
    shape = values.shape if isinstance(values, Spec) else ()
    _check_rows(x.shape, shape)
    return Spec(shape, np.dtype(np.int64))


def _check_rows(x: Shape, values: Shape) -> None:
    if len(x) > 1 and (len(values) != len(x) or values[:-1] != x[:-1]):
        raise ShapeError(f"searchsorted: values of shape {values} must have the leading axes of the rows {x}")


@op(_searched)
def searchsorted(xp: Any, x: Array, values: Array, side: str = "left") -> Any:
    """Where the values would have to go into the sorted x so that it stays sorted, int64.

    Args:
        x: sorted along its last axis. With several axes, each row has its own values.
        values: of any shape; of the leading axes of x, if it has several.
        side: "left" before equal elements, "right" behind them.
    """
    values = xp.asarray(values)
    if x.ndim == 1:
        return xp.asarray(xp.searchsorted(x, values, side=side))
    _check_rows(x.shape, values.shape)
    rows, wanted = x.reshape(-1, x.shape[-1]), values.reshape(-1, values.shape[-1])
    found = xp.empty(wanted.shape, np.int64)
    for i in range(len(rows)):
        found[i] = xp.searchsorted(rows[i], wanted[i], side=side)
    return found.reshape(values.shape)
