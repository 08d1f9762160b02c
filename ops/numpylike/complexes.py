"""NumPy's functions of complex numbers, and its special functions."""

import math
from typing import Any

import numpy as np

from shoal.ops import complexes
from shoal.ops.complexes import conj, imag, real
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.specials import i0, sinc
from shoal.ops.tensor import raw

__all__ = ["angle", "conj", "conjugate", "i0", "imag", "iscomplex", "iscomplexobj", "isreal", "isrealobj"]
__all__ += ["real", "sinc"]

conjugate = conj


def angle(z: Any, deg: bool = False) -> Any:
    """The angle of complex numbers from the positive real axis, in radians, or degrees if ``deg``."""
    found = complexes.angle(arraylike(z))
    return found * (180.0 / math.pi) if deg else found


def iscomplex(x: Any) -> Any:
    """Whether each element has an imaginary part other than 0."""
    return imag(arraylike(x)) != 0


def isreal(x: Any) -> Any:
    """Whether each element has the imaginary part 0."""
    return imag(arraylike(x)) == 0


def iscomplexobj(x: Any) -> bool:
    """Whether the dtype is complex."""
    return bool(np.asarray(raw(x)).dtype.kind == "c") if not hasattr(x, "dtype") else bool(x.dtype.kind == "c")


def isrealobj(x: Any) -> bool:
    """Whether the dtype is not complex."""
    return not iscomplexobj(x)
