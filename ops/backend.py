"""Array namespaces: NumPy, or CuPy for arrays that live on a GPU. Besides `shoal.ops.gpu` only this imports CuPy.

An operator's forward never names a backend. It is given the namespace ``xp`` of its arrays: the NumPy or CuPy module
behind `Namespace`, which adds what the module lacks, so that ``xp.erf`` or ``xp.sum_to`` exist everywhere.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from shoal.errors import ConfigError, DeviceError
from shoal.ops import cephes
from shoal.ops.precision import is_half, wide
from shoal.ops.special import erf as _erf_numpy

__all__ = [
    "CPU",
    "HOST_TYPES",
    "Namespace",
    "asnumpy",
    "from_gpu_dlpack",
    "gpu_count",
    "gpu_namespace",
    "gpu_number",
    "gpu_source",
    "gpus_from",
    "namespace",
    "on_device",
    "placed",
]


class Namespace:
    """An array module and the functions it lacks; an attribute is looked up once and then kept.

    Names are looked for in the module first, then among ``extra``: functions of ``(xp, ...)``, which are the forwards
    of all operators and the helpers of this file.
    """

    extra: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, module: ModuleType, ndarray: type, special: Any = None) -> None:
        self.module, self.ndarray, self.special = module, ndarray, special
        self.host = module is np  # reading a value costs nothing; on a GPU the host would have to wait for it
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


CPU = Namespace(np, np.ndarray, cephes)
"""The namespace of NumPy arrays."""


def namespace(*arrays: Any) -> Namespace:
    """The namespace of ``arrays``: of the first CuPy array among them, else NumPy's.

    >>> namespace(np.ones(3), 2.0)
    <array namespace numpy>
    """
    for x in arrays:
        kind = type(x)
        if kind not in HOST_TYPES and (kind in _given or kind.__module__.partition(".")[0] == "cupy"):
            return gpu_namespace()
    return CPU


HOST_TYPES = frozenset([np.ndarray, float, int, bool, type(None)])
"""Types that are not CuPy's, for a quick answer."""


_given: dict[type, tuple[Namespace, int]] = {}
"""What stands for GPUs instead of CuPy: the type of its arrays, their namespace, how many there are."""


@contextmanager
def gpus_from(xp: Namespace, count: int) -> Iterator[None]:
    """Within this context the GPUs are ``count`` ones with arrays of ``xp``."""
    _given[xp.ndarray] = (xp, count)
    try:
        yield
    finally:
        del _given[xp.ndarray]


def gpu_source() -> Namespace | None:
    """What stands for CuPy now; None: itself."""
    return next((xp for xp, _ in _given.values()), None)


def gpu_namespace() -> Namespace:
    """The namespace of GPU arrays: CuPy's.

    Raises:
        ConfigError: CuPy is not installed, or does not load; says what to install.
    """
    return gpu_source() or _cupy()


@cache
def _cupy() -> Namespace:
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
        return int(gpu_namespace().module.cuda.runtime.getDeviceCount())
    except Exception:  # CuPy raises its own errors for a missing driver; any of them means none
        return 0


def on_device(array: Any, device: str) -> Any:
    """``array`` on ``device``: "cpu", or "gpu" / "gpu:1". No copy if it is there already.

    Raises:
        ConfigError: no such device, or CuPy is not installed.
    """
    number = gpu_number(device)
    if number < 0:
        return asnumpy(array)
    xp = gpu_namespace()
    if number >= (count := gpu_count()):
        raise ConfigError(f"{str(device)!r} does not exist: this process sees {count} GPUs; `shoal doctor` says more")
    with xp.module.cuda.Device(number):
        return xp.asarray(array)


def gpu_number(device: str) -> int:
    """The number of "gpu", "gpu:1" or "cuda:1"; -1 for "cpu".

    Raises:
        ConfigError: no device is called so.
    """
    kind, colon, number = device.partition(":")
    if kind == "cpu" and number in ("", "0"):
        return -1
    if kind not in ("gpu", "cuda") or (bool(colon) and not number.isdigit()):
        raise ConfigError(f"no device is called {str(device)!r}; use 'cpu', 'gpu' or 'gpu:1'")
    return int(number or 0)


