"""What every update rule shares: common hyper-parameters, states, the walk over blocks, and the form that travels.

A rule is arithmetic on single elements. The walk cuts arrays into blocks that stay in the cache of a core, so a rule
may make as many passes over its block as it likes, and the memory that it needs beside its states is a few blocks,
whatever the model's size. And because no element looks at another, a rule that is applied to the slices of an array
gives, bit for bit, what it gives when applied to the whole: sharding over servers never changes the numbers.

A rule that needs a norm of the whole parameter says so (`Optimizer.whole`): it walks twice, first to add up squares,
and who applies it must not cut the parameter. The sums are made in float64, block after block, so that they are the
same bits wherever the parameter lies.
"""

import dataclasses
import functools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from shoal.errors import CaptureError, ConfigError, DTypeError, ShapeError
from shoal.ops.backend import CPU, namespace
from shoal.ops.gpu.replay import is_recording
from shoal.ops.native import steps
from shoal.ops.optim.hyper import (
    CONVERT,
    Hyper,
    Registry,
    Wire,
    flag,
    not_negative,
    optional_real,
    positive,
    real,
)
from shoal.ops.optim.schedule import LRScheduler, converted

__all__ = ["Array", "Optimizer", "OptimizerSpec", "State", "Work", "create", "from_spec", "register", "state_dtype"]

Array: TypeAlias = Any
"""A NumPy array, or a CuPy array."""

State: TypeAlias = dict[str, Array]
"""What a rule remembers of one parameter: arrays of the parameter's shape, by name; may be empty."""

BLOCK = 1 << 16
"""Elements updated at a time on a CPU: four blocks of float32 are 1 MiB, about one core's second-level cache."""

_registry: "Registry[Optimizer]" = Registry("optimizer")


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as it travels: a name and numbers, nothing that executes.

    Args:
        name: a registered name, such as "sgd".
        params: hyper-parameters by name: ``float | int | bool | str``, and for the schedule
            ``{"name": str, "params": {...}}``. Floats come back exactly. What is absent has its default.
    """

    name: str
    params: Mapping[str, Wire]


def register(cls: "type[Optimizer]") -> "type[Optimizer]":
    """Class decorator: make an update rule known under its class name in lower case.

    A server can only run rules that are registered in its own process: a rule of your own must be imported there too.
    """
    return _registry.register(cls)


def create(optimizer: "str | Optimizer", /, **params: Wire) -> "Optimizer":
    """An optimizer by name: ``create("sgd", learning_rate=0.1)`` is ``SGD(learning_rate=0.1)``.

    An instance is returned as it is.

    Raises:
        ConfigError: the name or a parameter is unknown, or a value is out of its range.
    """
    if not isinstance(optimizer, Optimizer):
        return _registry.create(optimizer, params)
    if params:
        raise ConfigError(f"{optimizer!r} has its parameters already, got {params} too: set them in its constructor")
    return optimizer


def from_spec(spec: OptimizerSpec) -> "Optimizer":
    """The optimizer that ``spec`` describes; ``from_spec(o.spec())`` makes the same updates as ``o``.

    Raises:
        ConfigError: as `create`.
    """
    return _registry.create(spec.name, spec.params)


@functools.cache
def _has_compiled(rule: "type[Optimizer]") -> bool:
    """Whether a rule's `compiled` says what its `update` does."""
    order = [next(i for i, c in enumerate(rule.__mro__) if n in vars(c)) for n in ("compiled", "update")]
    return order[0] <= order[1] and rule.__mro__[order[0]] is not Optimizer


@functools.lru_cache
def state_dtype(dtype: Any) -> "np.dtype[Any]":
    """In which dtype the updates of a parameter are computed and its states are kept.

    float32 for half precision (float16, and the bfloat16 of ml_dtypes), where squares of gradients would vanish; the
    parameter's own dtype otherwise.

    Raises:
        DTypeError: not a real floating-point dtype.
    """
    dtype = np.dtype(dtype)
    if dtype.name == "bfloat16":  # to NumPy a dtype of kind "V", made by ml_dtypes
        return np.dtype(np.float32)
    if dtype.kind != "f":
        raise DTypeError(f"cannot optimize dtype {dtype}, expected float16, bfloat16, float32 or float64")
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype.newbyteorder("=")


