"""Array namespaces: NumPy, or CuPy for arrays that live on a GPU. This is the only module that imports CuPy.

An operator's forward never names a backend. It is given the namespace ``xp`` of its arrays: the NumPy or CuPy module
behind `Namespace`, which adds what the module lacks, so that ``xp.erf`` or ``xp.sum_to`` exist everywhere.
"""

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from shoal.errors import ConfigError
from shoal.ops import cephes
from shoal.ops.precision import is_half, wide
from shoal.ops.special import erf as _erf_numpy

__all__ = ["CPU", "HOST_TYPES", "Namespace", "asnumpy", "from_gpu_dlpack", "gpu_count", "namespace", "on_device"]


class Namespace:
    """An array module and the functions it lacks; an attribute is looked up once and then kept.

    Names are looked for in the module first, then among ``extra``: functions of ``(xp, ...)``, which are the forwards
    of all operators and the helpers of this file.
    """

    extra: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, module: ModuleType, ndarray: type) -> None:
        self.module, self.ndarray = module, ndarray
        self.rules: Any = None  # for gradient rules on these arrays; made by `shoal.ops.registry.rules_for`

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name, None)
        if value is None:
            try:
                value = partial(self.extra[name], self)
            except KeyError:
                raise AttributeError(f"{self.module.__name__} has no {name!r}, and no operator is called so") from None
        setattr(self, name, value)
        return value

    def __repr__(self) -> str:
        return f"<array namespace {self.module.__name__}>"


CPU = Namespace(np, np.ndarray)
"""The namespace of NumPy arrays."""


def namespace(*arrays: Any) -> Namespace:
    """The namespace of ``arrays``: of the first CuPy array among them, else NumPy's.

    >>> namespace(np.ones(3), 2.0)
    <array namespace numpy>
    """
    for x in arrays:
        kind = type(x)
        if kind not in HOST_TYPES and kind.__module__.partition(".")[0] == "cupy":
            return _gpu()
    return CPU


HOST_TYPES = frozenset([np.ndarray, float, int, bool, type(None)])
"""Types that are not CuPy's, for a quick answer."""


@cache
def _gpu() -> Namespace:
    """CuPy's namespace.

    Raises:
        ConfigError: CuPy is not installed, or does not load; says what to install.
    """
    try:
        import cupy
    except ImportError as error:
        raise ConfigError(
            f"GPU arrays need CuPy ({error}): pip install 'shoal[cuda12]' or 'shoal[cuda13]', as your driver has it"
        ) from error
    return Namespace(cupy, cupy.ndarray)


def gpu_count() -> int:
    """How many GPUs this process can use: 0 without CuPy or without a driver."""
    try:
        return int(_gpu().module.cuda.runtime.getDeviceCount())
    except Exception:  # CuPy raises its own errors for a missing driver; any of them means none
        return 0


def on_device(array: Any, device: str) -> Any:
    """``array`` on ``device``: "cpu", or "gpu" / "gpu:1". No copy if it is there already.

    Raises:
        ConfigError: no such device, or CuPy is not installed.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return asnumpy(array)
    if kind != "gpu" or (number and not number.isdigit()):
        raise ConfigError(f"no device is called {device!r}; use 'cpu', 'gpu' or 'gpu:1'")
    xp = _gpu()
    with xp.module.cuda.Device(int(number or 0)):
        return xp.asarray(array)


def from_gpu_dlpack(x: Any) -> Any:
    """A CuPy array that shares the GPU memory of ``x``, which has ``__dlpack__``.

    Raises:
        ConfigError: CuPy is not installed.
    """
    return _gpu().module.from_dlpack(x)


def asnumpy(array: Any) -> Any:
    """``array`` in host memory: itself if it is a NumPy array."""
    if isinstance(array, np.ndarray):
        return array
    return array.get() if hasattr(array, "get") and hasattr(array, "__cuda_array_interface__") else np.asarray(array)


def _as_strided(xp: Any, x: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """A view of ``x`` with the given shape and strides (bytes)."""
    return xp.lib.stride_tricks.as_strided(x, shape, strides)


def _gemm(xp: Any, x: Any, y: Any) -> Any:
    """``matmul``; half precision is multiplied in float32 on the CPU, where BLAS does not have it."""
    if xp.module is np and (is_half(x.dtype) or is_half(y.dtype)):
        return np.matmul(wide(x), wide(y)).astype(np.result_type(x.dtype, y.dtype))
    return xp.matmul(x, y)


def _add_at(xp: Any, target: Any, index: Any, values: Any) -> None:
    """``target[index] += values`` where an index that occurs twice adds twice."""
    if xp.module is np:
        np.add.at(target, index, values)
    else:
        xp.module.add.at(target, index, values)


def _add_rows(xp: Any, rows: Any, index: Any, count: int) -> Any:
    """Zeros of (count, ...) with ``rows`` added at ``index``, where an index that occurs twice adds twice.

    Sums by sorted runs: ``np.add.at`` goes row by row and takes ten times as long.
    """
    out = xp.zeros((count, *rows.shape[1:]), rows.dtype)
    if not index.size:
        return out
    index = index % count  # a negative index counts from the end
    if xp.module is not np:
        xp.module.add.at(out, index, rows)
        return out
    order = np.argsort(index, kind="stable")
    ordered = index[order]
    first = np.flatnonzero(np.concatenate([np.ones(1, bool), ordered[1:] != ordered[:-1]]))
    if first.size == index.size:
        out[index] = rows
    else:
        out[ordered[first]] = np.add.reduceat(rows[order], first, axis=0)
    return out


def _erf(xp: Any, x: Any) -> Any:
    if xp.module is np:
        return _erf_numpy(x)
    import cupyx.scipy.special

    return cupyx.scipy.special.erf(x)


def _special(xp: Any, name: str, *inputs: Any) -> Any:
    """A special function: of `shoal.ops.cephes`, or CuPy's."""
    if xp.module is np:
        return getattr(cephes, name)(*inputs)
    import cupyx.scipy.special

    return getattr(cupyx.scipy.special, name)(*inputs)


Namespace.extra.update(
    as_strided=_as_strided, add_at=_add_at, add_rows=_add_rows, gemm=_gemm, raw_erf=_erf, raw_special=_special
)
