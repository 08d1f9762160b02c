"""The namespace of a fake GPU's arrays: NumPy's functions under CuPy's names, and no others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from shoal.errors import CaptureError
from shoal.ops import cephes
from shoal.ops.gpu.fake import names
from shoal.ops.gpu.fake.arrays import FakeArray, Place, call, changed, filled, place, unwrapped, waited
from shoal.ops.gpu.fake.rawmodules import FakeRawModule
from shoal.ops.special import erf

if TYPE_CHECKING:
    from shoal.ops.gpu.fake.gpu import FakeGpu

__all__ = ["FakeModule", "known"]


def known_names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


MAKING = known_names(
    "array asarray asanyarray ascontiguousarray asfortranarray arange zeros ones full eye identity linspace logspace "
    "tri meshgrid indices diag_indices tril_indices triu_indices bartlett blackman hamming hanning kaiser geomspace"
)
"""Functions that make arrays of the current GPU from none."""

CHANGING = frozenset(["copyto", "fill_diagonal", "place", "put", "putmask", "put_along_axis"])
"""Functions that write to their first argument."""

FROM_HOST = frozenset(["array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"])

UFUNC = frozenset(["out", "dtype", "casting"])


def known(text: str) -> dict[str, frozenset[str] | None]:
    """Names and the keywords of functions, from the text of `shoal.ops.gpu.fake.names`; None where any may be given."""
    found: dict[str, frozenset[str] | None] = {}
    for word in text.split():
        name, bracket, rest = word.partition("(")
        keywords = frozenset(k for k in rest.rstrip(")").split(",") if k)
        found[name] = None if not bracket or any(k.startswith("**") for k in keywords) else keywords or UFUNC
    return found


_FAMILIES = {
    "": (known(names.CUPY), np),
    "linalg.": (known(names.LINALG), np.linalg),
    "fft.": (known(names.FFT), np.fft),
    "random.": (known(names.RANDOM), np.random),
    "special.": (known(names.SPECIAL), SimpleNamespace(**{**vars(cephes), "erf": erf})),
}
_METHODS = frozenset(names.METHODS.split())
_ATTRIBUTES = known_names("T base dtype flags itemsize mT nbytes ndim shape size strides")
_METHODS_CHANGING = frozenset(["fill", "sort", "partition", "put"])


class FakeModule:
    """What ``cupy`` is, for a fake GPU.

    Args:
        current: gives the current GPU.
        count: how many there are.
        kernels: whether it has ``RawModule``, so that kernels of `shoal.ops.gpu.kernels` run.
    """

    __name__ = "fakecupy"
    ndarray = FakeArray

    def __init__(
        self, current: Callable[[], "FakeGpu"], count: int, prefix: str = "", *, kernels: bool = False
    ) -> None:
        self._current, self._count, self._prefix = current, count, prefix
        if kernels:
            self.RawModule = lambda code, options=(), **_: FakeRawModule(current, code)
        if not prefix:
            for family in _FAMILIES:
                if family:
                    setattr(self, family[:-1], FakeModule(current, count, family))
            self.lib = SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=self._as_strided))
            self.cuda = _Cuda(current, count)

    def __getattr__(self, name: str) -> Any:
        table, real = _FAMILIES[self._prefix]
        if name not in table:
            raise AttributeError(f"CuPy {names.VERSION} has no {self._prefix}{name}")
        found = getattr(real, name)
        if not callable(found) or isinstance(found, type) or name in ("dtype", "finfo", "iinfo"):
            return found
        return self._function(name, found, table[name])

    def _function(self, name: str, function: Any, keywords: frozenset[str] | None) -> Callable[..., Any]:
        full, checked = self._prefix + name, keywords

        def applied(*inputs: Any, **options: Any) -> Any:
            wrong = [] if checked is None else [k for k in options if k not in checked]
            if wrong:
                raise TypeError(f"CuPy's {full}() got an unexpected keyword argument {wrong[0]!r}")
            if name in CHANGING and not self._prefix:
                return changed(full, function, inputs, options, inputs[0])
            if name in FROM_HOST and inputs and isinstance(inputs[0], FakeArray):
                inputs = (self._here(inputs[0]), *inputs[1:])
            gpu = place(full, inputs, options)
            if gpu is None and (name in MAKING or self._prefix == "random." or name in ("empty", "empty_like")):
                return self._made(name, function, inputs, options)
            options.pop("blocking", None)
            if name in ("empty", "empty_like"):
                return self._made(name, function, inputs, options)
            return call(full, function, inputs, options)

        at = getattr(function, "at", None)
        if at is not None:
            applied.at = lambda x, *rest: changed(f"{name}.at", at, (x, *rest), {}, x)  # type: ignore[attr-defined]  # as a ufunc has it
        for attribute in ("nin", "nout"):
            if hasattr(function, attribute):
                setattr(applied, attribute, getattr(function, attribute))
        applied.__name__ = name
        return applied

    def _made(self, name: str, function: Any, inputs: Any, options: dict[str, Any]) -> Any:
        """New arrays from numbers or from those of the host."""
        gpu = self._current()
        options.pop("blocking", None)
        if name in ("empty", "empty_like"):
            like = function(*unwrapped(inputs), **unwrapped(options))
            made = gpu.empty(like.shape, like.dtype)
            if like.ndim and not like.flags.c_contiguous and like.flags.f_contiguous:
                made._raw = made._raw.reshape(like.shape[::-1]).T
            return made
        if self._prefix == "random.":
            gpu.refuse_library("cuRAND", f"random.{name}")
        found = function(*inputs, **options)
        if name in FROM_HOST and getattr(found, "ndim", 0) > 0 and gpu.timeline.recording_of(gpu.timeline.current):
            raise CaptureError(
                f"gpu:{gpu.index}: {name}() copies values of the host in a recording, which would be read again at "
                "each replay, when they are gone; make them before, and give them as an input"
            )
        if isinstance(found, (list, tuple)):
            return [filled(gpu, np.asarray(x)) for x in found]
        return filled(gpu, np.asarray(found))

    def _here(self, x: FakeArray) -> FakeArray:
        """An array on the current GPU: itself, or a copy."""
        gpu = self._current()
        if x._gpu is gpu:
            return x
        waited(x._gpu, "copying to another GPU")
        return filled(gpu, x._raw)

    def method(self, x: FakeArray, name: str) -> Any:
        """An attribute of an array."""
        if name not in _METHODS or name.startswith("__"):
            raise AttributeError(f"CuPy's array has no {name!r}")
        if name in ("T", "mT"):
            return call(name, lambda a: getattr(a, name), (x,), {})
        if name in _ATTRIBUTES:
            return getattr(x._raw, name)
        if name in _METHODS_CHANGING:
            return lambda *more, **options: changed(
                name, lambda a, *b, **c: getattr(a, name)(*b, **c), (x, *more), options, x
            )
        return lambda *more, **options: call(name, lambda a, *b, **c: getattr(a, name)(*b, **c), (x, *more), options)

    def _as_strided(self, x: FakeArray, shape: Any = None, strides: Any = None) -> Any:
        return call("as_strided", lambda a: np.lib.stride_tricks.as_strided(a, shape, strides), (x,), {})

    def asnumpy(self, x: Any) -> Any:
        """A copy in host memory."""
        return x.get() if isinstance(x, FakeArray) else np.asarray(x)


class _Cuda:
    """``cupy.cuda``, as far as code beside `shoal.ops.gpu.device` uses it."""

    def __init__(self, current: Callable[[], "FakeGpu"], count: int) -> None:
        self._current = current
        self.runtime = SimpleNamespace(getDeviceCount=lambda: count)

    @contextmanager
    def Device(self, number: int | None = None) -> Iterator[Place]:
        """Within this context the current device is this one."""
        from shoal.ops.gpu.fake.gpu import current_index, entered

        with entered(current_index() if number is None else number):
            yield Place(current_index())

    def get_current_stream(self) -> Any:
        """The stream that work goes to."""
        return self._current().timeline.current
