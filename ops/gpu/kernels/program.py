"""CUDA text of this package as functions: which types there are, and the launch of a kernel."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from shoal.ops.precision import BFLOAT16

__all__ = ["OPTIONS", "STORED", "Launch", "every", "flat", "function", "geometry", "instance", "text"]

OPTIONS = ("--std=c++17", "--fmad=false")
"""For NVRTC: every operation is rounded by itself, as on the CPU. These kernels wait for memory, not for arithmetic."""

STORED: dict[Any, str] = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.float16): "f16",
    BFLOAT16: "bf16",
}
"""The types of numbers that kernels have, as the prelude calls them."""

INDICES: dict[Any, str] = {
    np.dtype(np.int64): "int64_t",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.uint8): "uint8_t",
}
"""Those of positions and class numbers."""

THREADS = 256


@cache
def text(name: str) -> str:
    """A file of ``c/``."""
    return (Path(__file__).parents[1] / "c" / name).read_text(encoding="utf-8")


@cache
def instance(file: str, kernel: str, *types: Any) -> tuple[str, str]:
    """The text and the name of a kernel for certain types.

    Args:
        file: in ``c/``; it has ``TEMPLATE(class T ...) kernel(arguments) { ... }``, which becomes one function.
        types: dtypes, one per template argument.
    """
    label, wrapper = _wrapper(file, kernel, types)
    return f"{text('prelude.cuh')}\n{_templates(file)}\n{wrapper}", label


def every(file: str, *dtypes: Any) -> str:
    """One text with all kernels of a file, with each of these as its types of numbers; positions are int64."""
    names = re.findall(r"^TEMPLATE\([^)]*\) (\w+)\(", text(file), re.M)
    whole = np.dtype(np.int64)
    made: dict[str, str] = {}
    for dtype in dtypes:
        kinds: dict[str, Any] = {"I": whole, "S": np.dtype(np.float32) if dtype.itemsize == 2 else dtype}
        for name in names:
            label, wrapper = _wrapper(file, name, tuple(kinds.get(t, dtype) for t in _formal(file, name)))
            made[label] = wrapper
    return f"{text('prelude.cuh')}\n{_templates(file)}\n{''.join(made.values())}"


def _wrapper(file: str, kernel: str, types: Sequence[Any]) -> tuple[str, str]:
    """A kernel's name for these types, and the function that calls the template."""
    names = [STORED.get(t) or INDICES[t] for t in types]
    label = "_".join([kernel, *(n.removesuffix("_t") for n in names)])
    parameters = _parameters(file, kernel)
    signature = ", ".join(parameters)
    for template, actual in zip(_formal(file, kernel), names, strict=True):
        signature = re.sub(rf"\b{template}\b", actual, signature)
    bare = ", ".join(p.rpartition(" ")[2].lstrip("*") for p in parameters)
    return label, f"KERNEL {label}({signature}) {{ {kernel}<{', '.join(names)}>({bare}); }}\n"


_HEAD = r"^TEMPLATE\(([^)]*)\) {name}\(([^)]*)\)"


def _found(file: str, kernel: str) -> "re.Match[str]":
    found = re.search(_HEAD.format(name=kernel), text(file), re.M)
    assert found is not None, f"{file} has no kernel {kernel}"
    return found


def _formal(file: str, kernel: str) -> list[str]:
    """Names of the template arguments."""
    return [p.split()[-1] for p in _found(file, kernel)[1].split(",")]


def _parameters(file: str, kernel: str) -> list[str]:
    return [" ".join(p.split()) for p in _found(file, kernel)[2].split(",")]


def _templates(file: str) -> str:
    """The text with each ``TEMPLATE(class T) f(...)`` as a template of a device function."""
    return re.sub(r"^TEMPLATE\(([^)]*)\) ", r"template <\1> DEV void ", text(file), flags=re.M)


class Launch:
    """A kernel on the arrays of a namespace, with its grid and block.

    Numbers are converted as the arguments say: ``q`` a 64-bit and ``i`` a 32-bit integer, ``f`` a float, ``d`` a
    double, ``p`` an address.
    """

    def __init__(self, function: Any, kinds: str) -> None:
        self.function, self.kinds = function, kinds

    def __call__(self, grid: Sequence[int], block: Sequence[int], *args: Any) -> None:
        """Put it into the current stream."""
        given = [x if k == "p" else NUMBERS[k](x) for k, x in zip(self.kinds, args, strict=True)]
        self.function(tuple(grid), tuple(block), tuple(given))


NUMBERS: dict[str, Any] = {"q": np.int64, "i": np.int32, "f": np.float32, "d": np.float64}


def function(xp: Any, file: str, kernel: str, *types: Any) -> Launch:
    """A kernel for arrays of a namespace, compiled when it is first launched."""
    parameters = _parameters(file, kernel)
    return Launch(_loaded(xp, *instance(file, kernel, *types)), "".join(map(_kind, parameters)))


@cache
def _loaded(xp: Any, code: str, name: str) -> Any:
    return xp.module.RawModule(code=code, options=OPTIONS).get_function(name)


def _kind(parameter: str) -> str:
    if "*" in parameter:
        return "p"
    return {"int64_t": "q", "int": "i", "float": "f", "double": "d"}[parameter.split()[-2]]


def geometry(rows: int, length: int, itemsize: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block for a kernel of rows: a warp for a short row, else a block, with about four packs a thread."""
    packs = -(-length * itemsize // 16)
    if packs <= 128:
        return (-(-rows // 4), 1, 1), (32, 4, 1)
    threads = min(1024, max(64, 32 * -(-packs // 128)))
    return (rows, 1, 1), (threads, 1, 1)


def flat(size: int, per_thread: int = 1) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block for a loop over ``size`` elements that goes on in steps of the grid."""
    blocks = -(-max(size, 1) // (THREADS * per_thread))
    return (min(blocks, 132 * 16), 1, 1), (THREADS, 1, 1)
