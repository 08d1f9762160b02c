"""Functions of the standard that make arrays. A Python float becomes float32, an int int64, a bool bool."""

from typing import Any

import numpy as np

from shoal.errors import DTypeError
from shoal.ops import creation as made
from shoal.ops.backend import asnumpy, namespace, on_device
from shoal.ops.numpylike import making, shaping
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "arange",
    "asarray",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "full",
    "full_like",
    "linspace",
    "meshgrid",
    "ones",
    "ones_like",
    "tril",
    "triu",
    "zeros",
    "zeros_like",
]

_NARROW = {"float64": np.float32, "complex128": np.complex64}
"""What NumPy makes of Python numbers, and we do."""


def _default(value: Any) -> Any:
    """The dtype of a Python number."""
    found = np.dtype(getattr(value, "dtype", None) or np.asarray(value).dtype)
    return found if hasattr(value, "dtype") else _NARROW.get(found.name, found)


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    """An array of numbers, nested sequences of them, or of anything with the buffer protocol or DLPack.

    Args:
        copy: True for memory of its own; False refuses where a copy would be needed; None copies only then.
    Raises:
        ValueError: a copy is needed and not allowed.
    """
    if isinstance(obj, Traced):
        x: Any = obj
        if copy is False and ((dtype is not None and x.dtype != dtype) or (device not in (None, x.device))):
            raise ValueError("asarray: another dtype or device needs a copy, and copy=False does not allow it")
        x = x if device is None or device == x.device else x.to_device(device)
        return x.astype(dtype) if dtype is not None and x.dtype != dtype else x.copy() if copy else x
    if not hasattr(obj, "dtype") and hasattr(obj, "__dlpack__"):
        obj = asnumpy(raw(made.from_dlpack(obj)))
    if isinstance(obj, (list, tuple)):
        obj = _plain(obj)
        dtype = _default(obj) if dtype is None and not _typed(obj) else dtype
    elif dtype is None and type(obj) in (bool, int, float, complex):
        dtype = _default(obj)
    if copy is False and not hasattr(obj, "__array__") and not hasattr(obj, "__buffer__"):
        raise ValueError(f"asarray: {type(obj).__name__} needs a copy, and copy=False does not allow it")
    values = obj if namespace(obj).module is not np else np.array(obj, dtype=dtype, copy=copy)
    if values.dtype.kind == "O":
        raise DTypeError(f"asarray: an array holds numbers, not {type(obj).__name__}")
    return Tensor(values if device is None else on_device(values, device))


def _plain(obj: Any) -> Any:
    """Nested sequences with arrays in the place of tensors."""
    return [_plain(v) for v in obj] if isinstance(obj, (list, tuple)) else asnumpy(raw(obj)) if _typed(obj) else obj


def _typed(obj: Any) -> bool:
    """Whether there is something with a dtype in nested sequences."""
    return any(map(_typed, obj)) if isinstance(obj, (list, tuple)) else hasattr(obj, "dtype")


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Any:
    """Numbers from ``start`` (0 if only one number is given) up to, but without, ``stop``."""
    return made.arange(start, stop, step, dtype, device)


def linspace(
    start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
) -> Any:
    """``num`` numbers at equal distances from ``start`` to ``stop`` (without it if not ``endpoint``)."""
    if dtype is None and (isinstance(start, complex) or isinstance(stop, complex)):
        dtype = np.complex64
    return made.linspace(start, stop, num, endpoint, dtype, device)


def empty(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """Memory as it is: for what will be written before it is read."""
    return made.empty(shape, dtype, device)


def zeros(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """Zeros."""
    return made.zeros(shape, dtype, device)


def ones(shape: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """Ones."""
    return made.ones(shape, dtype, device)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """The same value everywhere; without ``dtype`` in that of a Python number."""
    return made.full(shape, fill_value, dtype or _default(fill_value), device)


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Any:
    """A matrix with ones on the k-th diagonal."""
    return made.eye(n_rows, n_cols, k, dtype, device)


def empty_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """What will be written before it is read, in the shape of x, and its dtype unless another is given."""
    return making.empty_like(x, dtype, device=device)


def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """Zeros in the shape of x, and its dtype unless another is given."""
    return making.zeros_like(x, dtype, device=device)


def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None) -> Any:
    """Ones in the shape of x, and its dtype unless another is given."""
    return making.ones_like(x, dtype, device=device)


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    """The same value everywhere, in the shape of x, and its dtype unless another is given."""
    return making.full_like(x, fill_value, dtype, device=device)


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Any:
    """An array that shares the memory of ``x``, of any library with DLPack; see `shoal.np.from_dlpack`."""
    return made.from_dlpack(x, device, copy)


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Any]:
    """The coordinates of a grid, one array per vector."""
    return making.meshgrid(*arrays, indexing=indexing)


def tril(x: Any, /, *, k: int = 0) -> Any:
    """Zeros above the k-th diagonal of the last two axes."""
    return shaping.tril(x, k=k)


def triu(x: Any, /, *, k: int = 0) -> Any:
    """Zeros below the k-th diagonal of the last two axes."""
    return shaping.triu(x, k=k)
