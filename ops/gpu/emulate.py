"""Kernels of this package on the CPU, to check their numbers where there is no GPU: `RawModule`.

The text that NVRTC would get is compiled by the machine's C++ compiler behind ``c/host.h``, which makes each thread of
a block a fibre. `NAMESPACE` is NumPy with that `RawModule`: operators that are given it run their GPU kernels, on NumPy
arrays. It is thousands of times slower than a GPU, and serves tests.

What it finds beside wrong numbers: arguments of the wrong size, threads of a block that wait at different barriers or
for ever, shuffles from lanes that are not there, shared memory read before it is written (it holds NaN), and, by
running threads in another order (`order`), barriers that are missing.
"""

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import GraphError
from shoal.ops.backend import CPU, Namespace
from shoal.ops.native import compiler

__all__ = ["NAMESPACE", "Function", "RawModule", "available", "order"]

FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-fvisibility=hidden", "-U_FORTIFY_SOURCE")
QUIET = ("-w",)
FAULTS = {
    1: "some threads of a block wait for others that never come",
    2: "the threads of a block wait at different barriers",
    3: "a shuffle reads a lane that is not there",
    4: "more than 48 KiB of shared memory",
    5: "more than 1024 threads",
}
LIMIT_S = 120.0

_order = 0


@contextmanager
def order(seed: int) -> Iterator[None]:
    """Within this context the threads of a block take turns in this order: 0 upwards, 1 downwards, else shuffled."""
    global _order
    before, _order = _order, seed
    try:
        yield
    finally:
        _order = before


@cache
def _compiler() -> str:
    """A C++ compiler: the C compiler's sibling; empty if there is none."""
    from shutil import which

    return next((found for name in ("c++", "g++", "clang++") if (found := which(name))), "")


def available() -> bool:
    """Whether this machine can compile kernels for the CPU."""
    return bool(_compiler()) and not compiler.switched_off()


class Function:
    """A kernel; called as CuPy calls one: ``function(grid, block, arguments)``."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name, self._launch = name, getattr(library, f"launch_{name}")
        sizes = (ctypes.c_int * 64)()
        count = getattr(library, f"sizes_{name}")(sizes)
        self.sizes = tuple(sizes[:count])

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], **_: Any) -> None:
        """Run all blocks.

        Raises:
            GraphError: arguments of other sizes than the kernel has, or one of `FAULTS`.
        """
        held = [np.array(x.ctypes.data, np.uint64) if np.ndim(x) or type(x) is np.ndarray else x for x in args]
        held = [x if isinstance(x, np.ndarray | np.generic) else np.array(x) for x in held]
        sizes = tuple(x.dtype.itemsize for x in held)
        if sizes != self.sizes:
            raise GraphError(f"kernel {self.name} takes arguments of {self.sizes} bytes, got {sizes}")
        held = [np.ascontiguousarray(x) for x in held]
        pointers = (ctypes.c_void_p * len(held))(*[x.ctypes.data for x in held])
        dims = [(ctypes.c_uint * 3)(*[*d, 1, 1, 1][:3]) for d in (grid, block)]
        fault = self._launch(pointers, *dims, _order)
        if fault:
            raise GraphError(f"kernel {self.name}, block {tuple(block)}: {FAULTS[fault]}")


class RawModule:
    """Stands for CuPy's class of that name."""

    def __init__(self, code: str, options: Sequence[str] = (), **_: Any) -> None:
        self.code, self.options = code, tuple(options)

    def get_function(self, name: str) -> Function:
        """A kernel of the module."""
        return _function(self.code, name)


@cache
def _function(code: str, name: str) -> Function:
    return Function(_library(code), name)


@cache
def _library(code: str) -> ctypes.CDLL:
    names = re.findall(r"^(?:KERNEL|extern \"C\" __global__ void)(?: __launch_bounds__\(\d+\))? (\w+)\(", code, re.M)
    host = (Path(__file__).parent / "c" / "host.h").read_text(encoding="utf-8")
    exported = 'extern "C" __attribute__((visibility("default"))) int'
    parts = [host, '#line 1 "kernel.cu"', code]
    parts += [
        f"{exported} launch_{n}(void **p, const unsigned *grid, const unsigned *block, int seed) "
        f"{{ return Kernel<decltype(&{n}), &{n}>::launch(p, grid, block, seed); }}\n"
        f"{exported} sizes_{n}(int *sizes) {{ return Kernel<decltype(&{n}), &{n}>::sizes(sizes); }}"
        for n in names
    ]
    return _built("\n".join(parts))


def _built(text: str) -> ctypes.CDLL:
    key = hashlib.blake2b("\0".join([text, *FLAGS, _compiler()]).encode(), digest_size=16).hexdigest()
    path = compiler.cache_folder() / f"emulated-{key}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
            source, fresh = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
            source.write_text(text)
            command = [_compiler(), *FLAGS, *QUIET, "-o", str(fresh), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            if done.returncode:
                raise GraphError(f"the C++ compiler refuses a kernel:\n{done.stderr.strip()[:4000]}")
            os.replace(fresh, path)
    return ctypes.CDLL(str(path))


HELPERS = frozenset(["add_at", "add_rows", "gemm", "raw_erf", "raw_special"])
"""Functions of `shoal.ops.backend` that are other ones on a GPU."""


class _Emulated:
    """NumPy, but for the class that loads kernels."""

    __name__ = "emulated"
    RawModule = RawModule

    def __getattr__(self, name: str) -> Any:
        return getattr(CPU if name in HELPERS else np, name)


NAMESPACE = Namespace(_Emulated(), np.ndarray)  # type: ignore[arg-type]  # no module, but it has a module's names
"""NumPy whose operators run GPU kernels, on the CPU."""
