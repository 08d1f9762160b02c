"""Checks on what users hand to a store, before anything is sent."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError, DTypeError, KeyNotInitializedError, ShapeError
from shoal.kvstore.arrays import is_float
from shoal.kvstore.rows import RowSparse
from shoal.ops.optim import Optimizer

__all__ = [
    "check_fit",
    "check_mean",
    "check_new",
    "check_own",
    "check_row_push",
    "check_rows_kept",
    "check_rule",
    "check_whole",
    "cut_name",
    "not_initialised",
    "writable",
]


def check_fit(who: str, does: str, key: str, array: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless ``array`` has the key's shape and dtype."""
    if array.shape != shape:
        raise ShapeError(
            f"{who} {does} {key!r} with shape {array.shape}; it was initialised with {shape}. "
            "All workers must build the same model: compare its layer sizes."
        )
    if array.dtype != dtype:
        raise DTypeError(
            f"{who} {does} {key!r} with dtype {array.dtype}; it was initialised with {dtype}. Cast it first."
        )


def not_initialised(key: str) -> KeyNotInitializedError:
    """What is raised for a key that does not exist."""
    return KeyNotInitializedError(f"key {key!r} is not initialised: call kv.init({key!r}, value) first")


def check_mean(who: str, key: str, dtype: np.dtype[Any], reduce: str) -> None:
    """Raise for a push of integers that would be averaged."""
    if reduce == "mean" and not is_float(dtype):
        raise DTypeError(
            f"{who} pushes {key!r} of dtype {dtype} to a store that averages: the mean of integers is no integer. "
            "Create the store with reduce='sum', or initialise the key with floats."
        )


def check_rule(optimizer: Any) -> None:
    """Raise unless it is an optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"set_optimizer({optimizer!r}): expected an optimizer, such as shoal.optim.create('sgd', learning_rate=0.1)"
        )


def check_new(names: Sequence[str], known: Collection[str]) -> None:
    """Raise if one of the keys exists, or is given twice."""
    seen = set(known)
    for name in names:
        if name in seen:
            raise ConfigError(f"key {name!r} is initialised already; push to change it")
        seen.add(name)


def cut_name(fuse: bool, whole: bool, rows: bool, encoded: bool = False) -> str:
    """How keys are declared to be cut; one of `shoal.kvstore.placement.CUTS`.

    Args:
        encoded: what is pushed is compressed.
    Raises:
        ConfigError: the wishes contradict each other.
    """
    if rows and (fuse or whole):
        raise ConfigError(
            f"init with rows=True and {'whole' if whole else 'fuse'}=True: keys that are kept by rows are sliced "
            "between rows, each on its own. Initialise embeddings in a call of their own"
            + (", and give them an optimizer that needs no norm of the whole key." if whole else ".")
        )
    if fuse:
        return "fuse-whole" if whole else "fuse-small" if encoded else "fuse"
    return "rows" if rows else "whole" if whole else ""


def check_rows_kept(names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> None:
    """Raise unless each of these has rows."""
    for name, array in zip(names, arrays, strict=True):
        if array.ndim < 1 or 0 in array.shape[1:]:
            raise ShapeError(f"key {name!r} has shape {array.shape}: rows=True needs rows, and elements in them")


def check_row_push(
    who: str, key: str, value: RowSparse, shape: tuple[int, ...], dtype: np.dtype[Any], cut: str
) -> None:
    """Raise unless ``value`` is some rows of a key that is kept by rows."""
    if cut != "rows":
        raise ConfigError(
            f"{who} pushes rows of {key!r}, which is not kept by rows: initialise it with kv.init({key!r}, value, "
            "rows=True), or push value.dense()"
        )
    if value.shape != shape:
        raise ShapeError(
            f"{who} pushes rows of an array of shape {value.shape} to {key!r}, which was initialised with {shape}"
        )
    if value.dtype != dtype:
        raise DTypeError(
            f"{who} pushes rows of {key!r} with dtype {value.dtype}; it was initialised with {dtype}. Cast them first."
        )


def check_own(fused: Sequence[str]) -> None:
    """Raise if keys that share a slice with others are to have an optimizer of their own."""
    if fused:
        raise ConfigError(
            f"set_optimizer(keys=...): {', '.join(map(repr, fused[:5]))} {'was' if len(fused) == 1 else 'were'} "
            "initialised with fuse=True, and fused keys are updated together: initialise them without fuse, or use "
            "lr_mult and wd_mult"
        )


def check_whole(optimizer: Optimizer, sliced: Sequence[str]) -> None:
    """Raise if an optimizer that must see whole keys is to update keys that are in several slices."""
    if optimizer.whole and sliced:
        why = "clip_norm" if optimizer.clip_norm is not None else f"optimizer {optimizer.name!r}"
        raise ConfigError(
            f"{why} needs the norm of the whole key, but {', '.join(map(repr, sliced[:5]))} "
            f"{'is' if len(sliced) == 1 else 'are'} cut into slices, whose norms are other numbers: initialise with "
            "kv.init(..., whole=True), or call set_optimizer before init"
        )


def writable(who: str, key: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The memory of ``out``, which a pull will write.

    Raises:
        ConfigError: it is not an array or Tensor, is read-only, or is not contiguous.
        ShapeError, DTypeError: it does not fit the key.
    """
    if type(out) is np.ndarray and out.shape == shape and out.dtype == dtype:
        flags = out.flags
        if flags.c_contiguous and flags.writeable:
            return out
    array = getattr(out, "data", out) if not isinstance(out, np.ndarray) else out
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"pull of {key!r}: out must be an array or a Tensor, got {type(out).__name__}")
    check_fit(who, "pulls", key, array, shape, dtype)
    if not array.flags.writeable or not array.flags.c_contiguous:
        raise ConfigError(f"pull of {key!r}: out must be writable and C-contiguous, e.g. np.empty({shape}, '{dtype}')")
    return array
