"""Array namespaces: NumPy, or CuPy for arrays that live on a GPU. This is the only module that imports CuPy.

An operator's forward never names a backend. It is given the namespace ``xp`` of its arrays: the NumPy or CuPy module
behind `Namespace`, which adds what the module lacks, so that ``xp.erf`` or ``xp.sum_to`` exist everywhere.
"""

import importlib
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from shoal.errors import ConfigError

__all__ = ["CPU", "Namespace", "asnumpy", "gpu_count", "namespace", "on_device"]


class Namespace:
    """An array module and the functions it lacks; an attribute is looked up once and then kept.

    Names are looked for in the module first, then among ``extra``: functions of ``(xp, ...)``, which are the forwards
    of all operators and the helpers of this file.
    """

    extra: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, module: ModuleType, ndarray: type) -> None:
        self.module, self.ndarray = module, ndarray

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
        if kind is not np.ndarray and kind.__module__.partition(".")[0] == "cupy":
            return _gpu()
    return CPU


@cache
def _gpu() -> Namespace:
    """CuPy's namespace.

    Raises:
        ConfigError: CuPy is not installed, or does not load; says what to install.
    """
    try:
        cupy = importlib.import_module("cupy")
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


def asnumpy(array: Any) -> Any:
    """``array`` in host memory: itself if it is a NumPy array."""
    if isinstance(array, np.ndarray):
        return array
    return array.get() if hasattr(array, "get") and hasattr(array, "__cuda_array_interface__") else np.asarray(array)


def _as_strided(xp: Any, x: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """A view of ``x`` with the given shape and strides (bytes)."""
    return xp.lib.stride_tricks.as_strided(x, shape, strides)


def _add_at(xp: Any, target: Any, index: Any, values: Any) -> None:
    """``target[index] += values`` where an index that occurs twice adds twice."""
    if xp.module is np:
        np.add.at(target, index, values)
    else:
        xp.module.add.at(target, index, values)


# Cephes (S. L. Moshier), ndtr.c: |relative error| < 4e-16 in float64. Highest power first.
_ERF_P = (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3, 7.00332514112805075473e3, 5.55923013010394962768e4)  # fmt: skip
_ERF_Q = (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3, 2.26290000613890934246e4, 4.92673942608635921086e4)  # fmt: skip
_ERFC_P = (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0, 4.86371970985681366614e1, 1.96520832956077098242e2, 5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2)  # fmt: skip
_ERFC_Q = (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2, 9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3, 1.65666309194161350182e3, 5.57535340817727675546e2)  # fmt: skip


def _horner(x: Any, coefficients: tuple[float, ...]) -> Any:
    result = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        result *= x
        result += c
    return result


def _erf_numpy(xp: Any, x: Any) -> Any:
    """The error function, which NumPy lacks, to the accuracy of the dtype; float16 is computed in float32."""
    x = np.asarray(x)
    kind = np.result_type(x.dtype, np.float16)
    wide = x.astype(np.result_type(kind, np.float32), copy=False).reshape(-1)
    a = np.minimum(np.abs(wide), 6.0)  # erf is 1 to the last bit beyond
    square = a * a
    small = wide * _horner(square, _ERF_P) / _horner(square, _ERF_Q)
    large = np.copysign(1.0 - np.exp(-square) * _horner(a, _ERFC_P) / _horner(a, _ERFC_Q), wide)
    return np.where(a < 1.0, small, large).reshape(x.shape).astype(kind, copy=False)


def _erf(xp: Any, x: Any) -> Any:
    if xp.module is np:
        return _erf_numpy(xp, x)
    return importlib.import_module("cupyx.scipy.special").erf(x)


Namespace.extra.update(as_strided=_as_strided, add_at=_add_at, raw_erf=_erf)
