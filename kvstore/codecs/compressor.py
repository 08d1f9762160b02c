"""One worker's compression of one store: codecs, and what is kept of each slice between pushes."""

from collections.abc import Sequence
from threading import Lock
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError
from shoal.kvstore.codecs.base import Address, CodecState, wide
from shoal.kvstore.codecs.cost import Cost, Link
from shoal.kvstore.codecs.encoded import Encoding, Span
from shoal.kvstore.codecs.plan import Plan
from shoal.kvstore.codecs.registry import Spec, parse
from shoal.kvstore.codecs.replies import Codecs, rounded
from shoal.ops import random
from shoal.ops.optim import Optimizer

__all__ = ["Compressor", "Landing", "whole_rows"]

Array = NDArray[Any]

ADVISE_EVERY = 64
"""Slices between two looks at whether the codec pays."""


class Compressor:
    """Encodes slices in the order in which they are pushed. Calls may come from several threads.

    Args:
        plan: what compresses pushes, and what pulls.
        worker: rank of this worker, for the address of random numbers.
    """

    def __init__(self, plan: Plan, worker: int) -> None:
        self.plan, self.codec, self.spec = plan, plan.push, plan.push.spec()
        self.reply = "" if plan.pull.name == "none" else plan.pull.spec()
        self.cost, self.codecs = Cost(), Codecs()
        self._seed = random.address().seed  # now: other threads have addresses of their own
        self._worker, self._lock = worker, Lock()
        self._states: dict[int, CodecState] = {}
        self._clocks: dict[int, int] = {}
        self._carried: dict[int, Array] = {}
        self._heirs: dict[int, Compressor | None] = {}  # by slice, who has taken over from this one
        self._taken: dict[int, int] = {}  # sizes of slices that came encoded
        self._advised, self._look = False, 0

    @classmethod
    def of(
        cls,
        params: "Spec | Plan | None",
        worker: int,
        optimizer: Optimizer | None = None,
        before: "Compressor | None" = None,
    ) -> "Compressor | None":
        """What `KVStore.set_gradient_compression` was asked for; None for no compression.

        Args:
            params: what for.
            worker: its rank.
            optimizer: what updates the store, if it has one.
            before: what the store had until now; what that has held back is sent with the first push of each slice.
        Raises:
            ConfigError: see `Plan.of` and `check`.
        """
        plan = Plan.of(params)
        if plan.push.name == plan.pull.name == "none":
            return None
        made = cls(plan, worker)
        made.check(optimizer)
        if before is not None and made.codec.name != "none":
            made._carried = before.held()
        return made

    def held(self) -> dict[int, Array]:
        """What was held back of each slice."""
        with self._lock:
            found = {i: s.arrays["residual"] for i, s in self._states.items() if "residual" in s.arrays}
            return {**self._carried, **found}

    def check(self, optimizer: Optimizer | None) -> None:
        """Refuse an update rule that the codec is unsound with; None is none."""
        spec = None if optimizer is None else optimizer.spec()
        objection = "" if spec is None else self.codec.objection(spec.name, spec.params)
        if objection:
            raise ConfigError(objection)

    def fits(self, dtype: "np.dtype[Any]") -> bool:
        """Whether pushes of this dtype are compressed; integers are pushed as they are."""
        return dtype.kind == "f" and self.codec.name != "none"

    def encode(self, slice_id: int, part: Array, columns: int = 0) -> list[Array]:
        """What is sent of a flat slice instead of it; the parts share no memory with it.

        Args:
            columns: row length of the matrix that the slice is cut from, if it holds whole rows; 0 otherwise.
        """
        with self._lock:
            began = perf_counter()
            state = self._states.setdefault(slice_id, CodecState())
            clock = self._clocks.get(slice_id, 0)
            carried = self._carried.get(slice_id)
            if carried is not None:
                part = (part + carried).astype(part.dtype, copy=False)
            grad = part.reshape(-1, columns) if columns and self.codec.matrices else part
            parts = self.codec.encode(grad, state, Address(self._seed, self._worker, slice_id, clock))
            parts = [p.copy() if np.may_share_memory(p, part) else p for p in parts]
            self._clocks[slice_id] = clock + 1
            self._carried.pop(slice_id, None)
            self.cost.sent(perf_counter() - began, part.nbytes, sum(p.nbytes for p in parts))
            return parts

    def encoding(self, spans: Sequence[tuple[int, int, int]]) -> Encoding:
        """How the next push of a key is encoded.

        Args:
            spans: of each slice the id, and where it begins and ends in the flat value.
        """
        with self._lock:
            found = tuple(Span(i, a, b, self._clocks.get(i, 0)) for i, a, b in spans)
            return Encoding(self.spec, self._seed, self._worker, found)

    def take(self, slice_id: int, spec: str, parts: Sequence[Array], out: Array) -> list[Array]:
        """What is sent of a slice that somebody else has encoded: the parts themselves, copied.

        If they are another codec's, or something is held here for the slice, they are decoded and encoded anew.

        Args:
            out: flat, of the slice's size and dtype; written to in the latter case.
        """
        with self._lock:
            state = self._states.setdefault(slice_id, CodecState())
            residual = state.arrays.get("residual")
            if spec == self.spec and slice_id not in self._carried and (residual is None or not residual.any()):
                self._taken[slice_id], state.dtype = out.size, out.dtype.str
                self._clocks[slice_id] = self._clocks.get(slice_id, 0) + 1
                state.counters["encoded"] += 1
                self.cost.sent(0.0, out.nbytes, sum(p.nbytes for p in parts))
                return [p.copy() for p in parts]
        parse(spec).decode(parts, out)
        return self.encode(slice_id, out)

    def give_back(self, slice_id: int, parts: Sequence[Array]) -> None:
        """The push was refused, or came too late: what it held goes back to the residual."""
        with self._lock:
            state = self._states[slice_id]
            if self.codec.has_feedback and "residual" not in state.arrays and slice_id in self._taken:
                state.arrays["residual"] = np.zeros(self._taken[slice_id], wide(np.dtype(state.dtype)))
            self.codec.give_back(parts, state)
        if slice_id in self._heirs:
            self.hand_over(slice_id, self._heirs[slice_id])

    def hand_over(self, slice_id: int, heir: "Compressor | None") -> None:
        """The next pushes of a slice go through ``heir``: give it what was held back, now and whenever more comes back.

        None, and a codec that compresses no pushes, drop it.
        """
        with self._lock:
            self._heirs[slice_id] = heir
            held = self._carried.pop(slice_id, None)
            state = self._states.get(slice_id)
            residual = None if state is None else state.arrays.get("residual")
            if residual is not None:
                held = residual.copy() if held is None else held + residual.reshape(held.shape)
                residual[...] = 0
        if heir is not None and held is not None and heir.codec.name != "none":
            heir.carry(slice_id, held)

    def carry(self, slice_id: int, held: Array) -> None:
        """Send this with the next push of a slice."""
        with self._lock:
            before = self._carried.get(slice_id)
            self._carried[slice_id] = held if before is None else before + held

    def round_trip(self, slice_id: int, part: Array, columns: int = 0) -> Array:
        """What a server would receive of a flat slice."""
        received = np.empty_like(part)
        self.codec.decode(self.encode(slice_id, part, columns), received)
        return received

    def seen(self, slice_id: int, part: Array, version: int) -> Array:
        """What this worker would be sent of a flat slice at ``version``."""
        parts = rounded(self.plan.pull, part, slice_id, version) if self.reply else None
        if parts is None:
            return part
        received = np.empty_like(part)
        self.plan.pull.decode(parts, received)
        return received

    def advice(self, link: Link) -> str:
        """Once, as soon as it is clear: that the codec does not pay, and why. Otherwise nothing."""
        if self._advised or self.cost.encoded < self._look:
            return ""
        self._look = self.cost.encoded + ADVISE_EVERY
        text = self.cost.complaint(self.plan.spec(), link)
        self._advised = bool(text)
        return text

    def report(self, link: Link) -> dict[str, Any]:
        """Plain data, for the run's report."""
        return {"codec": self.plan.spec(), **self.cost.report(link)}


