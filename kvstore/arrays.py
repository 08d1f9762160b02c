"""Between arrays and payloads, without copying, and the names under which dtypes travel."""

import functools
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from shoal.kvstore.wire.schema import Payload

__all__ = ["BFLOAT16", "Array", "address", "as_array", "as_payload", "dtype_named", "is_float", "wire_name"]

Array: TypeAlias = NDArray[Any]

BFLOAT16: "np.dtype[Any]" = np.dtype(ml_dtypes.bfloat16)
"""bfloat16 is no dtype of NumPy's own: its kind is "V", its ``str`` says nothing, and it has no buffer format."""


@functools.cache
def wire_name(dtype: DTypeLike) -> str:
    """The name under which a dtype travels, one of ``schema.ITEM_BYTES`` if it may.

    >>> wire_name("float32"), wire_name(BFLOAT16)
    ('<f4', 'bfloat16')
    """
    made = np.dtype(dtype)
    return "bfloat16" if made == BFLOAT16 else made.str


@functools.cache
def dtype_named(name: str) -> "np.dtype[Any]":
    """The dtype that travels under ``name``."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def is_float(dtype: "np.dtype[Any]") -> bool:
    """Whether numbers of this dtype can be averaged: NumPy's floats, and bfloat16."""
    return dtype.kind == "f" or dtype == BFLOAT16


def address(array: Array) -> int:
    """Where the array's first element lies."""
    found: int = array.__array_interface__["data"][0]
    return found


def as_array(payload: Payload) -> Array:
    """The payload's array: a view of its buffer, possibly read-only and unaligned."""
    flat = np.frombuffer(payload.data, dtype=dtype_named(payload.dtype))
    return flat if len(payload.shape) == 1 else flat.reshape(payload.shape)


def as_payload(array: Array) -> Payload:
    """A payload over the array's own memory; ``array`` must be C-contiguous and little-endian."""
    flat = array if array.ndim == 1 else array.reshape(-1)
    if array.dtype.kind == "V":
        flat = flat.view(np.uint16)
    return Payload(dtype=wire_name(array.dtype), shape=array.shape, data=flat.data)
