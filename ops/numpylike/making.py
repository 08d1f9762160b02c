"""NumPy's functions that make arrays."""

from shoal.ops.creation import (
    arange,
    array,
    asarray,
    empty,
    eye,
    from_dlpack,
    full,
    full_like,
    identity,
    linspace,
    logspace,
    meshgrid,
    ones,
    tri,
    zeros,
)
from shoal.ops.elementwise import ones_like, zeros_like

__all__ = [
    "arange",
    "array",
    "asarray",
    "empty",
    "eye",
    "from_dlpack",
    "full",
    "full_like",
    "identity",
    "linspace",
    "logspace",
    "meshgrid",
    "ones",
    "ones_like",
    "tri",
    "zeros",
    "zeros_like",
]
