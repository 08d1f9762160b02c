"""Linear algebra under NumPy's names: ``np.linalg``."""

from shoal.ops.numpylike import linear
from shoal.ops.numpylike.linear import *

__all__ = [*linear.__all__]
