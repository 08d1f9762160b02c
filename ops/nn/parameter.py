"""A tensor that a model learns, or keeps: its name, shape, initial value and gradient."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from shoal.errors import ConfigError, DeferredInitializationError, ShapeError
from shoal.ops import random
from shoal.ops.backend import on_device
from shoal.ops.context import as_device, at, current_device
from shoal.ops.graph import trace
from shoal.ops.nn import initializer
from shoal.ops.tape import Hook, HookHandle, Leaf
from shoal.ops.tape import hook as hook_leaf
from shoal.ops.tensor import Tensor

__all__ = ["Constant", "Parameter"]

GRAD_REQS = ("write", "add", "null")


class Parameter:
    """A named tensor of a `Block`. Its value is made by `initialize`, or later, when its shape becomes known.

    The tensor that `data` returns is the same object for the parameter's whole life: updates write into it.

    Args:
        name: replaced by the path in the model, such as "features.0.weight", when the model is initialized.
        grad_req: "write" each backward pass overwrites the gradient, "add" adds to it, "null" there is none.
        shape: an int, or a tuple in which -1 (or 0, as in MXNet) marks a length to be inferred from the first batch;
            None if nothing is known.
        dtype: of the value and the gradient.
        lr_mult: factor on the learning rate for this parameter.
        wd_mult: factor on the weight decay for this parameter.
        init: an initializer, its name, or a number; None for the one given to `Block.initialize`.
        allow_deferred_init: whether `initialize` may wait for an unknown shape.
        differentiable: False makes ``grad_req`` "null" for ever, as for running statistics.
        grad_stype: "row_sparse" for a gradient that has some rows only (a `RowSparseTensor`), as of an embedding.
    """

    def __init__(
        self,
        name: str = "weight",
        grad_req: str = "write",
        shape: int | tuple[int, ...] | None = None,
        dtype: Any = "float32",
        lr_mult: float = 1.0,
        wd_mult: float = 1.0,
        init: str | float | initializer.Initializer | None = None,
        allow_deferred_init: bool = False,
        differentiable: bool = True,
        grad_stype: str = "default",
    ) -> None:
        if grad_stype not in ("default", "row_sparse"):
            raise ConfigError(f"parameter {name!r}: grad_stype must be 'default' or 'row_sparse', got {grad_stype!r}")
        self.name = name
        self.grad_stype = grad_stype
        self.lr_mult = lr_mult
        self.wd_mult = wd_mult
        self.init = None if init is None else initializer.create(init)
        self.allow_deferred_init = allow_deferred_init
        self._differentiable = differentiable
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._shape = _known(shape)
        self._data: Tensor | None = None
        self._pending: tuple[initializer.Initializer, int] | None = None
        self._device: str | None = None
        self._arriving: Callable[[], None] | None = None
        self._grad_hooks: dict[int, Any] = {}
        self._after: dict[int, Callable[[], Any]] = {}
        self._leaf_with_hooks: Leaf | None = None
        self.written = 0  # how often its value was set, but by an update
        self._grad_req = "null"
        self.grad_req = grad_req

    def __repr__(self) -> str:
        shape = "unknown" if self._shape is None else self._shape
        return f"{type(self).__name__} {self.name} (shape={shape}, dtype={self._dtype})"

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Its shape; -1 where a length is not known yet, None if nothing is."""
        return self._shape

    @shape.setter
    def shape(self, new: int | tuple[int, ...] | None) -> None:
        known = _known(new)
        old = self._shape
        if old is not None and not (known is not None and _agrees(old, known)):
            raise ShapeError(f"parameter {self.name!r} has shape {old}; it cannot become {known}")
        self._shape = known

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the value and the gradient; see `cast`."""
        return self._dtype

    @property
    def is_deferred(self) -> bool:
        """Whether it has been initialized, but waits for its shape."""
        return self._pending is not None

    @property
    def is_initialized(self) -> bool:
        """Whether it has a value."""
        return self._data is not None

    @property
    def grad_req(self) -> str:
        """ "write", "add" or "null"; can be changed at any time."""
        return self._grad_req

    @grad_req.setter
    def grad_req(self, req: str) -> None:
        if req not in GRAD_REQS:
            raise ConfigError(f"parameter {self.name!r}: grad_req must be one of {GRAD_REQS}, got {req!r}")
        self._grad_req = req if self._differentiable else "null"
        if self._data is not None:
            self._attach(self._data)

    def initialize(
        self,
        init: str | float | initializer.Initializer | None = None,
        default_init: str | float | initializer.Initializer = "uniform",
        force_reinit: bool = False,
        seed: int | None = None,
        device: Any = None,
    ) -> None:
        """Give it its first value: at once if the shape is known, else when it becomes known.

        Args:
            init: used whatever the parameter's own initializer is.
            default_init: used if there is neither ``init`` nor an initializer of its own.
            force_reinit: initialize again if it has a value already; without this the value stays.
            seed: of the values; None takes the seed of `shoal.random.seed`.
            device: where it is to be; None for the current one.
        Raises:
            DeferredInitializationError: the shape is not known and this parameter may not wait.
        """
        if self._data is not None and not force_reinit:
            return
        self._device = as_device(device) or current_device()
        chosen = initializer.create(init if init is not None else self.init if self.init is not None else default_init)
        self._pending = (chosen, random.current_seed() if seed is None else seed)
        if self._complete():
            self.finish_init()
        elif not self.allow_deferred_init:
            self._pending = None
            raise DeferredInitializationError(
                f"parameter {self.name!r} cannot be initialized: its shape {self._shape} is not known. "
                "Give the input size (in_units, in_channels, ...) or set allow_deferred_init=True."
            )

    def finish_init(self) -> None:
        """Carry out a deferred initialization, now that the shape is known.

        Raises:
            DeferredInitializationError: there is an unknown length still.
        """
        if self._pending is None:
            return
        if not self._complete():
            raise DeferredInitializationError(
                f"parameter {self.name!r} still has the unknown shape {self._shape}. Its layer must set it in "
                "infer_shape(*inputs), or be given its input size."
            )
        chosen, seed = self._pending
        assert self._shape is not None
        self._fill(chosen(self.name, self._shape, seed))
        self._pending = None

    def data(self) -> Tensor:
        """Its value; while a model is being traced, the symbol that stands for it.

        Raises:
            DeferredInitializationError: it has no value yet.
        """
        tracer = trace.active()
        if tracer is None:
            return self.current()
        other = trace.substituted(self)
        if other is not None and other.tracer is tracer:
            return cast(Tensor, other.values[id(self)])
        return cast(Tensor, tracer.read(self))

    def grad(self) -> Tensor:
        """The gradient of the last backward pass: the same tensor each time.

        Whoever asks for it may write to it, so for `Trainer.step` it is new afterwards.

        Raises:
            ConfigError: ``grad_req`` is "null".
            DeferredInitializationError: it has no value yet.
        """
        leaf = self.leaf()
        leaf.fresh = True
        return cast(Tensor, leaf.grad)

    def leaf(self) -> Leaf:
        """Where the backward pass delivers its gradient; raises as `grad`. Does not wait for the value."""
        node = (self.current() if self._data is None else self._data).node
        if type(node) is not Leaf:
            raise ConfigError(f"parameter {self.name!r} has no gradient: its grad_req is {self._grad_req!r}")
        return node

    def register_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(gradient)`` in each backward pass, before the gradient is delivered; see `Tensor.register_hook`.

        It stays through changes of ``grad_req`` and dtype.
        """
        handle = HookHandle(self._grad_hooks, hook)
        self._hook_leaf()
        return handle

    def _hook_leaf(self) -> None:
        """Have the leaf of the value call the hooks, once there are any."""
        leaf = None if self._data is None else self._data.node
        if self._grad_hooks and type(leaf) is Leaf and leaf is not self._leaf_with_hooks:
            hook_leaf(leaf, 0, self._hooked)
            self._leaf_with_hooks = leaf

    def _hooked(self, g: Tensor) -> Tensor:
        for hook in tuple(self._grad_hooks.values()):
            new = hook(g)
            g = g if new is None else new
        return g

    def register_post_accumulate_grad_hook(self, hook: Callable[["Parameter"], Any]) -> HookHandle:
        """Call ``hook(parameter)`` in each backward pass as soon as the gradient is in `grad`.

        The pass goes on meanwhile with the layers before, so that an update, or sending, can overlap with it.
        """
        handle = HookHandle(self._after, lambda: hook(self))
        if self._data is not None and type(self._data.node) is Leaf:
            self._data.node.after = self._after
        return handle

    def _attach(self, data: Tensor) -> None:
        """Give the value its gradient, with the hooks that were registered."""
        data.attach_grad(self._grad_req, stype=self.grad_stype)
        if type(data.node) is Leaf:
            data.node.after = self._after
            self._hook_leaf()

    def zero_grad(self) -> None:
        """Set the gradient to zero; nothing happens if there is none."""
        if self._data is not None:
            self._data.zero_grad()

    def set_data(self, value: Any) -> None:
        """Overwrite the value in place. A parameter that has none takes this one as its first.

        A `Trainer` goes on from there; one whose weights are on the servers of a cluster refuses its next step.

        While a model is being traced, the overwriting becomes part of the graph: it happens at each run.

        Args:
            value: tensor, array or number of the same shape; converted to this dtype.
        Raises:
            ShapeError: another shape; has both.
        """
        if trace.drops_writes():
            return
        other = trace.substituted(self)
        if other is not None and other.tracer is trace.active():
            self._require_shape(value.shape)
            other.write(self, value)
            return
        self._settle()
        tracer = trace.active()
        if tracer is not None and trace.is_symbol(value):
            self._require_shape(value.shape)
            tracer.write(self, value)
            return
        array = value.data if isinstance(value, Tensor) else np.asarray(value)
        self._require_shape(array.shape)
        if self._data is None:
            self._shape, self._pending = array.shape, None
        self._fill(array)

    def cast(self, dtype: Any) -> None:
        """Change the dtype of value and gradient. `data` returns a new tensor afterwards."""
        self._settle()
        self._dtype = np.dtype(dtype)
        if self._data is not None:
            old, self._data = self._data, None
            self._fill(np.asarray(old))

    @property
    def device(self) -> str:
        """Where its value is, or will be."""
        return self._data.device if self._data is not None else self._device or current_device()

    def reset_device(self, device: Any) -> None:
        """Move value and gradient to a device. `data` gives the same tensor as before, which is there then.

        Raises:
            ConfigError: there is no such device.
        """
        self._device = as_device(device) or current_device()
        if self._data is not None and self._data.device != self._device:
            self._settle()
            self._data.data = on_device(self._data.data, self._device)
            self._data.node = None
            self._attach(self._data)

    reset_ctx = reset_device

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape fits what is known of its shape."""
        return self._shape is None or _agrees(self._shape, tuple(shape))

    def arrives(self, wait: Callable[[], None]) -> None:
        """Its next value is on its way: ``wait`` is called before anybody gets at the value, and writes it."""
        self._settle()
        self._arriving = wait

    def coming(self) -> tuple[Tensor, Callable[[], None] | None]:
        """Its tensor, and what to call before its value is read if that is still on its way; raises as `current`."""
        if self._arriving is None or self._data is None:
            return self.current(), None
        return self._data, self._settle

    def _settle(self) -> None:
        if self._arriving is not None:
            self._arriving()  # if it raises, the value has still not come
            self._arriving = None

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return {**self.__dict__, "_grad_hooks": {}, "_after": {}, "_leaf_with_hooks": None}  # a copy has no hooks

    def current(self) -> Tensor:
        """Its value, also while a model is being traced; waits for a value that is on its way."""
        other = trace.substituted(self)
        if other is not None:
            return cast(Tensor, other.values[id(self)])
        if self._arriving is not None:
            self._settle()
        if self._data is None:
            raise DeferredInitializationError(
                f"parameter {self.name!r} waits for its shape {self._shape}: run one batch through the model first, "
                "or give the layer its input size (in_units, in_channels, ...)."
                if self._pending is not None
                else f"parameter {self.name!r} has no value: call initialize() on its block first."
            )
        return self._data

    def _complete(self) -> bool:
        return self._shape is not None and all(n >= 0 for n in self._shape)

    def _require_shape(self, shape: tuple[int, ...]) -> None:
        if not self.accepts(shape):
            raise ShapeError(
                f"parameter {self.name!r} has shape {self._shape}; it cannot take a value of {tuple(shape)}"
            )

    def _fill(self, values: Any) -> None:
        assert self._shape is not None
        self.written += 1
        if self._data is None:
            self._data = Tensor(on_device(np.empty(self._shape, dtype=self._dtype), self._device or current_device()))
            self._attach(self._data)
        with at(self._data.data):
            self._data.data[...] = on_device(values, self._data.device)


class Constant(Parameter):
    """A tensor that belongs to a model, is saved with it, and is never learned.

    Args:
        value: number, array or tensor; floats without a dtype become float32.
        name: as for `Parameter`.
    """

    def __init__(self, value: Any, name: str = "const") -> None:
        array = np.asarray(value.asnumpy() if isinstance(value, Tensor) else value)
        if array.dtype == np.float64 and not hasattr(value, "dtype"):
            array = array.astype(np.float32)
        self.value = array
        super().__init__(name, "null", array.shape, array.dtype, differentiable=False)
        self.set_data(array)

    def initialize(self, *args: Any, **options: Any) -> None:
        """Take the constant value again; every argument is ignored."""
        self.set_data(self.value)


def _known(shape: int | tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape as a tuple, unknown lengths as -1."""
    if shape is None:
        return None
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(n < -1 for n in lengths):
        raise ShapeError(f"a parameter cannot have the shape {lengths}: lengths are positive, or -1 where unknown")
    return tuple(int(n) if n > 0 else -1 for n in lengths)


def _agrees(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    return len(old) == len(new) and all(a in (-1, b) for a, b in zip(old, new, strict=True))