class Place(Protocol):
    """Where a slice's value goes that is not simply an array."""

    def write(self, flat: Array) -> None:
        """Take the value."""
        ...


class Landing:
    """Where a slice's value goes that may come compressed.

    Args:
        compressor: of the store.
        to: flat memory, or what takes a flat value apart.
        size: elements of the slice.
        dtype: of its value.
    """

    __slots__ = ("_compressor", "_dtype", "_size", "_to")

    def __init__(self, compressor: Compressor, to: "Array | Place", size: int, dtype: "np.dtype[Any]") -> None:
        self._compressor, self._to, self._size, self._dtype = compressor, to, size, dtype

    def write(self, flat: Array) -> None:
        """Take a value that came as it is."""
        if isinstance(self._to, np.ndarray):
            np.copyto(self._to, flat, casting="no")
        else:
            self._to.write(flat)

    def unpack(self, spec: str, parts: Sequence[Array]) -> None:
        """Take a value that codec ``spec`` has encoded.

        Raises:
            RemoteProtocolError: the parts cannot be an encoding for it.
        """
        began = perf_counter()
        direct = isinstance(self._to, np.ndarray)
        flat = self._to if isinstance(self._to, np.ndarray) else np.empty(self._size, self._dtype)
        self._compressor.codecs[spec].decode(parts, flat)
        self._compressor.cost.got(perf_counter() - began, flat.nbytes, sum(p.nbytes for p in parts))
        if not direct:
            self.write(flat)


def whole_rows(shape: tuple[int, ...], start: int, stop: int) -> int:
    """Row length of a matrix if elements ``start:stop`` are whole rows of it, else 0."""
    if len(shape) < 2 or 0 in shape:
        return 0
    columns = int(np.prod(shape[1:]))
    return columns if start % columns == 0 and stop % columns == 0 else 0
