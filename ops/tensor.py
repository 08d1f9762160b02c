"""Tensor: an array whose operators compute at once and, inside `autograd.record`, remember how."""

import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from shoal.errors import AutogradError, ConfigError, DTypeError, ShapeError, ShoalError
from shoal.ops import bits, compare, dlpack, elementwise, index, linalg, lines, random, tape
from shoal.ops.backend import CPU, HOST_TYPES, Namespace, asnumpy, gpu_count, namespace, on_device, placed
from shoal.ops.context import as_device, at, current_device
from shoal.ops.lines import called_by_user
from shoal.ops.methods import ArrayMethods
from shoal.ops.precision import BFLOAT16, is_float, narrow_numbers
from shoal.ops.registry import Op, spec_of
from shoal.ops.tape import Leaf, Node

__all__ = ["Tensor", "array", "raw"]

_NOT_FITTING = (ValueError, TypeError, IndexError, AttributeError)

_state = tape.state


class Tensor(ArrayMethods):
    """An array of numbers in memory, or on a GPU.

    Args:
        data: a NumPy or CuPy array, which is not copied; anything else is made an array of.
    Attributes:
        data: the raw array. Writing to it is invisible to autograd.
        node: how it was computed, or the `Leaf` that takes its gradient; None off the tape.
        index: which of the node's outputs it is.

    >>> Tensor(np.arange(3.0)) * 2.0 + 1.0
    Tensor([1., 3., 5.], dtype=float64)
    """

    __slots__ = ("__weakref__", "data", "index", "node")
    __array_priority__ = 1000.0  # ndarray + Tensor asks the Tensor

    def __init__(self, data: Any, node: Node | Leaf | None = None, index: int = 0) -> None:
        if type(data) is not np.ndarray:
            data = _as_array(data)
        self.data = data
        self.node = node
        self.index = index

    @classmethod
    def _invoke(cls, op: Op[Any], inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        raw: list[Any] = []
        tracked, number, host = False, False, True
        for x in inputs:
            if isinstance(x, Tensor):
                data = x.data
                raw.append(data)
                if type(data) is not np.ndarray:
                    host = False
                if x.node is not None:
                    tracked = True
            else:
                raw.append(x)
                if type(x) is float or type(x) is int:
                    number = True
                elif type(x) not in HOST_TYPES:
                    host = False
        if number:
            for data in raw:
                if type(data) is np.ndarray and data.dtype is BFLOAT16:
                    raw = narrow_numbers(raw, op.ufunc)
                    break
        try:
            if host and op.direct is not None:
                out = op.direct(*raw)
            elif host:
                out = op.forward(CPU, *raw, **attrs)
            else:
                out = _elsewhere(op, raw, attrs)
        except _NOT_FITTING as error:
            _explain(op, inputs, attrs, error)
        node = Node(op, inputs, attrs, out) if tracked and _state.recording and op.rule is not None else None
        if type(out) is tuple:
            made: Any = tuple(Tensor(o, node, i) for i, o in enumerate(out))
        else:
            made = Tensor(out, node)
        if _state.tracer is not None:
            _state.tracer.computed(op, inputs, attrs, made)
        return made

    def _random_key(self, purpose: str) -> Any:
        with at(self.data):
            return self.backend.asarray(random.next_key(purpose))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.data.shape  # type: ignore[no-any-return]  # data is Any: either backend

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.data.dtype  # type: ignore[no-any-return]  # data is Any: either backend

    @property
    def backend(self) -> Namespace:
        """The namespace of the raw array: NumPy's or CuPy's functions."""
        return namespace(self.data)

    @property
    def device(self) -> str:
        """ "cpu", or "gpu:0" and so on."""
        return "cpu" if isinstance(self.data, np.ndarray) else f"gpu:{self.data.device.id}"

    def to_device(self, device: str, /, *, stream: Any = None) -> "Tensor":
        """This tensor on "cpu" or "gpu:0"; itself if it is there. Not recorded.

        Raises:
            ConfigError: there is no such device.
        """
        return self if device == self.device else Tensor(on_device(self.data, device))

    def to(self, *what: Any, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> "Tensor":
        """This tensor on a device, of a dtype, or both: ``x.to("gpu:0")``, ``x.to("float16")``, ``x.to(other)``.

        A change of dtype is recorded, one of the device is not. ``non_blocking`` is for scripts of PyTorch: a copy to a
        GPU does not wait, one from it does.

        Args:
            what: a device, a dtype, or a tensor to be like.
        Raises:
            ConfigError: there is no such device.
        """
        for one in what:
            if isinstance(one, Tensor):
                device, dtype = one.device, one.dtype
            elif isinstance(one, str) and one.partition(":")[0] in ("cpu", "gpu", "cuda"):
                device = one
            elif one is not None and not isinstance(one, bool):
                dtype = one
        found = self if device is None else self.to_device(as_device(device) or self.device)
        return found if dtype is None or np.dtype(dtype) == found.dtype else found.astype(dtype)

    def as_in_ctx(self, ctx: Any) -> "Tensor":
        """`to_device`, in MXNet's word."""
        return self.to(device=ctx)

    as_in_context = as_in_ctx

    @property
    def ctx(self) -> str:
        """`device`, in MXNet's word."""
        return self.device

    context = ctx

    def cpu(self) -> "Tensor":
        """This tensor in the host's memory."""
        return self.to_device("cpu")

    def cuda(self, device: int = 0) -> "Tensor":
        """This tensor on a GPU."""
        return self.to_device(f"gpu:{device}")

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The functions of the Python array API standard.

        Raises:
            ConfigError: another version of the standard than 2024.12 or an earlier one.
        """
        from shoal.ops import array_api

        if api_version is not None and api_version not in ("2021.12", "2022.12", "2023.12", "2024.12"):
            raise ConfigError(
                f"the array API standard of version {api_version!r}; there is 2024.12 and those before it"
            )
        return array_api

    # -- gradients

    @property
    def grad(self) -> "Tensor | None":
        """What the backward pass writes to; the same tensor each time. None before `attach_grad`."""
        return self.node.grad if type(self.node) is Leaf else None

    @property
    def grad_req(self) -> str:
        """ "write", "add" or "null"."""
        return self.node.req if type(self.node) is Leaf else "null"

    def attach_grad(self, grad_req: str = "write", grad: Any = None, stype: str | None = None) -> None:
        """Make this tensor a variable: the backward pass delivers its gradient to `grad`. Forgets how it was computed.

        Args:
            grad_req: "write" each pass overwrites the gradient, "add" adds to it, "null" no gradient is taken.
            grad: the tensor to deliver to, such as a part of a larger buffer; by default the one it has, set to
                zero, or a new one.
            stype: "row_sparse" for a gradient that is a `RowSparseTensor`, as embeddings have it.
        Raises:
            ValueError: an unknown ``grad_req``.
            ShapeError: ``grad`` has another shape.
            AutogradError: integers and booleans have no gradient.
        """
        if grad_req not in ("write", "add", "null"):
            raise ValueError(f"grad_req must be 'write', 'add' or 'null', got {grad_req!r}")
        if grad_req == "null":
            self.node, self.index = None, 0
            return
        if not is_float(self.dtype):
            raise AutogradError(f"a tensor of dtype {self.dtype} has no gradient; convert it with astype('float32')")
        if grad is None and stype == "row_sparse":
            grad = sparse_zeros(self.shape, self.dtype)
        elif grad is None:
            self.zero_grad()
            with at(self.data):
                grad = Tensor(self.backend.zeros_like(self.data)) if self.grad is None else self.grad
        if grad.shape != self.shape or grad.dtype != self.dtype:
            raise ShapeError(
                f"a tensor of shape {self.shape}, {self.dtype} needs a gradient buffer like it, "
                f"got {grad.shape}, {grad.dtype}"
            )
        self.node, self.index = Leaf(grad, grad_req), 0

    def zero_grad(self) -> None:
        """Set the gradient to zero; nothing happens if there is none."""
        if type(self.node) is Leaf and self.node.grad is not None:
            self.node.empty()

    def backward(self, out_grad: Any = None, retain_graph: bool = False, train_mode: bool = True) -> None:
        """Deliver gradients to all variables this tensor was computed from. See `shoal.autograd.backward`."""
        tape.backward_from([self], [out_grad], retain=retain_graph, train_mode=train_mode)

    def register_hook(self, hook: tape.Hook) -> tape.HookHandle:
        """Call ``hook(gradient)`` in each backward pass that comes to this tensor, with the whole of its gradient.

        Args:
            hook: takes the gradient as a tensor, not to be written to; what it returns, unless None, goes on in its
                place, and must have its shape. A variable with ``grad_req="add"`` adds what the hook returns.
        Returns:
            A handle whose `detach` removes the hook.
        Raises:
            AutogradError: this tensor takes part in no gradient.
        """
        if self.node is None:
            raise AutogradError(
                f"a hook on a tensor of shape {self.shape} that takes part in no gradient would never be called: "
                "attach_grad() it, or compute it inside autograd.record()"
            )
        return tape.hook(self.node, self.index, hook)

    def tostype(self, stype: str) -> Any:
        """This as "default" (itself), "row_sparse" or "csr"; see `shoal.sparse.cast_storage`."""
        from shoal.ops import sparse

        return self if stype == "default" else sparse.cast_storage(self, stype)

    @property
    def stype(self) -> str:
        """ "default": all elements are stored."""
        return "default"

    def detach(self) -> "Tensor":
        """The same array (not a copy) off the tape: a constant."""
        return Tensor(self.data)

    # -- values

    def asnumpy(self) -> Any:
        """A copy of the values as a NumPy array; `numpy.asarray` of a tensor in host memory shares it."""
        if _state.tracer is not None and called_by_user():
            self._drawn("the values")
        return self.data.copy() if type(self.data) is np.ndarray else asnumpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if _state.tracer is not None and called_by_user():
            self._drawn("the values")
        return np.array(asnumpy(self.data), dtype=dtype, copy=copy)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        return dlpack.export(self.data, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> Any:
        return (1, 0) if isinstance(self.data, np.ndarray) else self.data.__dlpack_device__()

    def item(self) -> Any:
        """The only element, as a Python number.

        Raises:
            ShapeError: there are more, or none.
        """
        if self.data.size != 1:
            raise ShapeError(f"item() needs a tensor with one element, this one has shape {self.shape}")
        self._drawn("a number")
        return self.data.item()

    def tobytes(self) -> bytes:
        """The bytes of the elements, in C order."""
        return bytes(asnumpy(self.data).tobytes())

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        self._drawn("the numbers")
        return self.data.tolist()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        value = self.item()
        if not isinstance(value, int):
            raise TypeError(f"a tensor of dtype {self.dtype} cannot be an index")
        return value

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ValueError(f"a tensor of shape {self.shape} is neither true nor false; use .any() or .all()")
        self._drawn("the truth value")
        return bool(self.data)

    def _drawn(self, what: str) -> None:
        """Python is given numbers of this tensor: whoever traces may object, for they would be part of the graph."""
        if _state.tracer is not None:
            _state.tracer.drawn(self, what)

    def __complex__(self) -> complex:
        return complex(self.item())

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        text = np.array2string(asnumpy(self.data), separator=", ", prefix="Tensor(")
        device = "" if self.device == "cpu" else f", device={self.device!r}"
        return f"Tensor({text}, dtype={self.dtype}{device})"

    def __deepcopy__(self, memo: Any) -> "Tensor":
        made = Tensor(self.data.copy())
        if type(self.node) is Leaf:
            made.attach_grad(self.grad_req)
        return made

    def __reduce__(self) -> Any:
        return (Tensor, (asnumpy(self.data),))

    # -- writing in place

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._is_written_on_the_tape(value):
            before = self._before("x[...] = value")
            self._become(index.assign(before, key, value))
            return
        try:
            self.data[index.raw_key(key)] = raw(value)
        except (ValueError, IndexError) as error:
            if not self.data.flags.writeable:
                raise AutogradError(
                    f"a tensor of shape {self.shape} cannot be written to: its memory is shared, as that of "
                    "broadcast_to; copy() it first"
                ) from error
            index.assign(self, key, value)  # says what does not fit
            raise

    def _inplace(self, op: Op[Any], symbol: str, other: Any) -> "Tensor":
        if self._is_written_on_the_tape(other):
            return self._inplace_on_the_tape(op, symbol, other)
        result = raw(op(self.detach(), raw(other)))
        self._require_fit(result, symbol)
        self.backend.copyto(self.data, result, casting="same_kind")
        return self

    def _inplace_on_the_tape(self, op: Op[Any], symbol: str, other: Any) -> "Tensor":
        if self._is_part_of_an_update(sys._getframe(3)):
            result: Tensor = op(self, other)
            self._require_fit(result.data, symbol)
            return result if result.dtype == self.dtype else result.astype(self.dtype)
        before = self._before(f"x {symbol} value")
        result = op(before, other)
        self._require_fit(result.data, symbol)
        self._become(index.assign(before, ..., result))
        return self

    def _require_fit(self, result: Any, symbol: str) -> None:
        if result.shape != self.shape:
            raise ShapeError(f"x {symbol} value: x has shape {self.shape}, the result would have {result.shape}")
        if not np.can_cast(result.dtype, self.dtype, "same_kind"):
            raise DTypeError(f"x {symbol} value: x is {self.dtype}, the result would be {result.dtype}")

    def __iadd__(self, other: Any) -> "Tensor":
        return self._inplace(elementwise.add, "+=", other)

    def __isub__(self, other: Any) -> "Tensor":
        return self._inplace(elementwise.subtract, "-=", other)

    def __imul__(self, other: Any) -> "Tensor":
        return self._inplace(elementwise.multiply, "*=", other)

    def __itruediv__(self, other: Any) -> "Tensor":
        return self._inplace(elementwise.divide, "/=", other)

    def __ifloordiv__(self, other: Any) -> "Tensor":
        return self._inplace(elementwise.floor_divide, "//=", other)

    def __imod__(self, other: Any) -> "Tensor":
        return self._inplace(elementwise.mod, "%=", other)

    def __ipow__(self, other: Any) -> "Tensor":
        return self._inplace(elementwise.power, "**=", other)

    def __imatmul__(self, other: Any) -> "Tensor":
        return self._inplace(linalg.matmul, "@=", other)

    def __iand__(self, other: Any) -> "Tensor":
        return self._inplace(compare.bitwise_and, "&=", other)

    def __ior__(self, other: Any) -> "Tensor":
        return self._inplace(compare.bitwise_or, "|=", other)

    def __ixor__(self, other: Any) -> "Tensor":
        return self._inplace(compare.bitwise_xor, "^=", other)

    def __ilshift__(self, other: Any) -> "Tensor":
        return self._inplace(bits.left_shift, "<<=", other)

    def __irshift__(self, other: Any) -> "Tensor":
        return self._inplace(bits.right_shift, ">>=", other)

    # A write on the tape makes a new array, which this tensor then stands for; what was computed from the old one
    # goes on to see that, because the backward pass resolves it: see `tape.settle`.

    def _is_written_on_the_tape(self, value: Any) -> bool:
        return _state.recording and (self.node is not None or getattr(value, "node", None) is not None)

    def _is_view(self) -> bool:
        """Whether this tensor is known to share its memory with another one."""
        node = self.node
        if type(node) is Node:
            return bool(
                node.inputs and getattr(node.op, "view", False) and np.may_share_memory(self.data, raw(node.inputs[0]))
            )
        return getattr(self.data, "base", None) is not None

    def _is_part_of_an_update(self, caller: FrameType) -> bool:
        """Whether this is the x[i] of ``x[i] += y`` in ``caller``, where Python assigns to x[i] next, and x changes."""
        if self.node is not None and getattr(self.node, "op", None) is not index.getitem:
            return False
        return self._is_view() and lines.updates_part(caller.f_code, caller.f_lasti)

    def _before(self, what: str) -> "Tensor":
        """What this tensor stands for before a write.

        Raises:
            AutogradError: a variable, or a part of another tensor, to which the tape could not carry the write over.
        """
        if type(self.node) is Leaf:
            raise AutogradError(
                f"{what} while recording: the tensor (shape {self.shape}) is a variable, whose gradient would be lost. "
                "Write to a copy (y = x.copy()), or inside autograd.pause()."
            )
        if self._is_view():
            raise AutogradError(
                f"{what} while recording: the tensor (shape {self.shape}) shares its memory with another one, which "
                "the write would have to change, too. Assign to that one (x[i, j] = value), or to a copy(), or compute "
                "a new tensor (x = x + value)."
            )
        return Tensor(self.data, self.node, self.index)

    def _become(self, other: "Tensor") -> None:
        self.data, self.node, self.index = other.data, other.node, other.index


def sparse_zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """A row-sparse gradient without rows."""
    from shoal.ops.row_sparse import RowSparseTensor

    return RowSparseTensor.empty(shape, dtype)


def raw(x: Any) -> Any:
    """The array in a Tensor; anything else as it is."""
    return x.data if isinstance(x, Tensor) else x


def array(values: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """A new tensor with a copy of ``values``.

    Args:
        values: numbers, nested sequences, arrays, tensors.
        dtype: by default that of an array or tensor, bool for Python's truth values, and float32 for its numbers.
        device: "cpu" or "gpu:0"; by default the one of a tensor, and the current one for all else.
    Raises:
        ShapeError: the sequences are ragged.
        DTypeError: the values are not numbers.
    """
    values = raw(values)
    if isinstance(values, (list, tuple)):
        values = [asnumpy(raw(v)) if isinstance(v, Tensor) else v for v in values]
    try:
        if dtype is None and not hasattr(values, "dtype"):
            dtype = np.bool_ if _are_truths(values) else np.float32
        if namespace(values).module is np:
            made = np.array(values, dtype)
            device = device or current_device()
        else:
            with at(values):
                made = values.astype(dtype or values.dtype)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ShapeError(f"array: {error}") from error
        raise DTypeError(f"array: {error}; a tensor holds numbers") from error
    return Tensor(made if device is None or device == "cpu" == _kind(made) else on_device(made, device))


def _are_truths(values: Any) -> bool:
    """Whether a number, or all that nested sequences hold, is True or False: looked into if the first one is."""
    first = values
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return (isinstance(first, bool) or getattr(first, "dtype", None) == np.bool_) and np.array(values).dtype == np.bool_


def _kind(x: Any) -> str:
    return "cpu" if isinstance(x, np.ndarray) else "gpu"


def _elsewhere(op: Op[Any], inputs: list[Any], attrs: dict[str, Any]) -> Any:
    """The forward on the GPU of the inputs, which need not be the current one."""
    xp, number, found = placed(op.name, inputs)
    if number < 0 or gpu_count() == 1:
        return op.forward(xp, *found, **attrs)
    with xp.module.cuda.Device(number):
        return op.forward(xp, *found, **attrs)


def _as_array(data: Any) -> Any:
    if isinstance(data, Tensor):
        return data.data
    if namespace(data).module is not np:
        return data
    made = np.asarray(data)
    if made.dtype == object:
        raise TypeError(f"a tensor holds numbers, not {type(data).__name__}")
    return made


def _explain(op: Op[Any], inputs: Sequence[Any], attrs: dict[str, Any], error: Exception) -> NoReturn:
    """Raise the operator's own error for inputs that do not fit; the backend's if the operator finds nothing wrong."""
    try:
        specs = [spec_of(x) for x in inputs]
    except ValueError:
        raise error from None
    try:
        op.infer(*specs, **attrs)
    except ShoalError as found:
        lines.noted(found, f"at {lines.user_line()}")
        raise
    shapes = ", ".join(f"{s.shape} {s.dtype}" if hasattr(s, "shape") else repr(s) for s in specs)
    lines.noted(error, f"at operator {op.name!r} of {shapes}, called at {lines.user_line()}")
    raise error
