"""Values that may change while they are read: copied into memory that the reader shares, instead of into a socket.

A worker asks about one slice one question after another. When it asks the next one it has read the answer to the one
before, so that one block for each worker and slice is enough; a repetition of a question travels in the message.
"""

from typing import NamedTuple

import numpy as np

from shoal.kvstore.arrays import Array
from shoal.kvstore.wire.schema import Payload
from shoal.kvstore.wire.sharing import Sharing

__all__ = ["Copies"]


class _Copy(NamedTuple):
    seq: int
    place: Array


class Copies:
    """The blocks of one server's arena that its workers read such values from."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._made: dict[str, dict[int, _Copy]] = {}  # by peer and slice

    def make(self, peer: str, slice_id: int, seq: int, value: Payload) -> Payload | None:
        """``value`` as it is now, where ``peer`` can read it until it asks about the slice under a larger ``seq``.

        None if there is no such place.
        """
        if not self._sharing.shares(peer):
            self._made.pop(peer, None)
            return None
        mine = self._made.setdefault(peer, {})
        last = mine.get(slice_id)
        if last is not None and last.seq >= seq:
            return None
        place = self._place(peer, value.data.nbytes) if last is None else last.place
        if place is None:
            return None
        mine[slice_id] = _Copy(seq, place)
        np.copyto(place, np.frombuffer(value.data, np.uint8))
        return Payload(dtype=value.dtype, shape=value.shape, data=place.data)

    def forget(self) -> None:
        """Give back the blocks of peers that share nothing any more."""
        for peer in [p for p in self._made if not self._sharing.shares(p)]:
            del self._made[peer]

    def _place(self, peer: str, nbytes: int) -> Array | None:
        block = self._sharing.place(peer, nbytes)
        return None if block is None else np.asarray(block)