def placed(name: str, arrays: Sequence[Any]) -> tuple[Namespace, int, list[Any]]:
    """Where an operator is carried out: the namespace, the GPU (-1: the host), and its inputs.

    All arrays must be on one device; those of the host without axes count as numbers.

    Raises:
        DeviceError: they are not; names the operator and both devices.
    """
    xp: Any = namespace(*arrays)
    if xp is CPU:
        return xp, -1, list(arrays)
    number, found = -1, []
    for x in arrays:
        if type(x) is xp.ndarray:
            if number < 0:
                number = int(x.device.id)
            elif number != x.device.id:
                raise _apart(name, arrays, xp)
        elif isinstance(x, np.ndarray):
            if x.ndim:
                raise _apart(name, arrays, xp)
            x = x[()]
        found.append(x)
    return xp, number, found


def _apart(name: str, arrays: Sequence[Any], xp: Any) -> DeviceError:
    there = [
        f"{tuple(x.shape)} {x.dtype} on {f'gpu:{x.device.id}' if type(x) is xp.ndarray else 'cpu'}"
        for x in arrays
        if type(x) is xp.ndarray or isinstance(x, np.ndarray)
    ]
    return DeviceError(
        f"{name}: its inputs are on different devices: {', '.join(there)}. Move them to one, as in x.to('gpu:0')."
    )


def from_gpu_dlpack(x: Any) -> Any:
    """A CuPy array that shares the GPU memory of ``x``, which has ``__dlpack__``.

    Raises:
        ConfigError: CuPy is not installed.
    """
    return gpu_namespace().module.from_dlpack(x)


def asnumpy(array: Any) -> Any:
    """``array`` in host memory: itself if it is a NumPy array, and the memory of a tensor that is there."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "get") and hasattr(array, "__cuda_array_interface__"):
        return array.get()
    return np.asarray(array if hasattr(array, "__array__") or not hasattr(array, "asnumpy") else array.asnumpy())


def _as_strided(xp: Any, x: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """A view of ``x`` with the given shape and strides (bytes)."""
    return xp.lib.stride_tricks.as_strided(x, shape, strides)


def _gemm(xp: Any, x: Any, y: Any) -> Any:
    """``matmul``; half precision is multiplied in float32 on the CPU, where BLAS does not have it."""
    if xp.module is np and (is_half(x.dtype) or is_half(y.dtype)):
        return np.matmul(wide(x), wide(y)).astype(np.result_type(x.dtype, y.dtype))
    return xp.matmul(x, y)


def _accumulate(xp: Any, ufunc: str, x: Any, axis: int) -> Any:
    """The results of an associative ufunc over the first 1, 2, 3 ... elements along ``axis``.

    CuPy's ufuncs have sums and products only; there it takes log2(n) passes (Hillis and Steele, CACM 1986).
    """
    if xp.host:
        return getattr(np, ufunc).accumulate(x, axis=axis)
    apply, s, step = getattr(xp, ufunc), xp.moveaxis(x, axis, 0), 1
    while step < len(s):
        s, step = xp.concatenate([s[:step], apply(s[:-step], s[step:])]), 2 * step
    return xp.ascontiguousarray(xp.moveaxis(s, 0, axis))


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
    return _erf_numpy(x) if xp.module is np else _functions(xp).erf(x)


def _special(xp: Any, name: str, *inputs: Any) -> Any:
    """A special function: of `shoal.ops.cephes`, or CuPy's."""
    return getattr(_functions(xp), name)(*inputs)


def _functions(xp: Any) -> Any:
    """The special functions of a namespace; CuPy's are loaded when they are first used."""
    if xp.special is None:
        import cupyx.scipy.special

        xp.special = cupyx.scipy.special
    return xp.special


Namespace.extra.update(
    accumulate=_accumulate,
    as_strided=_as_strided,
    add_at=_add_at,
    add_rows=_add_rows,
    gemm=_gemm,
    raw_erf=_erf,
    raw_special=_special,
)
