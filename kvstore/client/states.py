"""What the optimizer keeps on servers, key by key here and slice by slice there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.kvstore.arrays import Array, as_array, as_payload
from shoal.kvstore.client.jobs import Job
from shoal.kvstore.snapshot import States
from shoal.kvstore.wire.messages import KeyLayout, Restate, Stated

__all__ = ["Span", "StatesPlace", "restates", "spans_of"]


class _Bundle(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def stops(self) -> tuple[int, ...]: ...


class _Entry(Protocol):
    """See `shoal.kvstore.client.exchange.Entry`."""

    @property
    def layout(self) -> KeyLayout: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def bundle(self) -> _Bundle | None: ...


class _Place(Protocol):
    def write(self, flat: Array) -> None: ...


class Span(NamedTuple):
    """Elements ``start:stop`` of a slice are those from ``offset`` on of a key of this shape."""

    key: str
    start: int
    stop: int
    offset: int
    shape: tuple[int, ...]


def spans_of(entries: Mapping[str, _Entry]) -> dict[int, list[Span]]:
    """What lies in each slice of these keys, by slice, in its order."""
    found: dict[int, list[Span]] = {}
    for name, e in entries.items():
        for s in e.layout.slices:
            start = s.offset if e.bundle is not None else 0
            found.setdefault(s.id, []).append(Span(name, start, start + s.stop - s.start, s.start, e.shape))
    return {i: sorted(spans, key=lambda s: s.start) for i, spans in found.items()}


class StatesPlace:
    """Where a slice's value and the states of its optimizer go.

    Args:
        to: where the value goes.
        spans: the keys that are wanted of the slice.
        kept: of every key, how many updates it has had, and its states; added to.
    """

    __slots__ = ("_kept", "_spans", "_to")

    def __init__(self, to: Array | _Place, spans: Sequence[Span], kept: States) -> None:
        self._to, self._spans, self._kept = to, spans, kept

    def write(self, flat: Array) -> None:
        """Take the value."""
        if isinstance(self._to, np.ndarray):
            np.copyto(self._to, flat, casting="no")
        else:
            self._to.write(flat)

    def take(self, m: Stated) -> None:
        """Take the value, and the states."""
        self.write(as_array(m.value))
        for span in self._spans:
            updates, states = self._kept.get(span.key, (0, {}))
            for name, payload in zip(m.slots, m.states, strict=True):
                flat = as_array(payload)
                whole = states.setdefault(name, np.empty(span.shape, flat.dtype)).reshape(-1)
                whole[span.offset : span.offset + span.stop - span.start] = flat[span.start : span.stop]
            self._kept[span.key] = max(updates, m.updates), states


def restates(entries: Mapping[str, _Entry], states: States, servers: Mapping[int, int]) -> list[Job]:
    """The requests that give the slices of keys the states that `StatesPlace` has collected.

    Args:
        entries: all keys of the store.
        servers: of slices that are not where their layouts say.
    Raises:
        ConfigError: a key is unknown; or some keys of a slice have states, and others do not, or other ones.
        ShapeError: a state has not its key's shape.
    """
    _check(entries, states)
    owners = {s.id: s.server for e in entries.values() for s in e.layout.slices} | dict(servers)
    return [
        Job(server=owners[slice_id], key=spans[0].key, request=_restate(slice_id, spans, states))
        for slice_id, spans in spans_of(entries).items()
        if any(s.key in states for s in spans)
    ]


def _check(entries: Mapping[str, _Entry], states: States) -> None:
    unknown = sorted(states.keys() - entries.keys())
    if unknown:
        raise ConfigError(f"load_states: no such keys: {unknown[:4]}; the store has {sorted(entries)[:8]}")
    for key, (_, arrays) in states.items():
        for name, array in arrays.items():
            if np.shape(array) != entries[key].shape:
                raise ShapeError(
                    f"load_states: {name} of key {key!r} has shape {np.shape(array)}, the key has {entries[key].shape}"
                )


def _restate(slice_id: int, spans: Sequence[Span], states: States) -> Restate:
    lacking = [s.key for s in spans if s.key not in states]
    names = tuple(states[next(s.key for s in spans if s.key in states)][1])
    if lacking or any(states[s.key][1].keys() != set(names) for s in spans):
        raise ConfigError(
            f"load_states: keys {[s.key for s in spans][:8]} lie in one slice, and all of them need states {names}; "
            f"{lacking[:4] or 'some'} have others, or none. Load the states of all keys"
        )
    return Restate(
        worker=0,
        incarnation=0,
        seq=0,
        slice=slice_id,
        updates=max(states[s.key][0] for s in spans),
        slots=names,
        states=tuple(as_payload(np.concatenate(list(_parts(n, spans, states)))) for n in names),
    )


def _parts(name: str, spans: Iterable[Span], states: States) -> Iterator[Array]:
    for s in spans:
        flat = np.ascontiguousarray(states[s.key][1][name]).reshape(-1)
        yield flat[s.offset : s.offset + s.stop - s.start]
