"""Arrays of a fake GPU, and how their functions are put off.

A function is tried at once, for the shape and dtype of what it gives; a view of its inputs is given as it is. Anything
else gets memory from the pool, filled with NaN, and the function is put on the current stream.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from shoal.ops.gpu.fake.gpu import FakeGpu

__all__ = ["Block", "FakeArray", "Place", "call", "changed", "filled", "place", "ranges", "unwrapped", "waited"]

LIBRARIES = {
    **dict.fromkeys(["matmul", "dot", "vdot", "inner", "tensordot", "einsum", "__matmul__", "__rmatmul__"], "cuBLAS"),
    **dict.fromkeys(["linalg.cholesky", "linalg.qr", "linalg.svd", "linalg.eigh", "linalg.eigvalsh"], "cuSOLVER"),
    **dict.fromkeys(["linalg.solve", "linalg.inv", "linalg.pinv", "linalg.lstsq", "linalg.det"], "cuSOLVER"),
}
"""Functions that call a library which CuPy does not let into a recording; those of ``random`` besides."""

WAITING = frozenset(["nonzero", "flatnonzero", "argwhere", "unique", "array_equal", "allclose", "bincount", "compress"])
"""Functions whose result, or its shape, is needed here."""


class Block:
    """Memory of the pool; goes back to it when nobody has it any more."""

    __slots__ = ("_back", "memory")

    def __init__(self, memory: Any, back: Callable[[Any], None]) -> None:
        self.memory, self._back = memory, back

    def __del__(self) -> None:
        self._back(self.memory)


class Place:
    """A number of a device: what ``array.device`` and ``cuda.Device`` are."""

    __slots__ = ("id",)

    def __init__(self, number: int) -> None:
        self.id = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


class Pointer:
    """``array.data``: where it lies."""

    __slots__ = ("ptr",)

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class FakeArray:
    """An array of a fake GPU.

    Args:
        raw: the NumPy array with its elements, which may not be computed yet.
        gpu: where it is.
        block: its memory.
    """

    __slots__ = ("__weakref__", "_block", "_gpu", "_raw")
    __array_priority__ = 100.0

    def __init__(self, raw: Any, gpu: "FakeGpu", block: Block) -> None:
        self._raw, self._gpu, self._block = raw, gpu, block

    def __getattr__(self, name: str) -> Any:
        return self._gpu.module.method(self, name)

    @property
    def data(self) -> Pointer:
        """Its address."""
        return Pointer(int(self._raw.__array_interface__["data"][0]))

    @property
    def device(self) -> Place:
        """Its GPU."""
        return Place(self._gpu.index)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self._raw.shape,
            "strides": self._raw.strides,
            "typestr": self._raw.dtype.str,
            "data": (self.data.ptr, False),
            "version": 3,
        }

    @property
    def real(self) -> Any:
        """Its real part: a view."""
        return call("real", lambda x: x.real, (self,), {})

    @real.setter
    def real(self, value: Any) -> None:
        changed("real", lambda x, v: setattr(x, "real", v), (self, value), {}, self)

    @property
    def imag(self) -> Any:
        """Its imaginary part: a view, or zeros."""
        return call("imag", lambda x: x.imag, (self,), {})

    @imag.setter
    def imag(self, value: Any) -> None:
        changed("imag", lambda x, v: setattr(x, "imag", v), (self, value), {}, self)

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        """A copy in host memory; waits."""
        waited(self._gpu, "get()")
        if out is not None:
            out[...] = self._raw
            return out
        return self._raw.copy()

    def item(self, *at: Any) -> Any:
        """An element as a number; waits."""
        waited(self._gpu, "item()")
        return self._raw.item(*at)

    def tolist(self) -> Any:
        """Nested lists; waits."""
        waited(self._gpu, "tolist()")
        return self._raw.tolist()

    def tobytes(self, order: Any = "C") -> bytes:
        """Its bytes; waits."""
        waited(self._gpu, "tobytes()")
        return bytes(self._raw.tobytes(order))

    def set(self, values: Any, stream: Any = None) -> None:
        """Copy from host memory."""
        changed("set", lambda x: x.__setitem__(..., values), (self,), {}, self)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>: an array of the host does not mix with a GPU's")
        changed("setitem", lambda x, k, v: x.__setitem__(k, v), (self, key, value), {}, self)

    def __getitem__(self, key: Any) -> Any:
        for k in key if isinstance(key, tuple) else (key,):
            if getattr(k, "dtype", None) == np.bool_ and getattr(k, "ndim", 0):
                waited(self._gpu, "indexing with truth values")
        return call("getitem", lambda x, k: x[k], (self, key), {}, index=True)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self._raw)))

    def __repr__(self) -> str:
        return f"<array {self._raw.shape} {self._raw.dtype} on gpu:{self._gpu.index}>"

    def __hash__(self) -> int:
        raise TypeError("unhashable type: 'FakeArray'")

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "at":
            return changed(f"{ufunc.__name__}.at", ufunc.at, inputs, options, inputs[0])
        if method != "__call__":
            raise TypeError(f"CuPy's {ufunc.__name__} has no {method}")
        if isinstance(options.get("out"), tuple) and len(options["out"]) == 1:
            options["out"] = options["out"][0]
        return getattr(self._gpu.module, ufunc.__name__)(*inputs, **options)

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        return getattr(self._gpu.module, function.__name__)(*inputs, **options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._gpu.index


def _binary(name: str) -> None:
    operation = getattr(np.ndarray, name)
    inplace = name.startswith("__i") and name not in ("__invert__",)

    def method(self: FakeArray, *other: Any) -> Any:
        if any(isinstance(x, np.ndarray) and x.ndim for x in other):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>: an array of the host does not mix with a GPU's")
        if any(not isinstance(x, (FakeArray, int, float, complex, np.generic, np.ndarray)) for x in other):
            return NotImplemented
        if inplace:
            changed(name, operation, (self, *other), {}, self)
            return self
        return call(name, operation, (self, *other), {})

    method.__name__ = name
    setattr(FakeArray, name, method)


_PAIRS = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
for _name in _PAIRS.split():
    for _form in (_name, "r" + _name, "i" + _name):
        if hasattr(np.ndarray, f"__{_form}__"):
            _binary(f"__{_form}__")
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert", "divmod", "rdivmod"):
    _binary(f"__{_name}__")


def _each(x: Any) -> Iterator[Any]:
    if isinstance(x, FakeArray):
        yield x
    elif isinstance(x, (list, tuple)):
        for y in x:
            yield from _each(y)
    elif isinstance(x, dict):
        for y in x.values():
            yield from _each(y)


def unwrapped(x: Any) -> Any:
    """``x`` with the NumPy arrays of fake ones."""
    if isinstance(x, FakeArray):
        return x._raw
    if isinstance(x, (list, tuple)):
        return type(x)([unwrapped(y) for y in x])
    if isinstance(x, dict):
        return {k: unwrapped(v) for k, v in x.items()}
    if isinstance(x, slice):
        return slice(unwrapped(x.start), unwrapped(x.stop), unwrapped(x.step))
    return x


def ranges(arrays: Iterable[Any]) -> list[tuple[int, int]]:
    """The addresses of arrays, fake ones or NumPy's."""
    found = []
    for x in arrays:
        raw = x._raw if isinstance(x, FakeArray) else x
        if raw.size:
            found.append(np.lib.array_utils.byte_bounds(raw))
    return found


