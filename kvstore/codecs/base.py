"""What a codec is: it turns a slice of a gradient into arrays that are cheaper to send, and back.

A codec runs on a worker (`Codec.encode`) and on the server that owns the slice (`Codec.decode`). It is a pure function
of the gradient, of the `CodecState` of that worker and slice, and of the `Address`; there is no clock, no socket and no
generator with a memory, so an encoded push can be replayed bit for bit.

**Error feedback.** Codecs with ``has_feedback`` keep what they did not send, and add it to the next gradient. For them,
always: the sum of what was decoded plus the residual is the sum of the gradients (up to rounding). It is sound in
asynchronous training too, provided that the residual stays on the worker and that a push which the server *rejects*
(stale, lost round) is given back with `Codec.give_back`.

**Infinities and NaN** would stay in a residual, or spoil the scale of a block, for ever: codecs refuse them with the
position, and leave the state as it was. ``none``, ``fp16`` and ``bf16`` have neither, and pass them on.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoal.errors import DTypeError, LocalProtocolError, RemoteProtocolError, ShapeError, StoreError
from shoal.ops import random
from shoal.ops.optim.hyper import Hyper

__all__ = ["Address", "Array", "Codec", "CodecState"]

Array: TypeAlias = NDArray[Any]

FLOATS = ("<f2", "<f4", "<f8")
"""The dtypes of gradients."""

SAFE = 1e18
"""A gradient all of whose values are below this in float32 cannot overflow when a residual is added."""


class Address(NamedTuple):
    """Where in a run something is encoded: stochastic codecs draw from it, and from nothing else.

    Args:
        seed: of the run.
        worker: its rank.
        slice: its id, from the placement.
        clock: how many contributions this worker has made to the slice before this one.
    """

    seed: int
    worker: int
    slice: int
    clock: int

    def where(self) -> str:
        """For messages."""
        return f"worker {self.worker}, slice {self.slice}, clock {self.clock}"

    def stream(self, purpose: str) -> np.random.Generator:
        """The random numbers of this address; see `shoal.ops.random.stream`."""
        return random.stream(self.seed, purpose, worker=self.worker, step=self.clock, index=self.slice)


@dataclass(slots=True)
class CodecState:
    """What a worker keeps for one slice between pushes: plain data, to be saved and loaded with a checkpoint.

    Args:
        dtype: of the gradients, such as ``"<f4"``; "" before the first.
        arrays: by name, such as ``"residual"``: in float32, or in float64 if the gradients are.
        counters: ``"encoded"`` and ``"returned"`` pushes.
    """

    dtype: str = ""
    arrays: dict[str, Array] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=lambda: {"encoded": 0, "returned": 0})

    def copy(self) -> "CodecState":
        """A deep copy: what is encoded later with one does not change the other."""
        return CodecState(self.dtype, {k: v.copy() for k, v in self.arrays.items()}, dict(self.counters))

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return sum(a.nbytes for a in self.arrays.values())


@dataclass(kw_only=True)
class Codec(Hyper, ABC):
    """Base class; hyper-parameters are fields declared as in `shoal.ops.optim.hyper`, with a default each.

    A codec of your own subclasses this (or `Blockwise`, which needs two methods) under ``@register("name")``.
    """

    kind: ClassVar[str] = "codec"
    name: ClassVar[str] = ""
    lossless: ClassVar[bool] = False
    """decode(encode(g)) is g."""
    matrices: ClassVar[bool] = False
    """Slices that are whole rows of a matrix are encoded as matrices; flat ones too."""
    on_weights: ClassVar[bool] = False
    """Each value comes back nearly as it is, so that weights may be sent this way too."""
    gradients_only: ClassVar[bool] = False
    """It has a momentum: what is pushed must be gradients, not differences of weights."""

    @property
    def has_feedback(self) -> bool:
        """What was not sent is kept in the state and sent later."""
        return False

    @property
    def unbiased(self) -> bool:
        """The mean of decode(encode(g)) over the draws is g."""
        return self.lossless

    @property
    def linear(self) -> bool:
        """Parts that workers encode at one clock may be added before they are decoded."""
        return self.lossless

    def objection(self, name: str, params: Mapping[str, Any]) -> str:
        """Why a store with this update rule must not have this codec; empty if it may.

        Args:
            name: of the optimizer on the servers, such as ``"sgd"``.
            params: its hyper-parameters.
        """
        return ""

    def takes(self, grad: Array) -> bool:
        """Whether `encode` will surely take ``grad``; False means "perhaps". Cheap, and changes nothing."""
        return is_tame(grad)

    def weights_objection(self) -> str:
        """Why this codec must not compress weights on their way to the workers; empty if it may.

        Workers compute with what is decoded, and each pull begins anew: nothing can be kept for the next one without a
        copy of the weights for every worker on the servers.
        """
        if self.has_feedback:
            return (
                "what it leaves out it sends later, and for that a server would have to keep a residual as large as "
                "the model for every worker"
            )
        if self.on_weights or self.lossless:
            return ""
        return "it is made for gradients, whose errors average out; its error on weights does not shrink in training"

    @abstractmethod
    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """What to send for ``grad``; changes ``state``.

        Args:
            grad: a flat slice of float16, float32 or float64; never written to.
            state: of this worker and slice.
            address: of this push; the same address, gradient and state give the same parts.
        Returns:
            Contiguous arrays of dtypes that may travel. They may share memory with ``grad``, never with ``state``.
        Raises:
            ShapeError, DTypeError: not a flat slice of floats, or another size or dtype than before.
            StoreError: a value is infinite or not a number, and this codec cannot send it; ``state`` is unchanged.
        """

    @abstractmethod
    def decode(self, parts: Sequence[Array], out: Array) -> None:
        """Write the dense gradient that ``parts`` stand for into ``out``.

        Args:
            parts: as they came from the network: perhaps read-only, unaligned, or nonsense.
            out: flat, contiguous, of the gradient's size and dtype.
        Raises:
            RemoteProtocolError: the parts cannot be an encoding for ``out``, which is then untouched.
        """

    @abstractmethod
    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """Bytes of the parts for ``n`` values of ``itemsize`` bytes (about, where it depends on the values)."""

    def give_back(self, parts: Sequence[Array], state: CodecState) -> None:
        """Take back a push that was rejected: what it sent returns to the residual, and is sent again later.

        Without feedback there is nowhere to keep it: it is lost, as an uncompressed push would be.

        Raises:
            LocalProtocolError: nothing was encoded with ``state``.
        """
        if self.has_feedback:
            residual = self.kept(state)
            sent = np.empty(residual.size, state.dtype)
            self.decode(parts, sent)
            np.add(residual, sent, out=residual)
        state.counters["returned"] += 1

    def spec(self) -> str:
        """Canonical text, which `parse` reads: every number, and each flag or word that is not its default.

        >>> from shoal.kvstore.codecs import parse
        >>> parse("2bit").spec(), parse("fp16").spec()
        ('2bit:threshold=0.5', 'fp16')
        """
        shown = []
        for name, value in self.hyper_parameters().items():
            if not isinstance(value, bool | str):
                shown.append(f"{name}={value!r}")
            elif value != self.__dataclass_fields__[name].default:
                shown.append(f"{name}={str(value).lower()}")
        return self.name + (":" + ",".join(shown) if shown else "")

    # For subclasses.

    def kept(self, state: CodecState, name: str = "residual") -> Array:
        """An array of the state that `encode` has made."""
        if name not in state.arrays:
            raise LocalProtocolError(f"codec {self.name}: nothing was encoded with this state, so it has no {name!r}")
        return state.arrays[name]

    def begin(self, grad: Array, state: CodecState, address: Address, *kept: str) -> Array:
        """Check ``grad`` and ``state``, and make the arrays ``kept`` (of zeros) if they are missing.

        Nothing has changed if it raises.

        Returns:
            ``grad`` flat and contiguous, in the dtype of the state's arrays: float32, or float64 if it is.
        """
        if grad.dtype.str not in FLOATS:
            raise DTypeError(f"codec {self.name}: gradients are float16, float32 or float64, got {grad.dtype}")
        if state.dtype and state.dtype != grad.dtype.str:
            raise DTypeError(f"codec {self.name}: the state belongs to gradients of {state.dtype}, got {grad.dtype}")
        for name in kept:
            size = state.arrays[name].size if name in state.arrays else grad.size
            if size != grad.size:
                raise ShapeError(f"codec {self.name}: the state belongs to a slice of {size} values, got {grad.size}")
        values = np.ascontiguousarray(grad, dtype=wide(grad.dtype)).reshape(-1)
        for name in kept:
            if name not in state.arrays:
                state.arrays[name] = np.zeros(values.size, values.dtype)
        state.dtype = grad.dtype.str
        return values

    def require_flat(self, grad: Array) -> None:
        """Refuse what is not a flat slice."""
        if grad.ndim != 1:
            raise ShapeError(f"codec {self.name}: expected a flat slice, got shape {grad.shape}; use grad.reshape(-1)")

    def require_finite(self, grad: Array, state: CodecState, address: Address) -> None:
        """Refuse infinities and NaN, in ``grad`` or in its sum with the residual."""
        if is_tame(grad):
            return
        total = grad.astype(wide(grad.dtype))
        if "residual" in state.arrays and state.arrays["residual"].size == grad.size:
            with np.errstate(all="ignore"):
                total += state.arrays["residual"].reshape(total.shape)
        bad = np.flatnonzero(~np.isfinite(total))
        if bad.size:
            i = int(bad[0])
            raise StoreError(
                f"codec {self.name}: {address.where()}: the gradient is {grad.flat[i]} at position {i} ({bad.size} of "
                f"{grad.size} values are not finite, or overflow), which this codec cannot send. Lower the learning "
                "rate, clip or scale the gradients, or use bf16, which passes it on."
            )

    def malformed(self, why: str) -> RemoteProtocolError:
        """The error of parts that cannot be decoded."""
        return RemoteProtocolError(f"codec {self.name}: {why}")

    def require_parts(self, parts: Sequence[Array], *counts: int) -> None:
        """Refuse any other number of parts."""
        if len(parts) not in counts:
            raise self.malformed(f"expected {' or '.join(map(str, counts))} parts, got {len(parts)}")

    def require_part(self, what: str, part: Array, dtypes: Sequence[str], size: int | None) -> Array:
        """The part, flat and contiguous; refuse another dtype, another size, or more than one dimension."""
        if part.dtype.str not in dtypes:
            raise self.malformed(f"{what}: expected dtype {' or '.join(dtypes)}, got {part.dtype.str}")
        if part.ndim != 1 or size not in (None, part.size):
            raise self.malformed(f"{what}: expected shape ({'k' if size is None else size},), got {part.shape}")
        return np.ascontiguousarray(part)


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype to calculate in, and of residuals: float64 for float64, else float32."""
    return np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)


def narrower(dtype: np.dtype[Any]) -> tuple[str, ...]:
    """The float dtypes that convert to ``dtype`` without loss."""
    return tuple(f for f in FLOATS if int(f[2]) <= dtype.itemsize)


def saturated(values: Array, dtype: str) -> Array:
    """``values`` in ``dtype``, cut to its range: a residual in float32 can hold what float16 cannot."""
    if dtype == "<f2":
        values = np.clip(values, -65504.0, 65504.0)
    return values.astype(dtype, copy=False)


def is_tame(values: Array) -> bool:
    """Whether all values are finite, and so small that sums of them are; False means "look closer"."""
    if values.dtype.itemsize == 2:
        return bool(np.isfinite(values).all())
    flat = values.reshape(-1)
    with np.errstate(all="ignore"):
        return bool(np.dot(flat, flat) < SAFE * SAFE)
