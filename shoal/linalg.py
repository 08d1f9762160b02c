"""Linear algebra under NumPy's names: ``np.linalg``."""

from shoal.ops.decomposition import cholesky, det, inv, slogdet, solve
from shoal.ops.reduce import norm

__all__ = ["cholesky", "det", "inv", "norm", "slogdet", "solve"]
