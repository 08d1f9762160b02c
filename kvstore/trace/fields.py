"""What a trace keeps of a message: numbers and short texts, never an array."""

from collections.abc import Callable
from typing import Any, NamedTuple

from shoal.kvstore.wire.messages import (
    Ack,
    Barrier,
    BarrierWaiting,
    Init,
    Part,
    Pull,
    Push,
    Refused,
    Released,
    Took,
    Value,
    Waiting,
)
from shoal.kvstore.wire.schema import Message, Payload

__all__ = ["Fields", "fields_of"]


class Fields(NamedTuple):
    """Of a message; -1 and "" where it has no such thing. In a collective ``slice`` is the number of the key."""

    kind: str
    rank: int = -1
    slice: int = -1
    clock: int = -1
    seq: int = -1
    version: int = -1
    nbytes: int = 0
    text: str = ""


def fields_of(m: Message) -> Fields:
    """What is kept of ``m``."""
    read = _READ.get(type(m))
    if read is not None:
        return read(m)
    return Fields(type(m).__name__, getattr(m, "worker", -1), getattr(m, "slice", -1), -1, getattr(m, "seq", -1))


def _bytes(first: Payload | None, more: tuple[Payload, ...] = ()) -> int:
    return 0 if first is None else first.data.nbytes + sum([p.data.nbytes for p in more])


def _push(m: Push) -> Fields:
    return Fields("Push", m.worker, m.slice, m.clock, m.seq, m.pulled, _bytes(m.value, m.more))


def _pull(m: Pull) -> Fields:
    return Fields("Pull", m.worker, m.slice, m.clock, m.seq, -1, 0, "" if m.payload else "version only")


def _value(m: Value) -> Fields:
    return Fields("Value", -1, -1, -1, m.seq, m.version, _bytes(m.value, m.more), "" if m.taken else "dropped")


def _ack(m: Ack) -> Fields:
    return Fields("Ack", -1, -1, -1, m.seq, m.version, 0, "" if m.taken else "dropped")


def _waiting(m: Waiting) -> Fields:
    return Fields("Waiting", seq=m.seq, text=", ".join(f"worker {r}" for r in m.missing[:8]))


def _named(m: Barrier | Released | BarrierWaiting) -> Fields:
    return Fields(type(m).__name__, clock=m.index, text=m.name[:80])


def _collective(m: Part | Took) -> Fields:
    nbytes = _bytes(m.value) if isinstance(m, Part) else 0
    return Fields(type(m).__name__, m.block, m.key, m.clock, m.tag, -1, nbytes)


_READ: dict[type[Message], Callable[[Any], Fields]] = {
    Push: _push,
    Pull: _pull,
    Value: _value,
    Ack: _ack,
    Waiting: _waiting,
    Part: _collective,
    Took: _collective,
    Barrier: _named,
    Released: _named,
    BarrierWaiting: _named,
    Refused: lambda m: Fields("Refused", seq=m.seq, text=m.error[:80]),
    Init: lambda m: Fields("Init", slice=m.slice, seq=m.seq, nbytes=_bytes(m.value), text=m.key[:200]),
}
