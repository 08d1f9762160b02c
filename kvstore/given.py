"""What callers of a store give, in one form: keys as strings, values as NumPy arrays, lists of equal length."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import ConfigError, DTypeError
from shoal.kvstore.arrays import Array, is_float, wire_name
from shoal.kvstore.rows import RowSparse
from shoal.kvstore.wire.schema import ITEM_BYTES

__all__ = ["Key", "as_lists", "chosen_keys", "host_array", "in_place", "key_name", "merge_devices", "multipliers"]

Key: TypeAlias = str | int


def host_array(value: Any) -> Array:
    """The NumPy array of a Tensor, an array, or a number; an array's own memory where it has one.

    One in another byte order than this machine's is copied.

    Raises:
        DTypeError: the value is not numeric, or of a dtype that does not travel.
    """
    _refuse_rows(value)
    data = value if isinstance(value, np.ndarray) else getattr(value, "data", value)
    array = data if isinstance(data, np.ndarray) else np.asarray(value)
    if array.dtype.kind not in "fiub" and not is_float(array.dtype):
        raise DTypeError(f"a store holds numbers; got {type(value).__name__} with dtype {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if wire_name(array.dtype) not in ITEM_BYTES:
        raise DTypeError(f"a store holds numbers of {' '.join(ITEM_BYTES)}; got dtype {array.dtype}: cast it first")
    return array


def _refuse_rows(value: Any) -> None:
    if isinstance(value, RowSparse):
        raise ConfigError("row-sparse values can be pushed, and nothing else: push them, then row_sparse_pull")


def key_name(key: Key) -> str:
    """The name a key travels under; integer keys are as good as strings."""
    if isinstance(key, str) and key:
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    raise ConfigError(f"a key is a non-empty string or an integer, got {key!r}")


def multipliers(given: Mapping[Any, float] | None) -> dict[str, float]:
    """Factors by key name, as they travel."""
    made = {}
    for key, factor in (given or {}).items():
        if isinstance(factor, bool) or not isinstance(factor, int | float | np.number):
            raise ConfigError(f"lr_mult and wd_mult are a number for each key, got {factor!r} for {key!r}")
        made[key_name(key)] = float(factor)
    return made


def as_lists(key: Key | Sequence[Key], *values: Any) -> tuple[list[str], list[list[Any]]]:
    """Keys and values as lists of equal length, whatever form they were given in."""
    if isinstance(key, str | int):
        return [key_name(key)], [[v] for v in values]
    if not isinstance(key, Iterable):
        raise ConfigError(f"a key is a non-empty string or an integer, or a list of such; got {key!r}")
    names = [key_name(k) for k in key]
    columns = []
    for v in values:
        column = [None] * len(names) if v is None else list(v)
        if len(column) != len(names):
            raise ConfigError(f"{len(names)} keys but {len(column)} values; give one value for each key")
        columns.append(column)
    return names, columns


def chosen_keys(keys: Key | Sequence[Key] | None) -> list[str]:
    """The keys that a call is about; none for all of them."""
    if keys is None:
        return []
    if names := as_lists(keys)[0]:
        return names
    raise ConfigError("keys=[] names no key; leave it out to mean all of them")


def merge_devices(value: Any) -> Array:
    """One array from a value that may be a list of them: their sum."""
    if not isinstance(value, list | tuple):
        return host_array(value)
    total: Array | None = None
    for part in [host_array(v) for v in value]:
        total = part.copy() if total is None else np.add(total, part, out=total)
    if total is not None:
        return total
    raise ConfigError("an empty list is not a value")


def in_place(value: Any) -> Any:
    """Where the answer to a push of ``value`` goes when no place was named; None for a new array."""
    _refuse_rows(value)
    return None if isinstance(value, list | tuple | int | float) else value
