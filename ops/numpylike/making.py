"""NumPy's functions that make arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import elementwise as ew
from shoal.ops import shape as arranged
from shoal.ops.creation import (
    arange,
    array,
    asarray,
    empty,
    eye,
    from_dlpack,
    full,
    identity,
    linspace,
    logspace,
    ones,
    tri,
    zeros,
)
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.registry import Shape
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "arange",
    "array",
    "asanyarray",
    "asarray",
    "asarray_chkfinite",
    "bartlett",
    "blackman",
    "diag_indices",
    "diag_indices_from",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "frombuffer",
    "fromfunction",
    "fromiter",
    "full",
    "full_like",
    "geomspace",
    "hamming",
    "hanning",
    "identity",
    "indices",
    "ix_",
    "kaiser",
    "linspace",
    "logspace",
    "mask_indices",
    "meshgrid",
    "ones",
    "ones_like",
    "tri",
    "tril_indices",
    "tril_indices_from",
    "triu_indices",
    "triu_indices_from",
    "zeros",
    "zeros_like",
]


asanyarray = asarray


def asarray_chkfinite(x: Any, dtype: Any = None) -> Any:
    """`asarray`, which refuses what is not finite.

    Raises:
        ValueError: an element is infinite or not a number.
    """
    made = asarray(x, dtype)
    if not np.isfinite(raw(made)).all():
        raise ValueError("asarray_chkfinite: an element is infinite or not a number")
    return made


def _like(x: Any, value: Any, dtype: Any, shape: Any, device: str | None, op: Any) -> Any:
    x = arraylike(x)
    if shape is None and device is None:
        made = op(x)
        return made if dtype is None or made.dtype == dtype else ew.astype(made, dtype=dtype)
    return full(x.shape if shape is None else shape, value, dtype or x.dtype, device or getattr(x, "device", None))


def zeros_like(x: Any, dtype: Any = None, *, shape: Any = None, device: str | None = None) -> Any:
    """Zeros in the shape, the dtype and on the device of x, unless others are given."""
    return _like(x, 0, dtype, shape, device, ew.zeros_like)


def ones_like(x: Any, dtype: Any = None, *, shape: Any = None, device: str | None = None) -> Any:
    """Ones in the shape, the dtype and on the device of x, unless others are given."""
    return _like(x, 1, dtype, shape, device, ew.ones_like)


def empty_like(x: Any, dtype: Any = None, *, shape: Any = None, device: str | None = None) -> Any:
    """Elements that will be written before they are read, in the shape, the dtype and on the device of x."""
    return zeros_like(x, dtype, shape=shape, device=device)


def full_like(x: Any, fill_value: Any, dtype: Any = None, *, shape: Any = None, device: str | None = None) -> Any:
    """The same value everywhere, in the shape, the dtype and on the device of x, unless others are given."""
    x = arraylike(x)
    return full(
        tuple(x.shape) if shape is None else shape, fill_value, dtype or x.dtype, device or getattr(x, "device", None)
    )


def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None) -> Tensor:
    """``num`` numbers with equal ratios from ``start`` to ``stop``."""
    return Tensor(np.geomspace(start, stop, num, endpoint=endpoint).astype(dtype or np.float32))


def meshgrid(*vectors: Any, indexing: str = "xy", sparse: bool = False) -> list[Any]:
    """The coordinates of a grid, one array per vector.

    Args:
        indexing: "xy" the first vector runs along the second axis; "ij" along the first.
        sparse: arrays of length 1 along the axes of the others, which broadcast to the grid.
    Raises:
        ConfigError: another ``indexing``.
    """
    if indexing not in ("xy", "ij"):
        raise ConfigError(f"meshgrid: indexing {indexing!r}; there are 'xy' and 'ij'")
    flat = [arranged.reshape(arraylike(v), shape=(-1,)) for v in vectors]
    n = len(flat)
    grids = [arranged.reshape(v, shape=tuple(-1 if a == i else 1 for a in range(n))) for i, v in enumerate(flat)]
    if not sparse:
        grids = [arranged.broadcast_to(g, shape=tuple(v.shape[0] for v in flat)) for g in grids]
        grids = [ew.copy(g) for g in grids]
    return [arranged.swapaxes(g, 0, 1) for g in grids] if indexing == "xy" and n > 1 else grids


def indices(dimensions: Sequence[int], dtype: Any = np.int64, sparse: bool = False) -> Any:
    """The positions in a grid: along a new first axis one array per axis; if ``sparse``, a tuple that broadcasts."""
    places: Any = np.indices
    found = places(tuple(dimensions), dtype=dtype, sparse=sparse)
    return tuple(map(Tensor, found)) if sparse else Tensor(found)


def fromfunction(function: Callable[..., Any], shape: Shape, *, dtype: Any = np.float32, **options: Any) -> Any:
    """What ``function`` gives for the coordinates of a grid: one array per axis."""
    return function(*(Tensor(i) for i in np.indices(shape, dtype=dtype)), **options)


def fromiter(values: Any, dtype: Any = np.float32, count: int = -1) -> Tensor:
    """A vector of what an iterable yields."""
    return Tensor(np.fromiter(values, dtype, count))


def frombuffer(buffer: Any, dtype: Any = np.float32, count: int = -1, offset: int = 0) -> Tensor:
    """A vector that shares the memory of a buffer, such as bytes."""
    return Tensor(np.frombuffer(buffer, dtype, count, offset))


# -- positions of triangles and diagonals, for subscripts


def tril_indices(n: int, k: int = 0, m: int | None = None) -> tuple[Tensor, Tensor]:
    """Where an (n, m) matrix has its elements on and below the k-th diagonal."""
    rows, columns = np.tril_indices(n, k, m)
    return Tensor(rows), Tensor(columns)


def triu_indices(n: int, k: int = 0, m: int | None = None) -> tuple[Tensor, Tensor]:
    """Where an (n, m) matrix has its elements on and above the k-th diagonal."""
    rows, columns = np.triu_indices(n, k, m)
    return Tensor(rows), Tensor(columns)


def tril_indices_from(x: Any, k: int = 0) -> tuple[Tensor, Tensor]:
    """`tril_indices` for the matrix x."""
    return tril_indices(x.shape[-2], k, x.shape[-1])


def triu_indices_from(x: Any, k: int = 0) -> tuple[Tensor, Tensor]:
    """`triu_indices` for the matrix x."""
    return triu_indices(x.shape[-2], k, x.shape[-1])


def diag_indices(n: int, ndim: int = 2) -> tuple[Tensor, ...]:
    """Where an array with ``ndim`` axes of length n has its diagonal."""
    return tuple(Tensor(np.arange(n)) for _ in range(ndim))


def diag_indices_from(x: Any) -> tuple[Tensor, ...]:
    """`diag_indices` for x, whose axes have one length."""
    return diag_indices(x.shape[0], x.ndim)


def mask_indices(n: int, mask_func: Callable[..., Any], k: Any = 0) -> tuple[Tensor, ...]:
    """Where ``mask_func``, such as `triu`, leaves something of an (n, n) matrix of ones."""
    return tuple(Tensor(i) for i in np.nonzero(np.asarray(mask_func(ones((n, n)), k))))


def ix_(*vectors: Any) -> tuple[Tensor, ...]:
    """Index arrays that together select a grid: all combinations of the positions given for each axis."""
    return tuple(Tensor(i) for i in np.ix_(*(np.asarray(raw(v)) for v in vectors)))


# -- windows


def bartlett(m: int) -> Tensor:
    """A triangle of m points, zero at the ends."""
    return Tensor(np.bartlett(m).astype(np.float32))


def blackman(m: int) -> Tensor:
    """The Blackman window of m points."""
    return Tensor(np.blackman(m).astype(np.float32))


def hamming(m: int) -> Tensor:
    """The Hamming window of m points."""
    return Tensor(np.hamming(m).astype(np.float32))


def hanning(m: int) -> Tensor:
    """The Hann window of m points."""
    return Tensor(np.hanning(m).astype(np.float32))


def kaiser(m: int, beta: float) -> Tensor:
    """The Kaiser window of m points with the shape ``beta``."""
    return Tensor(np.kaiser(m, beta).astype(np.float32))
