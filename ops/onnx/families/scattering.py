"""Gathering and scattering by position."""

from typing import Any

import numpy as np

from shoal.ops import elementwise, index
from shoal.ops import shape as shaping
from shoal.ops.onnx.families.arithmetic import cast
from shoal.ops.onnx.nodes import Call, node
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor

__all__: list[str] = []


def _wrapped(where: Any, n: int) -> Any:
    """Negative positions count from the end."""
    where = cast(where, np.dtype(np.int64))
    return elementwise.where(where < 0, where + n, where)


@node("Gather")
def gather(c: Call, x: Any, where: Any) -> Any:
    """Rows, or other parts along an axis."""
    axis = int(c.get("axis", 0))
    return index.take(x, _wrapped(where, int(x.shape[axis])), axis=axis)


@node("GatherElements")
def gather_elements(c: Call, x: Any, where: Any) -> Any:
    """One element for each position, along an axis."""
    axis = int(c.get("axis", 0)) % x.ndim
    key = tuple(slice(0, n) if a != axis else slice(None) for a, n in enumerate(where.shape))
    return index.take_along_axis(x[key], _wrapped(where, int(x.shape[axis])), axis=axis)


@node("GatherND")
def gather_nd(c: Call, x: Any, where: Any) -> Any:
    """Parts at positions of several axes, after some batch axes."""
    batch, shape = int(c.get("batch_dims", 0)), tuple(where.shape)
    at = c.known(where, "the positions").astype(np.int64)
    grid = np.indices(shape[:-1])[:batch]
    parts = [grid[b] for b in range(batch)] + [at[..., i] for i in range(shape[-1])]
    return x[tuple(parts)]


def _scattered(x: Any, key: tuple[Any, ...], updates: Any, how: str) -> Any:
    """x with updates written, added, multiplied or compared in at ``key``."""
    if how == "none" and (isinstance(x, Traced) or isinstance(updates, Traced)):
        return _written(x, key, updates)
    if how == "add" and (isinstance(x, Traced) or isinstance(updates, Traced)):
        return x + _placed(updates, key, tuple(x.shape))
    out = np.array(x.asnumpy() if isinstance(x, Tensor) else x)
    new = np.asarray(updates.asnumpy() if isinstance(updates, Tensor) else updates)
    if how == "none":
        out[key] = new
    else:
        f: Any = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how]
        f.at(out, key, new)
    return out


def _placed(updates: Any, key: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    """Zeros of this shape with updates added at ``key``."""
    flat = np.arange(int(np.prod(shape))).reshape(shape)[key].reshape(-1)
    rows = shaping.reshape(updates, (-1,))
    return shaping.reshape(index.take_add(rows, flat, axis=0, shape=(int(np.prod(shape)),)), shape)


def _written(x: Any, key: tuple[Any, ...], updates: Any) -> Any:
    """With updates in the place of what was there; the last one counts where several meet."""
    shape = tuple(x.shape)
    flat = np.arange(int(np.prod(shape))).reshape(shape)[key].reshape(-1)
    last = np.full(int(np.prod(shape)), -1)
    last[flat] = np.arange(flat.size)
    hit = (last >= 0).reshape(shape)
    values = shaping.reshape(index.take(shaping.reshape(updates, (-1,)), np.maximum(last, 0), axis=0), shape)
    return elementwise.where(hit, values, x)


@node("ScatterElements", "Scatter")
def scatter_elements(c: Call, x: Any, where: Any, updates: Any) -> Any:
    """Updates at one position each, along an axis."""
    axis = int(c.get("axis", 0)) % x.ndim
    at = c.known(where, "the positions").astype(np.int64)
    at = np.where(at < 0, at + int(x.shape[axis]), at)
    key = list(np.indices(at.shape))
    key[axis] = at
    return _scattered(x, tuple(key), updates, c.get("reduction", "none"))


@node("ScatterND")
def scatter_nd(c: Call, x: Any, where: Any, updates: Any) -> Any:
    """Updates of parts at positions of the first axes."""
    at = c.known(where, "the positions").astype(np.int64)
    return _scattered(x, tuple(np.moveaxis(at, -1, 0)), updates, c.get("reduction", "none"))


@node("TensorScatter", known=[2])
def tensor_scatter(c: Call, past: Any, update: Any, where: Any = None) -> Any:
    """A cache with new steps written from a position of each sample on; "linear" or "circular"."""
    axis = int(c.get("axis", -2)) % past.ndim
    batch, steps, size = int(past.shape[0]), int(update.shape[axis]), int(past.shape[axis])
    begin = np.zeros(batch, np.int64) if where is None else c.known(where, "the positions").astype(np.int64)
    at = begin[:, None] + np.arange(steps)[None, :]
    at = at % size if c.get("mode", "linear") == "circular" else at
    shape = [1] * past.ndim
    shape[0], shape[axis] = batch, steps
    key = list(np.indices(tuple(update.shape)))
    key[axis] = np.broadcast_to(at.reshape(shape), tuple(update.shape))
    return _scattered(past, tuple(key), update, "none")


@node("ArrayFeatureExtractor", domain="ai.onnx.ml")
def array_feature_extractor(c: Call, x: Any, where: Any) -> Any:
    """Columns."""
    out = index.take(x, shaping.reshape(where, (-1,)), axis=-1)
    return shaping.reshape(out, (1, -1)) if x.ndim == 1 else out
