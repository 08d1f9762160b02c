"""Dtypes of the standard, and the functions about them."""

from typing import Any, NamedTuple

import numpy as np

from shoal.ops import elementwise as ew
from shoal.ops.numpylike import info, shaping

__all__ = [
    "astype",
    "bool",
    "broadcast_arrays",
    "broadcast_shapes",
    "broadcast_to",
    "can_cast",
    "complex64",
    "complex128",
    "finfo",
    "finfo_object",
    "float32",
    "float64",
    "iinfo",
    "iinfo_object",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "result_type",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
]

bool = np.dtype(np.bool_)
int8, int16, int32, int64 = (np.dtype(f"int{bits}") for bits in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64))
float32, float64 = np.dtype("float32"), np.dtype("float64")
complex64, complex128 = np.dtype("complex64"), np.dtype("complex128")


class finfo_object(NamedTuple):
    """What a floating-point dtype can hold."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Any


class iinfo_object(NamedTuple):
    """What an integer dtype can hold."""

    bits: int
    max: int
    min: int
    dtype: Any


def astype(x: Any, dtype: Any, /, *, copy: Any = True, device: Any = None) -> Any:
    """``x`` in ``dtype``; itself if it is so and not ``copy``."""
    x = x if device is None else x.to_device(device)
    if x.dtype == dtype:
        return ew.copy(x) if copy else x
    return ew.astype(x, dtype=dtype)


def can_cast(from_: Any, to: Any, /) -> Any:
    """Whether ``from_``, a dtype or an array, can be converted to ``to`` without loss by the rules of promotion."""
    return info.can_cast(from_, to)


def finfo(type: Any, /) -> finfo_object:
    """What a floating-point dtype, or that of an array, can hold; of a complex one, its parts."""
    found = info.finfo(type)
    return finfo_object(
        bits=int(found.bits),
        eps=float(found.eps),
        max=float(found.max),
        min=float(found.min),
        smallest_normal=float(found.smallest_normal),
        dtype=np.dtype(found.dtype),
    )


def iinfo(type: Any, /) -> iinfo_object:
    """What an integer dtype, or that of an array, can hold."""
    found = info.iinfo(type)
    return iinfo_object(int(found.bits), int(found.max), int(found.min), np.dtype(found.dtype))


def isdtype(dtype: Any, kind: Any) -> Any:
    """Whether ``dtype`` is of a kind: a dtype, a name such as "real floating", or a tuple of them."""
    return info.isdtype(dtype, kind)


def result_type(*arrays_and_dtypes: Any) -> Any:
    """The dtype that the arguments have together; Python numbers do not widen."""
    return info.result_type(*arrays_and_dtypes)


def broadcast_to(x: Any, /, shape: Any) -> Any:
    """Repeated along new axes and axes of length 1 until the shape is ``shape``."""
    return shaping.broadcast_to(x, shape=tuple(shape))


def broadcast_arrays(*arrays: Any) -> list[Any]:
    """The arrays, broadcast against each other."""
    return list(shaping.broadcast_arrays(*arrays))


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that the shapes broadcast to."""
    return shaping.broadcast_shapes(*shapes)
