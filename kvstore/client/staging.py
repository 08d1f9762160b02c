"""Pushes to servers on the same host: copied once, into memory that the server reads, and kept there while it may.

A server reads a contribution no more once it has given the answer that completes the push: the acknowledgement, or, if
the value was asked for, that value. What becomes of a push that fails nobody knows, so its memory is never used again.
"""

from typing import Any

import numpy as np

from shoal.kvstore.arrays import Array
from shoal.kvstore.client.core import Job
from shoal.kvstore.wire.messages import Push
from shoal.kvstore.wire.schema import Message, Payload
from shoal.kvstore.wire.sharing import MIN_BYTES, Sharing
from shoal.kvstore.wire.shm import address_of

__all__ = ["Staging"]


class Staging:
    """What one worker's pushes hold of its arena. On the I/O thread."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._held: dict[tuple[int, int], Array] = {}  # by slice and clock
        self._forsaken: list[Array] = []

    def stage(self, peer: str, message: Message) -> Message:
        """``message``, with its contribution where ``peer`` can read it, if there is such a place."""
        if not isinstance(message, Push) or message.codec or not self._sharing.shares(peer):
            return message
        key = (message.slice, message.clock)
        place = self._held.get(key)
        if place is None:
            place = self._copy(peer, message.value)
            if place is None:
                return message
            self._held[key] = place
        return _moved(message, place.data)

    def _copy(self, peer: str, value: Payload) -> Array | None:
        """The contribution in a block of its own; None if it lies well, or there is no block."""
        data = value.data
        if data.nbytes < MIN_BYTES or self._sharing.arena.find(address_of(data), data.nbytes):
            return None
        block = self._sharing.place(peer, data.nbytes)
        if block is None:
            return None
        place: Array = np.asarray(block)
        np.copyto(place, np.frombuffer(data, np.uint8))
        return place

    def release(self, job: Job) -> None:
        """The job is done: its memory may be used again."""
        if job.payload is not None:
            self._held.pop((job.slice, job.clock), None)

    def forsake(self, job: Job) -> None:
        """The job has failed: the server may read its memory at any time."""
        place = None if job.payload is None else self._held.pop((job.slice, job.clock), None)
        if place is not None:
            self._forsaken.append(place)


def _moved(m: Push, data: Any) -> Push:
    """The same push, whose contribution lies elsewhere; `dataclasses.replace` takes ten times as long."""
    return Push(
        worker=m.worker,
        incarnation=m.incarnation,
        seq=m.seq,
        slice=m.slice,
        clock=m.clock,
        pulled=m.pulled,
        round=m.round,
        quota=m.quota,
        holds=m.holds,
        want=m.want,
        reply=m.reply,
        codec=m.codec,
        value=Payload(m.value.dtype, m.value.shape, data),
        more=m.more,
        rows=m.rows,
    )