def place(name: str, inputs: Any, options: Any) -> "FakeGpu | None":
    """The GPU of the arrays among the arguments.

    Raises:
        ValueError: they are on another one than the current (as CuPy has it), or some are NumPy's.
    """
    from shoal.ops.gpu.fake.gpu import current_index

    found = None
    for x in _each((inputs, options)):
        if x._gpu.index != current_index():
            raise ValueError(
                f"{name}: Array device must be same as the current device: "
                f"array device = {x._gpu.index} while current = {current_index()}"
            )
        found = x._gpu
    return found


def waited(gpu: "FakeGpu", why: str) -> None:
    """The host needs a value now.

    Raises:
        CaptureError: which cannot be, in a recording.
    """
    if gpu.timeline.depth:
        return
    gpu.timeline.refuse(f"{why}, which waits,", gpu.timeline.current)
    gpu.waits.append(why)
    gpu.timeline.current.synchronize()


def call(name: str, function: Callable[..., Any], inputs: Any, options: Any, *, index: bool = False) -> Any:
    """Apply a function of NumPy arrays to fake ones: put off."""
    gpu = place(name, inputs, options)
    if gpu is None:
        return function(*inputs, **options)
    if not index:
        _no_host_arrays(name, inputs)
    _no_library(gpu, name)
    if options.get("out") is not None:
        outs = list(_each(options["out"]))
        changed(name, function, inputs, options, *outs)
        return options["out"]
    if name in WAITING:
        waited(gpu, f"{name}()")
        return _mapped(lambda x: filled(gpu, np.asarray(x)), function(*unwrapped(inputs), **unwrapped(options)))
    raw_inputs, raw_options = unwrapped(inputs), unwrapped(options)
    tried = _tried(gpu, function, raw_inputs, raw_options)
    sources = list(_each((inputs, options)))
    made: list[FakeArray] = []
    result = _mapped(lambda x: _placed(gpu, x, sources, made), tried)
    if made:
        targets, given = [m._raw for m in made], [s._raw for s in sources]  # not their blocks: these may be dropped

        def run() -> None:
            found = list(_arrays(_quiet(function, raw_inputs, raw_options)))
            fresh = [x for x in found if not any(_shares(x, s) for s in given)]
            for target, value in zip(targets, fresh, strict=True):
                target[...] = value

        _put(gpu, name, run, sources, made)
    return result


