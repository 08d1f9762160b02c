"""New tensors from numbers and shapes. Floating-point ones are float32 unless a dtype is given, as in MXNet.

``device`` is "cpu" or "gpu:0" everywhere; by default the current one (`shoal.current_device`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.ops import dlpack
from shoal.ops.backend import on_device
from shoal.ops.context import current_device
from shoal.ops.registry import Shape, Traced
from shoal.ops.tensor import Tensor, array, raw

__all__ = [
    "arange",
    "array",
    "asarray",
    "empty",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "here",
    "identity",
    "linspace",
    "logspace",
    "meshgrid",
    "ones",
    "tri",
    "zeros",
]

Size = int | Sequence[int]


def here(values: Any) -> Tensor:
    """A tensor of an array of the host, which is not copied there, on the current device."""
    return _made(values, None)


def _made(values: Any, device: str | None) -> Tensor:
    place = device or current_device()
    return Tensor(values if place == "cpu" else on_device(values, place))


def asarray(values: Any, dtype: Any = None, device: str | None = None, *, copy: bool | None = None) -> Any:
    """``values`` if it is a tensor (of that dtype) already, else a new tensor as `array` makes it.

    Args:
        copy: True copies a tensor, too; False refuses to make a new one.
    Raises:
        ValueError: a copy is needed, and not allowed.
    """
    if isinstance(values, Traced) and device is None and dtype in (None, values.dtype):  # type: ignore[attr-defined]  # Traced has it on instances
        return values.copy() if copy else values  # type: ignore[attr-defined]  # and this
    if copy is False:
        raise ValueError(f"asarray: a tensor of {type(values).__name__} needs a copy, and copy=False does not allow it")
    return array(values, dtype, device)


def from_numpy(values: Any) -> Tensor:
    """A tensor that shares the memory of a NumPy array."""
    return Tensor(np.asarray(values))


def from_dlpack(x: Any, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A tensor that shares the memory of an array of any library with DLPack, such as PyTorch.

    Args:
        device: "cpu", or None for wherever it is.
        copy: True for memory of its own.
    Raises:
        BufferError: a dtype that NumPy does not have, or another device than is asked for.
    """
    return Tensor(dlpack.from_dlpack(x, device, copy))


def zeros(shape: Size = (), dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """Zeros."""
    return _made(np.zeros(_shape(shape), dtype or np.float32), device)


def ones(shape: Size = (), dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """Ones."""
    return _made(np.ones(_shape(shape), dtype or np.float32), device)


def empty(shape: Size = (), dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """Memory as it is: for what will be written before it is read."""
    return _made(np.empty(_shape(shape), dtype or np.float32), device)


def full(shape: Size, fill_value: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """The same value everywhere; a bool or an int without a dtype gives float32 as well."""
    value = raw(fill_value)
    return _made(np.full(_shape(shape), value, dtype or getattr(value, "dtype", np.float32)), device)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """The same value everywhere, in the shape of ``x``, and its dtype by default."""
    return full(tuple(x.shape), fill_value, dtype or x.dtype)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, device: str | None = None) -> Tensor:
    """Numbers from ``start`` (0 if only one number is given) up to, but without, ``stop``.

    Integers give int64, so that they can be indices; anything else float32.
    """
    if stop is None:
        start, stop = 0, start
    if dtype is None:
        whole = all(isinstance(v, (int, np.integer)) for v in (start, stop, step))
        dtype = np.int64 if whole else np.float32
    return _made(np.arange(start, stop, step).astype(dtype), device)


def linspace(
    start: float,
    stop: float,
    num: int = 50,
    endpoint: bool = True,
    dtype: Any = None,
    device: str | None = None,
) -> Tensor:
    """``num`` numbers at equal distances from ``start`` to ``stop`` (without it if not ``endpoint``)."""
    return _made(np.linspace(start, stop, num, endpoint=endpoint).astype(dtype or np.float32), device)


def logspace(
    start: float, stop: float, num: int = 50, endpoint: bool = True, base: float = 10.0, dtype: Any = None
) -> Tensor:
    """``base`` to the power of each number of `linspace`."""
    return _made(np.logspace(start, stop, num, endpoint=endpoint, base=base).astype(dtype or np.float32), None)


def eye(n: int, m: int | None = None, k: int = 0, dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """An (n, m) matrix with ones on the k-th diagonal."""
    return _made(np.eye(n, m, k, dtype=dtype or np.float32), device)


def identity(n: int, dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """The (n, n) identity matrix."""
    return eye(n, dtype=dtype, device=device)


def tri(n: int, m: int | None = None, k: int = 0, dtype: Any = np.float32, device: str | None = None) -> Tensor:
    """An (n, m) matrix with ones on and below the k-th diagonal."""
    return _made(np.tri(n, m, k, dtype=dtype or np.float32), device)


def meshgrid(*vectors: Any, indexing: str = "xy") -> list[Tensor]:
    """The coordinates of a grid, one tensor per vector; see NumPy."""
    return [Tensor(m) for m in np.meshgrid(*(raw(v) for v in vectors), indexing=indexing)]  # type: ignore[call-overload]  # numpy types indexing as a Literal


def _shape(shape: Size) -> Shape:
    return (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
