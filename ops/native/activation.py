"""Activations of float32 whose NumPy form takes many passes."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from shoal.ops.native import compiler
from shoal.ops.native.table import Bound, In, kernel

SINGLE = np.dtype(np.float32)


@cache
def _functions() -> Any:
    library = compiler.load(compiler.text("elementwise.c"), exact=True)
    if library is not None:
        for function in (library.gelu, library.gelu_tanh, library.sigmoid):
            function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long], None
    return library


def _over(name: str, x: Any) -> Bound | None:
    library = _functions()
    if not isinstance(x, In) or x.dtype != SINGLE or not x.size or library is None:
        return None
    function, n = getattr(library, name), x.size

    def run(x: Any, y: Any) -> None:
        function(x.ctypes.data, y.ctypes.data, n)

    return Bound((x,), run)


@kernel("gelu")
def _gelu(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    return _over("gelu_tanh" if attrs.get("approximation", "erf") == "tanh" else "gelu", inputs[0])


@kernel("sigmoid")
def _sigmoid(inputs: Sequence[Any], attrs: dict[str, Any]) -> Bound | None:
    return _over("sigmoid", inputs[0])
