"""Whether the CuPy that is installed has the names that the fake one, and so all tests, count on."""

import inspect
from types import ModuleType
from typing import Any

from shoal.errors import ConfigError
from shoal.ops.gpu.fake import names
from shoal.ops.gpu.fake.module import UFUNC, known

__all__ = ["installed", "missing"]


def installed() -> dict[str, Any]:
    """The modules of the installed CuPy by what `missing` calls them; importing them needs no driver.

    Raises:
        ConfigError: there is no CuPy.
    """
    try:
        import cupy
        import cupyx.scipy.special
    except ImportError as error:
        raise ConfigError(f"CuPy cannot be imported: {error}") from error
    modules = {"": cupy, "linalg.": cupy.linalg, "fft.": cupy.fft, "special.": cupyx.scipy.special}
    return {**modules, "version": cupy.__version__}


def missing(modules: dict[str, Any]) -> list[str]:
    """Names, and keywords of functions, that the list of `shoal.ops.gpu.fake.names` has and the modules have not."""
    texts = {"": names.CUPY, "linalg.": names.LINALG, "fft.": names.FFT, "special.": names.SPECIAL}
    found = []
    for prefix, text in texts.items():
        for name, keywords in known(text).items():
            thing = getattr(modules[prefix], name, None)
            if not hasattr(modules[prefix], name):
                found.append(prefix + name)
            elif keywords is not None and inspect.isfunction(thing):
                parameters = inspect.signature(thing).parameters
                lacking = sorted(keywords - UFUNC - set(parameters))
                if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                    found += [f"{prefix}{name}({k}=)" for k in lacking]
    methods = getattr(modules[""], "ndarray", ModuleType)
    return found + [f"ndarray.{name}" for name in names.METHODS.split() if not hasattr(methods, name)]
