"""One worker's compression of one store: a codec, and what it keeps of each slice between pushes."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.kvstore.codecs.base import Address, Codec, CodecState
from shoal.kvstore.codecs.registry import Spec, parse
from shoal.ops import random

__all__ = ["Compressor", "whole_rows"]

Array = NDArray[Any]


class Compressor:
    """Encodes slices in the order in which they are pushed. Calls may come from several threads.

    Args:
        codec: what compresses.
        worker: rank of this worker, for the address of random numbers.
    """

    def __init__(self, codec: Codec, worker: int) -> None:
        self.codec, self.spec = codec, codec.spec()
        self._seed = random.address().seed  # now: other threads have addresses of their own
        self._worker, self._lock = worker, Lock()
        self._states: dict[int, CodecState] = {}
        self._clocks: dict[int, int] = {}

    @classmethod
    def of(cls, params: Spec | None, worker: int) -> "Compressor | None":
        """What `KVStore.set_gradient_compression` was asked for; None for no compression."""
        codec = parse("none" if params is None else params)
        return None if codec.name == "none" else cls(codec, worker)

    def fits(self, dtype: "np.dtype[Any]") -> bool:
        """Whether gradients of this dtype are compressed; integers are pushed as they are."""
        return dtype.kind == "f"

    def encode(self, slice_id: int, part: Array, columns: int = 0) -> list[Array]:
        """What is sent of a flat slice instead of it.

        Args:
            columns: row length of the matrix that the slice is cut from, if it holds whole rows; 0 otherwise.
        """
        with self._lock:
            state = self._states.setdefault(slice_id, CodecState())
            clock = self._clocks.get(slice_id, 0)
            grad = part.reshape(-1, columns) if columns and self.codec.matrices else part
            parts = self.codec.encode(grad, state, Address(self._seed, self._worker, slice_id, clock))
            self._clocks[slice_id] = clock + 1
            return parts

    def give_back(self, slice_id: int, parts: Sequence[Array]) -> None:
        """The push was refused: what it held goes back to the residual."""
        with self._lock:
            self.codec.give_back(parts, self._states[slice_id])

    def round_trip(self, slice_id: int, part: Array, columns: int = 0) -> Array:
        """What a server would receive of a flat slice."""
        received = np.empty_like(part)
        self.codec.decode(self.encode(slice_id, part, columns), received)
        return received


def whole_rows(shape: tuple[int, ...], start: int, stop: int) -> int:
    """Row length of a matrix if elements ``start:stop`` are whole rows of it, else 0."""
    if len(shape) < 2 or 0 in shape:
        return 0
    columns = int(np.prod(shape[1:]))
    return columns if start % columns == 0 and stop % columns == 0 else 0
