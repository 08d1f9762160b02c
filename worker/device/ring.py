"""Pinned memory between a GPU and the servers: slots that are taken, filled, sent, written back, and free again.

A slot has room for what comes from the GPU, for the same numbers as the store wants them, and two words. The GPU copies
the number of the step to the first word behind the data, in the same stream, and to the second one behind the copy of
the new weights back to it. So whoever looks after slots reads memory, and asks the GPU nothing, also for steps
that are recorded once and replayed.
"""

from collections import deque
from typing import Any

import numpy as np

from shoal.ops.gpu.device import Gpu

__all__ = ["Ring"]


class Ring:
    """Slots of pinned memory, made once and kept: what is dropped could be given out again while a copy is under way.

    Args:
        gpu: whose copies go through it.
        count: of slots; 3 keep a copy in, a message, and a copy back under way at once.
        wire_bytes, value_bytes: of the largest bucket, as the GPU sends it and as the store has it.
    """

    def __init__(self, gpu: Gpu, count: int, wire_bytes: int, value_bytes: int) -> None:
        self._wire = gpu.pinned((count, wire_bytes), np.uint8)
        self._values = gpu.pinned((count, value_bytes), np.uint8)
        self.filled = gpu.pinned((count,), np.uint32)
        self.emptied = gpu.pinned((count,), np.uint32)
        self._free = deque(range(count))
        self.count, self.wire_bytes = count, wire_bytes

    def take(self) -> int | None:
        """A slot that nobody uses; None if there is none."""
        return self._free.popleft() if self._free else None

    def give(self, slot: int) -> None:
        """The slot is free again."""
        self._free.append(slot)

    @property
    def free(self) -> int:
        """How many slots nobody uses."""
        return len(self._free)

    def wire(self, slot: int, size: int, dtype: Any) -> Any:
        """Where the GPU's copy goes."""
        return self._wire[slot, : size * np.dtype(dtype).itemsize].view(dtype)

    def values(self, slot: int, size: int, dtype: Any) -> Any:
        """Where the numbers are that the store is given, and those that it gives."""
        return self._values[slot, : size * np.dtype(dtype).itemsize].view(dtype)
