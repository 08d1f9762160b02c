"""Fourier transforms under NumPy's names: ``shoal.fft``, ``np.fft``."""

from shoal.ops.numpylike import fourier
from shoal.ops.numpylike.fourier import *

__all__ = [*fourier.__all__]
