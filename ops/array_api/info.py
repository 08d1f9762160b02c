"""What there is: devices, dtypes, capabilities."""

from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.array_api import dtypes as known
from shoal.ops.backend import gpu_count
from shoal.ops.numpylike.info import isdtype

__all__ = ["__array_namespace_info__"]

_NAMES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "complex64",
    "complex128",
]


class __array_namespace_info__:
    """What the namespace can do; see the standard's section on inspection."""

    def capabilities(self) -> dict[str, Any]:
        """Masks as subscripts, results whose shape depends on values, and how many axes an array may have."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """Where arrays are made if nothing else is said."""
        return "cpu"

    def devices(self) -> list[str]:
        """All that arrays can be on."""
        return ["cpu", *(f"gpu:{i}" for i in range(gpu_count()))]

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """What Python numbers become."""
        self._require(device)
        return {
            "real floating": np.dtype("float32"),
            "complex floating": np.dtype("complex64"),
            "integral": np.dtype("int64"),
            "indexing": np.dtype("int64"),
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        """The dtypes by name: all, or those of a kind such as "integral" or of one of several."""
        self._require(device)
        found = {name: getattr(known, name) for name in _NAMES}
        return found if kind is None else {name: d for name, d in found.items() if isdtype(d, kind)}

    def _require(self, device: Any) -> None:
        if device is not None and device not in self.devices():
            raise ConfigError(f"no device is called {device!r}; there are {', '.join(self.devices())}")
