"""What a call names, checked and taken apart; and the latest such calls, because training makes the same ones again.

To check a thousand small arrays takes longer than to send them. So what came of it is remembered, and a call with the
same keys and the same array objects takes it up again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from shoal.kvstore.arrays import Array
from shoal.kvstore.bundle import Bundle, Gather
from shoal.kvstore.wire.messages import KeyLayout

__all__ = ["Alone", "Entry", "Exchange", "Fused", "Recent"]

REMEMBERED_BYTES = 16 << 20
"""A call with larger arrays is not remembered: its own length hides the checks, and its arrays would be kept alive."""

STREAMED_BYTES = 8 << 20
"""Values of so much are copied past the caches: they would not hold the first when the last one comes."""

TOTAL_BYTES = 64 << 20
"""Of all arrays that are kept alive by being remembered."""

Flat: TypeAlias = Any
"""Where a value goes: flat memory, a `Reading`, or for keys of a bundle a `Scatter`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key: where its parts are, and what it is."""

    layout: KeyLayout
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bundle: Bundle | None = None  # the slice that it shares with other keys
    place: int = 0  # which of the bundle's keys it is


class Alone(NamedTuple):
    """A key with slices of its own: what is pushed (flat), and where its value goes."""

    at: int  # which of the call's keys it is
    entry: Entry
    array: Array | None
    target: Flat | None
    overlaps: bool  # the value is written where that which is pushed lies


class Fused(NamedTuple):
    """Keys of one bundle: what is pushed (flat, in the bundle's order), and where their values go."""

    bundle: Bundle
    parts: Gather | None
    members: list[tuple[int, int]]  # (place of the key in the bundle, index of the key in the call)
    target: Flat | None
    stays: Array | None = None  # what is pushed, where it need not be gathered


class Exchange:
    """One call's keys and arrays, by the slices that they lie in. It is not changed once it is made.

    Args:
        entries: of the call's keys, in its order.
        arrays: what is pushed, C-contiguous, if anything is.
        targets: flat memory for the values, if they are wanted.
        results: what the call returns, a list.
        called: from a key's name in the run to the caller's name for it.
    Attributes:
        large: the values that are read are more than caches hold.
        pushes: whether anything is pushed.
    Raises:
        ConfigError: a push of some keys of a bundle only, or of one twice.
    """

    __slots__ = ("alone", "entries", "fused", "large", "nbytes", "pushes", "results")

    def __init__(
        self,
        entries: Sequence[Entry],
        arrays: Sequence[Array] | None,
        targets: Sequence[Flat] | None,
        results: list[Any],
        called: Mapping[str, str],
    ) -> None:
        self.entries, self.results, self.pushes = entries, results, arrays is not None
        self.alone: list[Alone] = []
        bundles: dict[int, tuple[Bundle, list[int]]] = {}
        for i, entry in enumerate(entries):
            if entry.bundle is not None:
                bundles.setdefault(entry.bundle.id, (entry.bundle, []))[1].append(i)
                continue
            array = None if arrays is None else arrays[i].reshape(-1)
            target = None if targets is None else targets[i]
            overlaps = array is not None and isinstance(target, np.ndarray) and np.may_share_memory(array, target)
            self.alone.append(Alone(i, entry, array, target, overlaps))
        self.fused: list[Fused] = []
        for bundle, indices in bundles.values():
            parts = None
            if arrays is not None:
                order = bundle.order([(entries[i].layout.key, i) for i in indices], called)
                parts = bundle.gather([arrays[i].reshape(-1) for i in order])
            members = [(entries[i].place, i) for i in indices]
            stays = None if parts is None or _meets(parts.whole, members, targets) else parts.whole
            self.fused.append(Fused(bundle, parts, members, _target(bundle, members, targets), stays))
        self.nbytes = sum(a.nbytes for a in (*(arrays or ()), *(targets or ())) if isinstance(a, np.ndarray))
        self.large = _large(self.alone)

    @property
    def slices(self) -> int:
        """How many its keys lie in."""
        return sum([len(a.entry.layout.slices) for a in self.alone]) + len(self.fused)

    def behind(self, n: int) -> "Exchange":
        """The same without the first ``n`` keys that have slices of their own."""
        return self._with(self.alone[n:], self.fused, self.large)

    def into(self, alone: Sequence[Flat], fused: Sequence[Flat]) -> "Exchange":
        """The same, but for where the values go."""
        moved = [a._replace(target=t) for a, t in zip(self.alone, alone, strict=True)]
        return self._with(moved, [f._replace(target=t) for f, t in zip(self.fused, fused, strict=True)], _large(moved))

    def copied(self, copy: Callable[[Alone], Array | None]) -> "Exchange":
        """The same, but for the pushes of keys with slices of their own: what ``copy`` makes of them."""
        return self._with([a._replace(array=copy(a)) for a in self.alone], self.fused, self.large)

    def gathered(self, stays: Callable[[Array], bool]) -> "Exchange":
        """The same, but keys of a bundle are always gathered, unless their memory ``stays`` as it is."""
        fused = [f if f.stays is None or stays(f.stays) else f._replace(stays=None) for f in self.fused]
        return self._with(self.alone, fused, self.large)

    def _with(self, alone: list[Alone], fused: list[Fused], large: bool) -> "Exchange":
        made = object.__new__(Exchange)
        made.entries, made.results, made.nbytes, made.pushes = self.entries, self.results, self.nbytes, self.pushes
        made.alone, made.fused, made.large = alone, fused, large
        return made

    def copied_bytes(self, copies: Callable[[Alone], bool]) -> int:
        """What a push keeps until it is counted: of bundles what is gathered, of others those that it ``copies``."""
        own = sum(a.array.nbytes for a in self.alone if a.array is not None and copies(a))
        return own + sum(f.parts.nbytes for f in self.fused if f.parts is not None and f.stays is None)


def _large(alone: Sequence[Alone]) -> bool:
    return sum([a.target.nbytes for a in alone if isinstance(a.target, np.ndarray)]) >= STREAMED_BYTES


def _meets(whole: Array | None, members: list[tuple[int, int]], targets: Sequence[Flat] | None) -> bool:
    """Whether a value of these keys is written where they are pushed from."""
    if whole is None or targets is None:
        return False
    found = [targets[i] for _, i in members]
    return any(isinstance(t, np.ndarray) and np.may_share_memory(whole, t) for t in found)


def _target(bundle: Bundle, members: list[tuple[int, int]], targets: Sequence[Flat] | None) -> Flat | None:
    return None if targets is None else bundle.scatter([(place, targets[i]) for place, i in members])


class _Call(NamedTuple):
    """What a remembered call was given."""

    keys: Any
    values: Any
    outs: Any
    exchange: Exchange


class Recent:
    """The latest calls of one store, by what they were given. Any thread may use it.

    Only calls with NumPy arrays are remembered: a Tensor may have other memory the next time.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str, int], _Call] = {}

    def find(self, kind: str, key: Any, values: Any, outs: Any) -> Exchange | None:
        """What a call with the very same keys and arrays came to; None if there was none lately."""
        if type(key) is str:
            call = self._calls.get((kind, key, -1))
            return call.exchange if call is not None and call.values is values and call.outs is outs else None
        if type(key) is not list or not key or type(key[0]) is not str:
            return None
        call = self._calls.get((kind, key[0], len(key)))
        if call is None or call.keys != key or not _same(call.values, values) or not _same(call.outs, outs):
            return None
        return call.exchange

    def keep(self, kind: str, key: Any, values: Any, outs: Any, exchange: Exchange) -> None:
        """Remember a call, if that is sound and worth it."""
        if exchange.nbytes > REMEMBERED_BYTES:
            return
        if type(key) is str:
            if _arrays([values]) and _arrays([outs]):
                self._insert((kind, key, -1), _Call(key, values, outs, exchange))
        elif type(key) is list and key and type(key[0]) is str and _arrays(values) and _arrays(outs):
            call = _Call(list(key), values and list(values), outs and list(outs), exchange)
            self._insert((kind, key[0], len(key)), call)

    def _insert(self, at: tuple[str, str, int], call: _Call) -> None:
        held = sum(c.exchange.nbytes for k, c in list(self._calls.items()) if k != at)
        if held + call.exchange.nbytes > TOTAL_BYTES:
            self._calls.clear()
        self._calls[at] = call


def _arrays(given: Any) -> bool:
    """Whether these are NumPy arrays that are sent as they are, or nothing is given at all.

    Of one that is not contiguous a copy is sent, which is another one the next time.
    """
    return given is None or (type(given) in (list, tuple) and all(a is None or _as_it_is(a) for a in given))


def _as_it_is(a: Any) -> bool:
    return type(a) is np.ndarray and a.flags.c_contiguous


def _same(known: list[Any] | None, given: Any) -> bool:
    """Whether these are the very same objects, in this order."""
    if known is None or given is None:
        return known is given
    return type(given) in (list, tuple) and len(known) == len(given) and all(map(is_, known, given))