class _Scratch(threading.local):
    """Blocks that are reused by all steps of one optimizer in one thread."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[np.dtype[Any], int], Array] = {}

    def block(self, xp: Any, dtype: "np.dtype[Any]", number: int, size: int) -> Array:
        if xp is not CPU:
            return xp.empty(size, dtype=dtype)  # CuPy's pool does the reusing
        block = self._blocks.get((dtype, number))
        if block is None:
            block = self._blocks[dtype, number] = np.empty(BLOCK, dtype)
        return block[:size]

    def __reduce__(self) -> tuple[type["_Scratch"], tuple[()]]:
        return _Scratch, ()  # copies of an optimizer begin with none


@dataclass(slots=True)
class Work:
    """One block of one update, all arrays flat, of equal size and in the dtype of the computation.

    Args:
        xp: the array namespace: NumPy's or CuPy's functions.
        w: the values, to be updated in place.
        g: the gradient, rescaled and clipped; may be overwritten, unless the rule says that it keeps it.
        tmp: free memory, content undefined.
        lr: the rate of this update.
        wd: the weight decay of this parameter.
        t: how many updates the parameter has had with this one.
        wide: free memory in float64, for sums; None if the rule is not `Optimizer.whole`.
        adapt: whether a rule with a rate for each parameter scales this one's: its ``wd_mult`` is not 0.
        sums: what `Optimizer.measure` gave, added up over all blocks.
        noise: what `Optimizer.noise` gave for this update.
    """

    xp: Any
    w: Array
    g: Array
    tmp: Array
    lr: float
    wd: float
    t: int
    wide: Array | None = None
    adapt: bool = True
    sums: tuple[float, ...] = ()
    noise: np.random.Generator | None = None

    def decay_gradient(self) -> None:
        """Add ``wd * w`` to the gradient: the classical weight decay (L2 regularisation)."""
        if self.wd:
            self.xp.multiply(self.w, self.wd, out=self.tmp)
            self.g += self.tmp

    def average(self, mean: Array, beta: float) -> None:
        """Move a decaying average towards the gradient: ``mean = beta * mean + (1 - beta) * g``."""
        self.xp.multiply(self.g, 1.0 - beta, out=self.tmp)
        mean *= beta
        mean += self.tmp

    def average_square(self, mean: Array, beta: float) -> None:
        """Move a decaying average towards the gradient's square: ``mean = beta * mean + (1 - beta) * g * g``."""
        self.xp.multiply(self.g, self.g, out=self.tmp)
        self.tmp *= 1.0 - beta
        mean *= beta
        mean += self.tmp

    def square_sum(self, block: Array) -> float:
        """The sum of the squares of a block, in float64 and in an order that depends on its length only."""
        self.xp.multiply(block, block, out=self.wide, dtype=np.float64)
        return float(self.xp.sum(self.wide))  # pairwise; a dot product's order depends on BLAS and its threads


@dataclass(slots=True)
class _Task:
    """One update of one parameter, all arrays flat: what its walks share."""

    param: Array
    grad: Array
    state: State
    t: int
    lr: float
    wd: float
    adapt: bool
    factor: float = 1.0
    sums: tuple[float, ...] = ()
    noise: np.random.Generator | None = None


