"""DLPack: memory shared with PyTorch, CuPy, JAX and others, without copying.

NumPy exports and imports all dtypes of ours but bfloat16, which it does not know. Such memory crosses as uint16, and
the type code in the capsule, one byte of a C structure that the protocol fixes, is set to bfloat16's on the way out,
and back on the way in.
"""

import ctypes
from typing import Any

import numpy as np

from shoal.ops.backend import from_gpu_dlpack
from shoal.ops.precision import BFLOAT16

__all__ = ["export", "from_dlpack"]

_UINT, _BFLOAT = 1, 4
"""DLDataTypeCode of dlpack.h."""

_CODE_AT = {b"dltensor": 20, b"dltensor_versioned": 52}
"""Bytes from the start of a DLManagedTensor to its type code: behind the address, the device and the number of axes; of
a DLManagedTensorVersioned, by the name of the capsule."""

_VERSIONS = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
"""Whether NumPy reads capsules with a version, which says whether their memory is read-only."""

_CPU_KINDS = (1, 3)
"""DLDeviceType of host memory: plain, and pinned for CUDA."""

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_name = ctypes.pythonapi.PyCapsule_GetName
_name.restype = ctypes.c_char_p
_name.argtypes = [ctypes.py_object]


def export(data: Any, *, copy: bool | None = None, **options: Any) -> Any:
    """A capsule with the memory of a raw array.

    Args:
        copy: True copies, False refuses where a copy is needed, None copies only then.
        options: what the protocol has besides: stream, max_version, dl_device.
    Raises:
        BufferError: the memory cannot be written to, as that of `broadcast_to`, so that the consumer needs a copy.
    """
    if isinstance(data, np.ndarray) and not data.flags.writeable:
        if copy is False:
            raise BufferError("this tensor's memory is shared and must not be written to; export a copy of it")
        copy = True
    if copy:
        data = data.copy()
    given = {k: v for k, v in options.items() if v is not None}
    if data.dtype != BFLOAT16:
        return _capsule_of(data, given)
    capsule = _capsule_of(data.view(np.uint16), given)
    _code(capsule).value = _BFLOAT
    return capsule


def _capsule_of(data: Any, options: dict[str, Any]) -> Any:
    try:
        return data.__dlpack__(**options)
    except TypeError:  # NumPy 2.0 does not know versions
        return data.__dlpack__()


def from_dlpack(x: Any, device: Any = None, copy: bool | None = None) -> Any:
    """A raw array that shares the memory of ``x``, an array of any library with ``__dlpack__``.

    Args:
        device: "cpu" or None.
        copy: True for memory of its own.
    Raises:
        BufferError: a dtype that NumPy does not have, or another device than is asked for.
    """
    kind = x.__dlpack_device__()[0]
    if device not in (None, "cpu") or (device == "cpu" and kind not in _CPU_KINDS):
        raise BufferError(f"from_dlpack: device={device!r} of memory of device type {kind}; convert it there first")
    if kind not in _CPU_KINDS:
        found = from_gpu_dlpack(x)
    else:
        try:
            found = _writable(np.from_dlpack(x))
        except (RuntimeError, BufferError) as error:
            found = _brain(x, error)
    return found.copy() if copy else found


class _Capsule:
    """An object with ``__dlpack__`` that hands out one capsule."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def _brain(x: Any, error: Exception) -> Any:
    """The array of a capsule of bfloat16."""
    try:  # without a version NumPy does not write to it, and NumPy 2.0 does not know versions
        capsule = x.__dlpack__(max_version=(1, 0)) if _VERSIONS else x.__dlpack__()
    except TypeError:
        capsule = x.__dlpack__()
    code = _code(capsule)
    if code.value != _BFLOAT:
        raise BufferError(f"from_dlpack: {type(x).__name__} of a dtype that NumPy does not have ({error})") from error
    code.value = _UINT
    return _writable(np.from_dlpack(_Capsule(capsule))).view(BFLOAT16)


class _Memory:
    """The memory of an array, to be read and written; keeps the array."""

    def __init__(self, found: Any) -> None:
        self.found = found
        self.__array_interface__ = {**found.__array_interface__, "data": (found.ctypes.data, False)}


def _writable(found: Any) -> Any:
    """What `numpy.from_dlpack` gave: NumPy 2.0 forbids to write to it, although capsules without a version allow it."""
    return found if found.flags.writeable or _VERSIONS else np.asarray(_Memory(found))


def _code(capsule: Any) -> ctypes.c_uint8:
    """The type code in a capsule, to be read and written."""
    name = _name(capsule)
    address = _pointer(capsule, name)
    assert address is not None
    return ctypes.c_uint8.from_address(address + _CODE_AT[name])
