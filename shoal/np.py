"""NumPy's names over `Tensor`: ``from shoal import np``.

Floats are float32 unless a dtype is given or an array brings its own; integers from `arange` are int64. Functions take
Tensors, Symbols (while a model is traced) and plain arrays; creation functions give Tensors. The functions stand in
`shoal.ops.numpylike`, by theme. What NumPy has and this module leaves out stands in ``docs/numpy.md``, with reasons.
"""

from numpy import (
    bool,
    bool_,
    complex64,
    complex128,
    complexfloating,
    double,
    dtype,
    e,
    euler_gamma,
    float16,
    float32,
    float64,
    floating,
    generic,
    half,
    inexact,
    inf,
    int8,
    int16,
    int32,
    int64,
    int_,
    integer,
    intp,
    nan,
    newaxis,
    number,
    pi,
    signedinteger,
    single,
    uint,
    uint8,
    uint16,
    uint32,
    uint64,
    unsignedinteger,
)

from shoal import fft, linalg, random
from shoal.ops import array_api
from shoal.ops.numpylike import (
    complexes,
    elementwise,
    grids,
    info,
    joining,
    making,
    polynomials,
    products,
    reducing,
    scanning,
    searching,
    shaping,
    sorting,
    statistics,
)
from shoal.ops.numpylike.complexes import *
from shoal.ops.numpylike.elementwise import *
from shoal.ops.numpylike.grids import *
from shoal.ops.numpylike.info import *
from shoal.ops.numpylike.joining import *
from shoal.ops.numpylike.making import *
from shoal.ops.numpylike.polynomials import *
from shoal.ops.numpylike.products import *
from shoal.ops.numpylike.reducing import *
from shoal.ops.numpylike.scanning import *
from shoal.ops.numpylike.searching import *
from shoal.ops.numpylike.shaping import *
from shoal.ops.numpylike.sorting import *
from shoal.ops.numpylike.statistics import *
from shoal.ops.precision import BFLOAT16 as bfloat16
from shoal.ops.tensor import Tensor as ndarray

__all__ = [
    "array_api",
    "bfloat16",
    "bool",
    "bool_",
    "complex64",
    "complex128",
    "complexfloating",
    "double",
    "dtype",
    "e",
    "euler_gamma",
    "fft",
    "float16",
    "float32",
    "float64",
    "floating",
    "generic",
    "half",
    "inexact",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "int_",
    "integer",
    "intp",
    "linalg",
    "nan",
    "ndarray",
    "newaxis",
    "number",
    "pi",
    "random",
    "signedinteger",
    "single",
    "uint",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unsignedinteger",
]
__all__ += complexes.__all__
__all__ += elementwise.__all__
__all__ += grids.__all__
__all__ += info.__all__
__all__ += joining.__all__
__all__ += making.__all__
__all__ += polynomials.__all__
__all__ += products.__all__
__all__ += reducing.__all__
__all__ += searching.__all__
__all__ += shaping.__all__
__all__ += scanning.__all__
__all__ += sorting.__all__
__all__ += statistics.__all__
