"""A model and its parts: `Block` holds parameters and other blocks, and maps tensors to tensors in `forward`."""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from shoal.errors import ConfigError
from shoal.ops import random
from shoal.ops.nn import checkpoint
from shoal.ops.nn.hooks import BackwardHook, BackwardPreHook, run_with_hooks
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Parameter
from shoal.ops.nn.summary import summarize
from shoal.ops.tape import HookHandle

__all__ = ["Block", "HookHandle"]

_stamps = itertools.count(1)


class Clock:
    """When a block was last changed, anywhere in this process."""

    latest = 0


ForwardHook = Callable[["Block", tuple[Any, ...], Any], None]
ForwardPreHook = Callable[["Block", tuple[Any, ...]], None]


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Block:
    """Base of all layers and models.

    Parameters and blocks that are assigned to attributes are found by `collect_params`, under the attribute's name:

    >>> from shoal import nn
    >>> class Pair(nn.Block):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.left, self.right = nn.Dense(2, in_units=3), nn.Dense(2, in_units=3)
    ...     def forward(self, x):
    ...         return self.left(x) + self.right(x)
    >>> list(Pair().collect_params())
    ['left.weight', 'left.bias', 'right.weight', 'right.bias']
    """

    _children: dict[str, "Block"]
    _reg_params: dict[str, Parameter]
    _forward_hooks: dict[int, ForwardHook]
    _forward_pre_hooks: dict[int, ForwardPreHook]
    _backward_hooks: dict[int, BackwardHook]
    _backward_pre_hooks: dict[int, BackwardPreHook]
    _path: str
    _stamp: int

    def __init__(self) -> None:
        # object.__setattr__: the attributes below are where the others are registered
        for name in ("_children", "_reg_params", *_HOOKS):
            object.__setattr__(self, name, {})
        object.__setattr__(self, "_path", "")
        self._changed()

    def __setattr__(self, name: str, value: Any) -> None:
        if "_children" not in self.__dict__:
            raise ConfigError(f"{type(self).__name__}.{name} is set before super().__init__() was called")
        old = self.__dict__.get(name)
        if isinstance(old, (Block, Parameter)) and not isinstance(value, (Block, Parameter, type(None))):
            raise ConfigError(
                f"{type(self).__name__}.{name} is a {type(old).__name__} and cannot become a {type(value).__name__}"
            )
        self._children.pop(name, None)
        self._reg_params.pop(name, None)
        if isinstance(value, Block):
            self._children[name] = value
        elif isinstance(value, Parameter):
            self._reg_params[name] = value
            if value.name in ("weight", "const"):
                value.name = name
        object.__setattr__(self, name, value)
        self._changed()

    def __delattr__(self, name: str) -> None:
        self._children.pop(name, None)
        self._reg_params.pop(name, None)
        object.__delattr__(self, name)
        self._changed()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, with the hooks before and after it, which see the positional arguments."""
        for pre in tuple(self._forward_pre_hooks.values()):
            pre(self, args)
        if self._backward_hooks or self._backward_pre_hooks:
            pres, posts = tuple(self._backward_pre_hooks.values()), tuple(self._backward_hooks.values())
            out = run_with_hooks(self, self._run, args, kwargs, pres, posts)
        else:
            out = self._run(*args, **kwargs)
        for post in tuple(self._forward_hooks.values()):
            post(self, args, out)
        return out

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Map inputs to outputs; every block defines it."""
        raise TypeError(f"{type(self).__name__} does not define forward(self, ...)")

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def _changed(self) -> None:
        """An attribute was set: graphs that were traced through this block before are void."""
        Clock.latest = next(_stamps)
        object.__setattr__(self, "_stamp", Clock.latest)

    def _latest(self) -> int:
        """When this block or one inside it last changed; larger is later."""
        return max([self._stamp, *(child._latest() for child in self._children.values())])

    @property
    def params(self) -> dict[str, Parameter]:
        """The parameters of this block itself, without those of its children."""
        return dict(self._reg_params)

    def children(self) -> dict[str, "Block"]:
        """The blocks directly inside this one, by name."""
        return dict(self._children)

    def register_child(self, block: "Block", name: str | None = None) -> None:
        """Make ``block`` a part of this one without an attribute; its default name is its number."""
        if not isinstance(block, Block):
            raise ConfigError(
                f"a child of {type(self).__name__} must be a Block, got {type(block).__name__}: {block!r}"
            )
        self._children[str(len(self._children)) if name is None else name] = block
        self._changed()

    def blocks(self, prefix: str = "") -> Iterator[tuple[str, "Block"]]:
        """(path, block) of this block and all blocks inside it, outermost first; a block in two places comes twice."""
        yield prefix, self
        for name, child in self._children.items():
            yield from child.blocks(f"{prefix}.{name}" if prefix else name)

    def collect_params(self, select: str | None = None) -> dict[str, Parameter]:
        """All parameters by path, such as "features.0.weight"; a shared parameter comes once, under its first path.

        Args:
            select: a regular expression; only paths in which it occurs are returned, such as ".*weight|.*bias".
        """
        found: dict[str, Parameter] = {}
        seen: set[int] = set()
        for path, block in self.blocks():
            for name, param in block._reg_params.items():
                if id(param) not in seen:
                    seen.add(id(param))
                    found[f"{path}.{name}" if path else name] = param
        pattern = None if select is None else re.compile(select)
        return {n: p for n, p in found.items() if pattern is None or pattern.search(n)}

    def initialize(
        self,
        init: str | float | Initializer | None = None,
        *,
        force_reinit: bool = False,
        seed: int | None = None,
        verbose: bool = False,
        device: Any = None,
        ctx: Any = None,
    ) -> None:
        """Give every parameter its first value, or have it made when its shape becomes known.

        The values depend on the seed and the parameter's path only. Parameters with an initializer of their own
        use that one; those that have a value keep it.

        Args:
            init: for parameters without an initializer of their own; None is Uniform(0.07), as in Gluon.
            force_reinit: also initialize what has a value.
            seed: of the values; None takes the seed of `shoal.random.seed`.
            verbose: print what each parameter gets.
            device: where the parameters are to be, such as "gpu:0"; None for the current one. ``ctx`` is MXNet's word.
        """
        chosen = "uniform" if init is None else init
        fixed = random.current_seed() if seed is None else seed
        self._name_parts()
        for name, param in self.collect_params().items():
            param.initialize(None, chosen, force_reinit, fixed, device or ctx)
            if verbose:
                print(f"{name}: {param.init or chosen}, shape {param.shape}")

    def save_parameters(self, filename: str | os.PathLike[str]) -> None:
        """Write all parameters to a safetensors file, atomically.

        Raises:
            CheckpointError: the disk refuses.
            DeferredInitializationError: a parameter has no value yet.
        """
        checkpoint.save(filename, self.collect_params())

    def load_parameters(
        self,
        filename: str | os.PathLike[str],
        *,
        allow_missing: bool = False,
        ignore_extra: bool = False,
        cast_dtype: bool = False,
    ) -> None:
        """Read what `save_parameters` wrote. Nothing is changed unless everything fits.

        Args:
            allow_missing: parameters that the file lacks keep their value.
            ignore_extra: the file may have more than the model.
            cast_dtype: convert to the parameter's dtype; otherwise another dtype is an error.
        Raises:
            CheckpointError: the file is missing or damaged, or does not fit; lists every parameter that differs.
        """
        self._name_parts()
        checkpoint.load(
            filename,
            self.collect_params(),
            who=type(self).__name__,
            allow_missing=allow_missing,
            ignore_extra=ignore_extra,
            cast_dtype=cast_dtype,
        )

    def share_parameters(self, shared: dict[str, Parameter]) -> "Block":
        """Use the parameters ``shared``, by path as from `collect_params`, in place of this block's own.

        Raises:
            ConfigError: a path that this block does not have.
        """
        own = dict(self.blocks())
        for name, param in shared.items():
            path, _, attribute = name.rpartition(".")
            if path not in own or attribute not in own[path]._reg_params:
                raise ConfigError(f"no parameter {name!r} to share; this block has {', '.join(self.collect_params())}")
            setattr(own[path], attribute, param)
        return self

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for param in self.collect_params().values():
            param.zero_grad()

    def setattr(self, name: str, value: Any) -> None:
        """Set an attribute of every parameter, as in ``net.setattr("grad_req", "null")``."""
        for param in self.collect_params().values():
            setattr(param, name, value)

    def cast(self, dtype: Any) -> None:
        """Change the dtype of all parameters."""
        for child in self._children.values():
            child.cast(dtype)
        for param in self._reg_params.values():
            param.cast(dtype)
        self._changed()

    def reset_device(self, device: Any) -> None:
        """Move all parameters to a device, also those that wait for their shape.

        Raises:
            ConfigError: there is no such device.
        """
        for param in self.collect_params().values():
            param.reset_device(device)
        self._changed()

    reset_ctx = reset_device

    def to(self, device: Any) -> "Block":
        """`reset_device`; gives the block, as in PyTorch."""
        self.reset_device(device)
        return self

    def cuda(self, device: int = 0) -> "Block":
        """All parameters on a GPU; gives the block."""
        return self.to(f"gpu:{device}")

    def cpu(self) -> "Block":
        """All parameters in the host's memory; gives the block."""
        return self.to("cpu")

    def apply(self, fn: Callable[["Block"], Any]) -> "Block":
        """Call ``fn`` on every block inside, then on this one; returns this block."""
        for child in self._children.values():
            child.apply(fn)
        fn(self)
        return self

    def hybridize(
        self,
        active: bool = True,
        *,
        static_alloc: bool = True,
        static_shape: bool = True,
        strict: bool = True,
        cache_size: int = 32,
        passes: str | Sequence[str] | None = None,
        recorded: bool = True,
    ) -> None:
        """Hybridize every `HybridBlock` inside; see `HybridBlock.hybridize`."""
        for child in self._children.values():
            child.hybridize(
                active,
                static_alloc=static_alloc,
                static_shape=static_shape,
                strict=strict,
                cache_size=cache_size,
                passes=passes,
                recorded=recorded,
            )

    def register_forward_hook(self, hook: ForwardHook) -> HookHandle:
        """Call ``hook(block, inputs, output)`` after each forward; what it returns is ignored."""
        return HookHandle(self._forward_hooks, hook)

    def register_forward_pre_hook(self, hook: ForwardPreHook) -> HookHandle:
        """Call ``hook(block, inputs)`` before each forward; what it returns is ignored."""
        return HookHandle(self._forward_pre_hooks, hook)

    def register_backward_hook(self, hook: BackwardHook) -> HookHandle:
        """Call ``hook(block, grad_inputs, grad_outputs)`` when the gradients of the inputs of a call are known.

        Both are tuples, of the gradients of the tensors among the positional arguments and the results, None where
        there is none; of a block whose inputs have no gradient, when those of the outputs are known. The hook may
        return a tuple of other gradients of the inputs. Of hybridized blocks only the outermost can have it.
        """
        return HookHandle(self._backward_hooks, hook)

    register_full_backward_hook = register_backward_hook

    def register_backward_pre_hook(self, hook: BackwardPreHook) -> HookHandle:
        """Call ``hook(block, grad_outputs)`` when the gradients of the results are known; it may return others."""
        return HookHandle(self._backward_pre_hooks, hook)

    def summary(self, *inputs: Any) -> str:
        """Run the model on ``inputs`` and return a table of its layers, their output shapes and parameter counts."""
        return summarize(self, inputs)

    def _name_parts(self) -> None:
        """Tell blocks and parameters their paths from here, for messages and for the addresses of their randomness."""
        for path, block in self.blocks():
            object.__setattr__(block, "_path", path)
        for name, param in self.collect_params().items():
            param.name = name

    def _label(self) -> str:
        """What messages call this block: its class and, once known, its path."""
        return f"{type(self).__name__} {self._path!r}" if self._path else type(self).__name__

    def extra_repr(self) -> str:
        """What `repr` shows in the brackets of a block without children."""
        return ""

    def __repr__(self) -> str:
        if not self._children:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = (f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self._children.items())
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])