def changed(name: str, function: Callable[..., Any], inputs: Any, options: Any, *targets: FakeArray) -> None:
    """Apply a function that writes to ``targets``: put off."""
    gpu = place(name, inputs, options)
    assert gpu is not None
    _no_library(gpu, name)
    raw_inputs, raw_options = unwrapped(inputs), unwrapped(options)
    sources = [x for x in _each((inputs, options)) if all(x is not t for t in targets)]
    sources += [t for t in targets if name.startswith("__i") or name.endswith(".at")]
    _put(gpu, name, lambda: _quiet(function, raw_inputs, raw_options), sources, targets)


def filled(gpu: "FakeGpu", values: Any) -> FakeArray:
    """A new array with these values, behind the work of the current stream."""
    made = gpu.empty(values.shape, values.dtype)
    target, kept = made._raw, np.array(values)

    def run() -> None:
        target[...] = kept

    _put(gpu, "fill", run, (), (made,))
    return made


def _put(gpu: "FakeGpu", name: str, run: Callable[[], Any], reads: Sequence[Any], writes: Sequence[Any]) -> None:
    if gpu.timeline.depth:
        run()
    else:
        gpu.timeline.put(name, run, ranges(reads), ranges(writes))


def _no_host_arrays(name: str, inputs: Any) -> None:
    for x in inputs:
        for y in x if isinstance(x, (list, tuple)) else (x,):
            if isinstance(y, np.ndarray):
                raise TypeError(f"{name}: Unsupported type <class 'numpy.ndarray'>: an array of the host, with a GPU's")


def _no_library(gpu: "FakeGpu", name: str) -> None:
    library = LIBRARIES.get(name) or ("cuRAND" if name.startswith("random.") else "")
    if library:
        gpu.refuse_library(library, name)


def _tried(gpu: "FakeGpu", function: Callable[..., Any], inputs: Any, options: Any) -> Any:
    try:
        return _quiet(function, inputs, options)
    except (IndexError, ValueError, OverflowError, ZeroDivisionError, np.linalg.LinAlgError):
        if gpu.timeline.depth:
            raise
        if gpu.timeline.recording_of(gpu.timeline.current) is not None:
            return _quiet(function, _blank(inputs), _blank(options))
        gpu.timeline.current.carry_out(gpu.timeline.current.given)  # it may be for want of values
        return _quiet(function, inputs, options)


def _blank(x: Any) -> Any:
    """Arguments with zeros for integers, which may be positions that are not computed yet."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "iu":
        return np.zeros(x.shape, x.dtype)
    if isinstance(x, (list, tuple)):
        return type(x)([_blank(y) for y in x])
    return {k: _blank(v) for k, v in x.items()} if isinstance(x, dict) else x


def _quiet(function: Callable[..., Any], inputs: Any, options: Any) -> Any:
    """A GPU does not warn."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*inputs, **options)


def _arrays(x: Any) -> Iterator[Any]:
    if isinstance(x, (np.ndarray, np.generic)):
        yield np.asarray(x)
    elif isinstance(x, (list, tuple)):
        for y in x:
            yield from _arrays(y)


def _mapped(change: Callable[[Any], Any], x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return change(np.asarray(x))
    if isinstance(x, (list, tuple)):
        parts = [_mapped(change, y) for y in x]
        return parts if isinstance(x, list) else type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def _shares(x: Any, y: Any) -> bool:
    return bool(x.size and y.size and np.may_share_memory(x, y))


def _placed(gpu: "FakeGpu", x: Any, sources: Sequence[FakeArray], made: list[FakeArray]) -> FakeArray:
    """An array for a result: a view of an input, or new memory, in the same order."""
    for s in sources:
        if _shares(x, s._raw):
            return FakeArray(x, gpu, s._block)
    order = sorted(range(x.ndim), key=lambda axis: (-abs(x.strides[axis]), axis))
    lying = gpu.empty([x.shape[a] for a in order], x.dtype)
    lying._raw = lying._raw.transpose([order.index(a) for a in range(x.ndim)])
    made.append(lying)
    return lying


def poison(raw: Any) -> None:
    """Fill with what nobody computes by accident."""
    if raw.dtype.kind in "fcV" or raw.dtype.name == "bfloat16":
        raw.fill(math.nan)
    else:
        raw.fill(0)
