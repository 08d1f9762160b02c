"""Special functions, under SciPy's names: gamma and its relatives, error functions, Bessel functions, ``xlogy``, ..."""

from shoal.ops import specials
from shoal.ops.activation import log_sigmoid as log_expit
from shoal.ops.activation import sigmoid as expit
from shoal.ops.elementwise import erf, expm1, log1p
from shoal.ops.loss import log_softmax, softmax
from shoal.ops.reduce import logsumexp
from shoal.ops.specials import *

__all__ = ["erf", "expit", "expm1", "log1p", "log_expit", "log_softmax", "logsumexp", "softmax"]
__all__ += specials.__all__
