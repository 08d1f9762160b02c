"""Between workers of one host: messages are copied once, into memory that the receiver reads where it lies."""

import numpy as np

from shoal.kvstore.arrays import Array, as_array, as_payload
from shoal.kvstore.ring.arithmetic import Arrays, take
from shoal.kvstore.ring.events import Flight, Held
from shoal.kvstore.wire.messages import Part
from shoal.kvstore.wire.sharing import MIN_BYTES, Sharing
from shoal.kvstore.wire.shm import address_of

__all__ = ["Staging"]


class Staging:
    """What one worker's messages hold of its arena, and what it holds of its peers'. On the I/O thread.

    A message lies in its block until its flight is over: then the receiver has used it, or has a copy of its own.
    """

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._forsaken: list[Flight] = []

    def message(self, peer: str, arrays: Arrays, flight: Flight) -> Part:
        """The flight's message, made when it is first needed."""
        if flight.message is None:
            flight.message = take(arrays, flight, lambda array: self._room(peer, array, flight.kept))
        return flight.message

    def _room(self, peer: str, array: Array, kept: bool) -> Array | None:
        if array.nbytes < MIN_BYTES or not self._sharing.shares(peer):
            return None
        if not kept and self._sharing.arena.find(address_of(array.data), array.nbytes):
            return None  # it lies there already, and is not written before the peer has used it
        block = self._sharing.place(peer, array.nbytes)
        return None if block is None else np.asarray(block).view(array.dtype)

    def own(self, held: Held) -> None:
        """Copy what lies in a peer's memory: once it is told that this was taken, the peer writes there again."""
        data = held.value.data
        if data.nbytes >= MIN_BYTES and self._sharing.locate(address_of(data), data.nbytes):
            held.value = as_payload(as_array(held.value).copy())

    def forsake(self, flight: Flight) -> None:
        """The flight is given up, and its peer may read it at any time: its block is never used again."""
        if flight.message is not None:
            self._forsaken.append(flight)
