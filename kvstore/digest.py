"""One hash for a whole set of weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.kvstore.arrays import as_payload, wire_name

__all__ = ["weights_sha256"]


def weights_sha256(weights: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over all weights: for each key in sorted order its name, dtype, shape and little-endian C-order bytes.

    Equal hashes mean bit-identical weights.

    >>> weights_sha256({"w": np.zeros(2, np.float32)})[:16]
    '6186676a8d58e573'
    """
    digest = hashlib.sha256()
    for key in sorted(weights):
        value = np.asarray(weights[key])
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        digest.update(f"{key}\0{wire_name(little.dtype)}\0{value.shape}\0".encode())
        digest.update(as_payload(little).data)
    return digest.hexdigest()
