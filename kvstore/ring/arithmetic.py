"""The arrays of a collective: what the core says, done to memory, in place and without allocation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shoal.kvstore.arrays import Array, as_array, as_payload
from shoal.kvstore.ring.events import Combine, Finish, Flight
from shoal.kvstore.ring.schedule import Step
from shoal.kvstore.wire.messages import Part

__all__ = ["Arrays", "combine", "finish", "take"]


@dataclass(frozen=True, slots=True)
class Arrays:
    """Memory of one collective, flat and of one dtype.

    Args:
        own: this worker's contribution; never written, unless it is ``total``.
        total: where the result goes.
        divisor: what the sum is divided by: 1, or the number of workers.
    """

    own: Array
    total: Array
    divisor: int = 1

    def source(self, step: Step, fresh: bool) -> Array:
        """What this worker has of elements ``start:stop``."""
        return (self.own if fresh else self.total)[step.start : step.stop]


def combine(arrays: Arrays, action: Combine, add: bool) -> None:
    """Carry out a `Combine`: add the message to what this worker has, or take it as the result."""
    step, value = action.step, as_array(action.value)
    target = arrays.total[step.start : step.stop]
    if add:
        np.add(arrays.source(step, action.fresh), value, out=target)
    else:
        np.copyto(target, value, casting="no")


def finish(arrays: Arrays, action: Finish) -> None:
    """Carry out a `Finish`: the sum becomes the result."""
    source, target = arrays.source(action.step, action.fresh), arrays.total[action.step.start : action.step.stop]
    if arrays.divisor > 1:
        np.divide(source, arrays.divisor, out=target)
    elif action.fresh and arrays.own is not arrays.total:
        np.copyto(target, source, casting="no")


def take(arrays: Arrays, flight: Flight, place: Callable[[Array], Array | None] = lambda array: None) -> Part:
    """The message that carries ``flight``, over the array's own memory unless it must be a copy.

    Args:
        place: memory that the peer reads, for a copy of the array; None if there is none, or the array lies there.
    """
    array = arrays.source(flight.step, flight.fresh)
    room = place(array)
    if room is not None:
        np.copyto(room, array)
        array = room
    elif flight.kept:
        array = array.copy()
    op = flight.op
    return Part(
        key=op.key,
        clock=op.clock,
        block=flight.block,
        tag=flight.step.tag,
        total=op.size,
        value=as_payload(array),
    )
