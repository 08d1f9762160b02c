"""Between arrays and payloads, without copying."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shoal.kvstore.wire.schema import Payload

__all__ = ["Array", "as_array", "as_payload"]

Array: TypeAlias = NDArray[Any]


def as_array(payload: Payload) -> Array:
    """The payload's array: a view of its buffer, possibly read-only and unaligned."""
    return np.frombuffer(payload.data, dtype=payload.dtype).reshape(payload.shape)


def as_payload(array: Array) -> Payload:
    """A payload over the array's own memory; ``array`` must be C-contiguous and little-endian."""
    return Payload(dtype=array.dtype.str, shape=array.shape, data=array.reshape(-1).data)