@dataclass(kw_only=True)
class Optimizer(Hyper, ABC):
    """An update rule: a pure function of value, gradient, states, hyper-parameters and update count.

    The gradient that the rule sees is ``clip(rescale_grad * grad, -clip_gradient, clip_gradient)``, shortened to the
    norm ``clip_norm`` where it is longer.
    One instance may be used for any number of parameters, and by several threads at once for different ones.

    Args:
        learning_rate: None takes ``lr_scheduler.base_lr``, or else the rule's own default.
        wd: weight decay.
        rescale_grad: factor of every gradient.
        clip_gradient: bound of the absolute value of every element of the rescaled gradient; None for no bound.
        clip_norm: bound of the Euclidean norm of each parameter's whole gradient, after ``clip_gradient``; None for no
            bound. It is not the norm over all parameters together, which needs all gradients in one place
            (`Trainer.allreduce_grads`).
        lr_scheduler: the rate as a function of the update count, instead of a constant.
        multi_precision: keep a float32 master copy of float16 and bfloat16 parameters as a state: updates too small
            for half precision then add up instead of vanishing.
        lazy_update: a row-sparse gradient updates the rows that it has, and neither value nor state of any other row
            moves (MXNet's ``lazy_update``; PyTorch's SparseAdam). False: the other rows have a gradient of 0, so that
            momentum and weight decay go on for them.
    Raises:
        ConfigError: a value is out of its range; or ``learning_rate`` and ``lr_scheduler.base_lr`` differ.
    """

    learning_rate: float = optional_real("a rate >= 0", not_negative)
    wd: float = real(0.0, "a number >= 0", not_negative)
    rescale_grad: float = real(1.0)
    clip_gradient: float | None = optional_real("a number > 0, or None", positive)
    lr_scheduler: LRScheduler | None = dataclasses.field(default=None, metadata={CONVERT: converted})
    clip_norm: float | None = optional_real("a number > 0, or None", positive)
    multi_precision: bool = flag(False)
    lazy_update: bool = flag(True)

    default_lr: ClassVar[float] = 0.01
    keeps_gradient: ClassVar[bool] = False
    """Whether `update` does not write to ``work.g`` when ``work.wd`` is 0: the gradient need not be copied then."""
    layerwise: ClassVar[bool] = False
    """Whether the rule needs sums over the whole parameter: it has a `measure`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._scratch = _Scratch()
        rate, schedule = self.learning_rate, self.lr_scheduler
        given: float | None = rate  # mypy knows the field as it is after this method
        if schedule is None or schedule.base_lr is None:
            self.learning_rate = self.default_lr if given is None else given
        elif given is None or given == schedule.base_lr:
            self.learning_rate = schedule.base_lr
        else:
            raise self.refuse("learning_rate", given, f"the base_lr of its lr_scheduler, {schedule.base_lr}, or None")
        if schedule is not None:
            self.lr_scheduler = dataclasses.replace(schedule, base_lr=self.learning_rate)

    def spec(self) -> OptimizerSpec:
        """This optimizer as a name and numbers; see `from_spec`."""
        return OptimizerSpec(self.name, self.hyper_parameters())

    @property
    def whole(self) -> bool:
        """Whether an update must see the whole parameter; if not, its slices may be updated one by one."""
        return self.layerwise or self.needs_norm

    def rate(self, t: int) -> float:
        """The learning rate of update ``t``, counted from 1."""
        return self.learning_rate if self.lr_scheduler is None else self.lr_scheduler(t)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the rate from the next update on.

        Raises:
            ConfigError: a schedule sets the rate, or the value is out of its range.
        """
        if self.lr_scheduler is not None:
            raise ConfigError(
                f"optimizer {self.name!r} takes its rate from {type(self.lr_scheduler).__name__}, so it cannot be "
                f"set to {learning_rate!r}: make the optimizer without lr_scheduler, or change the schedule"
            )
        self.learning_rate = dataclasses.replace(self, learning_rate=learning_rate).learning_rate

    def init(self, param: Array) -> State:
        """The states of a parameter that has had no update yet, in C order and of `state_dtype`.

        Raises:
            DTypeError: ``param`` is not an array of floats.
        """
        xp, dtype = namespace(param), state_dtype(param.dtype)
        state = {name: xp.full(param.shape, fill, dtype=dtype) for name, fill in self.slots().items()}
        if self.multi_precision and param.dtype != dtype:
            state["master"] = xp.array(param, dtype=dtype, order="C")
        return state

    def step(
        self,
        param: Array,
        grad: Array,
        state: State,
        t: int,
        *,
        lr_mult: float = 1.0,
        wd_mult: float = 1.0,
        name: str = "",
    ) -> None:
        """Update ``param`` and ``state`` in place.

        Nothing is allocated beyond the blocks that the first step made, but an array that is not in C order is copied.

        Args:
            grad: of the same shape; not changed; its dtype may differ and is cast block by block.
            state: what `init` made for this parameter.
            t: how many updates this parameter has had with this one: 1 at the first.
            lr_mult: factor of the learning rate for this parameter.
            wd_mult: factor of the weight decay for this parameter; 0 also exempts it from the scaling of LARS, LAMB
                and LANS, as is usual for biases and normalisation layers.
            name: of the parameter, where its random numbers are drawn; parameters of one name have the same ones.
        Raises:
            ShapeError: ``grad`` or a state differs from ``param`` in shape.
            ConfigError: ``state`` belongs to another rule, or ``t`` is less than 1.
        """
        self._check(param, grad, state, t)
        values = (param, *state.values())
        if not all(a.flags.c_contiguous for a in values):
            self._step_copies(param, grad, state, t, lr_mult=lr_mult, wd_mult=wd_mult, name=name)
        elif param.size:
            flat = {key: a.reshape(-1) for key, a in state.items()}
            rate = self.rate(t) * lr_mult
            task = _Task(param.reshape(-1), grad.reshape(-1), flat, t, rate, self.wd * wd_mult, wd_mult != 0.0)
            self._update(task, name)

    def prepared(self, param: Array, state: State) -> steps.Prepared | None:
        """What `step_prepared` takes for this parameter; None if its updates are not one compiled call each."""
        if not _has_compiled(type(self)) or self.whole or state.keys() != self.slots().keys() or not param.size:
            return None
        if any(a.shape != param.shape for a in state.values()):
            return None
        return steps.Prepared.of(param, state)

    def step_prepared(
        self, prepared: steps.Prepared, grad: Array, t: int, lr_mult: float = 1.0, wd_mult: float = 1.0
    ) -> bool:
        """`step` for arrays that were looked at before; False, and nothing done, if it must be made by `step`."""
        if t < 1 or grad.shape != prepared.shape or is_recording():
            return False
        found = self.compiled(self.rate(t) * lr_mult, self.wd * wd_mult, t)
        if found is None:
            return False
        return prepared.step(*found, grad, self.rescale_grad, self.clip_gradient)

    @abstractmethod
    def slots(self) -> dict[str, float]:
        """The names of the rule's states, and the number that each is filled with at first."""

    @abstractmethod
    def update(self, work: Work, state: State) -> None:
        """The rule: change ``work.w`` and the blocks of ``state`` in place, element by element."""

    def measure(self, work: Work, state: State) -> tuple[float, ...]:
        """What a `layerwise` rule must know of the whole parameter: numbers that are added up over the blocks.

        It is called for every block before `update` is for any, may change the blocks of ``state``, and ``work.g``.
        The sums come to `update` as ``work.sums``.
        """
        return ()

    def compiled(self, lr: float, wd: float, t: int) -> tuple[str, dict[str, float]] | None:
        """The rule in C, for one element, and the numbers that it uses: see `shoal.ops.native.steps.step`.

        It gives the bits that `update` gives. It counts only in the class that defines `update`, or below: a rule that
        changes `update` alone has no compiled form. None: this rule has none.
        """
        return None

    def gradient_factor(self, norm: float) -> float:
        """What the gradient is multiplied by, given its norm."""
        return self.clip_norm / norm if self.clip_norm is not None and norm > self.clip_norm else 1.0

    def noise(self, name: str, t: int) -> np.random.Generator | None:
        """The random numbers of parameter ``name`` at update ``t``, for a rule that needs some; it must be `whole`."""
        return None

    @property
    def needs_norm(self) -> bool:
        """Whether `gradient_factor` is to be asked: the gradient is walked over once more."""
        return self.clip_norm is not None

    def _check(self, param: Array, grad: Array, state: State, t: int) -> None:
        for what, array in (("gradient", grad), *state.items()):
            if array.shape != param.shape:
                raise ShapeError(f"optimizer {self.name!r}: parameter {param.shape}, but its {what} is {array.shape}")
        if t < 1:
            raise ConfigError(f"optimizer {self.name!r}: update count t is {t}, the first update has t = 1")
        slots = self.slots().keys()
        if state.keys() != slots and state.keys() - {"master"} != slots:
            raise ConfigError(
                f"optimizer {self.name!r} keeps states {sorted(slots)}, got {sorted(state)}: "
                "they belong to another rule or other hyper-parameters"
            )

    def _step_copies(self, param: Array, grad: Array, state: State, t: int, **factors: Any) -> None:
        """A step for arrays that cannot be walked over flat: on copies that can, written back."""
        copies = {name: array.copy(order="C") for name, array in state.items()}
        value = param.copy(order="C")
        self.step(value, grad, copies, t, **factors)
        param[...] = value
        for name, array in state.items():
            array[...] = copies[name]

    def _update(self, task: _Task, name: str) -> None:
        """Apply the rule to flat arrays, block by block: one walk, and one more for each thing that must be known.

        Raises:
            CaptureError: a step of a GPU is being recorded: the learning rate and t would be the same in each replay.
        """
        if is_recording():
            raise CaptureError(
                f"{type(self).__name__}: the update number {task.t} would be recorded with its numbers, and made again "
                "by each replay; call Trainer.step() behind the recorded function"
            )
        if _has_compiled(type(self)) and not self.whole and self._run_compiled(task):
            return
        task.noise = self.noise(name, task.t)
        if self.needs_norm:
            squares = sum(work.square_sum(work.g) for work, _ in self._blocks(task))
            task.factor = self.gradient_factor(math.sqrt(squares))
        if self.layerwise:
            parts = [self.measure(work, block) for work, block in self._blocks(task)]
            task.sums = tuple(math.fsum(column) for column in zip(*parts, strict=True))
        for work, block in self._blocks(task):
            self.update(work, block)

    def _run_compiled(self, task: _Task) -> bool:
        """One pass of compiled code over all; False if there is none."""
        found = self.compiled(task.lr, task.wd, task.t)
        if found is None:
            return False
        code, numbers = found
        return steps.step(code, numbers, task.param, task.grad, task.state, self.rescale_grad, self.clip_gradient)

    def _blocks(self, task: _Task) -> Iterator[tuple[Work, State]]:
        """Each block of a parameter with its gradient prepared; what is done to ``work.w`` is written back."""
        param, state = task.param, task.state
        xp, dtype, n = namespace(param), state_dtype(param.dtype), param.size
        size = min(n, BLOCK) if xp is CPU else n
        block_of = self._scratch.block
        g, tmp = block_of(xp, dtype, 0, size), block_of(xp, dtype, 1, size)
        wide = block_of(xp, np.dtype(np.float64), 3, size) if self.whole else None
        cast = block_of(xp, dtype, 2, size) if param.dtype != dtype and "master" not in state else None
        for start in range(0, n, size):
            p, grad, block, k = param, task.grad, state, size
            if size < n:
                part = slice(start, min(start + size, n))
                p, grad, block = param[part], grad[part], {name: a[part] for name, a in state.items()}
                k = p.size
            work = Work(xp, p, g[:k], tmp[:k], task.lr, task.wd, task.t)
            work.adapt, work.sums, work.noise = task.adapt, task.sums, task.noise
            if wide is not None:
                work.wide = wide[:k]
            if cast is not None:
                work.w = cast[:k]
                work.w[...] = p
            elif "master" in block:
                work.w = block["master"]
            self._prepare(work, grad, task.factor)
            yield work, block
            if work.w is not p:
                p[...] = work.w

    def _plain(self, grad: Array, dtype: "np.dtype[Any]") -> bool:
        """Whether the rule sees the gradient as it is."""
        as_it_is = self.rescale_grad == 1.0 and self.clip_gradient is None
        return as_it_is and grad.dtype == dtype and bool(grad.flags.aligned)

    def _prepare(self, work: Work, grad: Array, factor: float) -> None:
        if self.keeps_gradient and factor == 1.0 and not work.wd and self._plain(grad, work.g.dtype):
            work.g = grad
            return
        work.g[...] = grad
        if self.rescale_grad != 1.0:
            work.g *= self.rescale_grad
        if self.clip_gradient is not None:
            work.xp.clip(work.g, -self.clip_gradient, self.clip_gradient, out=work.g)
        if factor != 1.0:
            work.g *= factor
