"""NVIDIA's run-time compiler by `ctypes`, without a driver or a GPU: `compiled` says whether a text is CUDA C++.

On a GPU CuPy compiles kernels. This is for tests: the library is a wheel of its own (``nvidia-cuda-nvrtc``), and runs
on any machine.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from shoal.errors import GraphError

__all__ = ["ARCHITECTURES", "available", "compiled", "version"]

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""A100, H100 and H200, B200."""

PLACES = ("nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
"""Where the wheels put it, among Python's packages or in a folder ``nvrtc`` of the environment."""


@cache
def _library() -> ctypes.CDLL | None:
    named = os.environ.get("SHOAL_NVRTC")
    folders = [*sys.path, str(Path(sys.prefix) / "nvrtc")]
    found = [named] if named else [str(Path(p) / place) for p in folders for place in PLACES]
    for path in (*found, *([] if named else ["libnvrtc.so.13", "libnvrtc.so.12"])):
        with suppress(OSError):
            for part in sorted(
                Path(path).parent.glob("libnvrtc-builtins.so*")
            ):  # some versions do not look beside them
                ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(path)
    return None


def available() -> bool:
    """Whether the library is here: installed beside Python's packages, on the loader's path, or named by
    ``SHOAL_NVRTC``."""
    return _library() is not None


def version() -> tuple[int, int]:
    """Of the library; (0, 0) without one."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    library = _library()
    if library is not None:
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def compiled(text: str, architecture: str, options: Sequence[str] = ()) -> bytes:
    """The machine code (a cubin) of a text.

    Raises:
        GraphError: NVRTC is not here, or refuses the text; has what it says.
    """
    library = _library()
    if library is None:
        raise GraphError("NVRTC is not here: pip install nvidia-cuda-nvrtc, or name its library in SHOAL_NVRTC")
    program = ctypes.c_void_p()
    code = library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    if code:
        raise GraphError(f"NVRTC: nvrtcCreateProgram gave {code}")
    try:
        given = [o.encode() for o in (f"--gpu-architecture={architecture}", *options)]
        code = library.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
        if code:
            log = _fetched(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            raise GraphError(f"NVRTC refuses a kernel for {architecture}:\n{log.decode(errors='replace')[:4000]}")
        return _fetched(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _fetched(size_of: "ctypes._FuncPointer", get: "ctypes._FuncPointer", program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    room = ctypes.create_string_buffer(size.value)
    get(program, room)
    return room.raw
