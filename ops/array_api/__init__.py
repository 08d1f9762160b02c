"""The Python array API standard, 2024.12: what ``Tensor.__array_namespace__()`` returns.

Every function of the standard with its own parameters, positional and keyword ones as it says, over the dtypes that it
has. They are those of `shoal.np`, and have gradients; they differ from these in that a Python int becomes int64 and not
float32, as the standard wants it. The linalg and fft extensions are there. https://data-apis.org/array-api/2024.12
"""

from numpy import e, inf, nan, newaxis, pi

from shoal.ops.array_api import creation, dtypes, elementwise, fft, linalg, manipulation, reduction
from shoal.ops.array_api.creation import *
from shoal.ops.array_api.dtypes import *
from shoal.ops.array_api.elementwise import *
from shoal.ops.array_api.info import __array_namespace_info__
from shoal.ops.array_api.linalg import matmul, matrix_transpose, tensordot, vecdot
from shoal.ops.array_api.manipulation import *
from shoal.ops.array_api.reduction import *

__array_api_version__ = "2024.12"

__all__ = [
    "__array_api_version__",
    "__array_namespace_info__",
    "e",
    "fft",
    "inf",
    "linalg",
    "matmul",
    "matrix_transpose",
    "nan",
    "newaxis",
    "pi",
    "tensordot",
    "vecdot",
]
__all__ += creation.__all__
__all__ += dtypes.__all__
__all__ += elementwise.__all__
__all__ += manipulation.__all__
__all__ += reduction.__all__
