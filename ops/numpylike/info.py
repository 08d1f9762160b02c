"""What NumPy says about arrays and dtypes: shapes, conversions, equality, memory."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy import errstate, get_printoptions, isscalar, iterable, printoptions, set_printoptions

from shoal.ops import compare, reduce
from shoal.ops.numpylike.arguments import arraylike
from shoal.ops.precision import BFLOAT16
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "allclose",
    "array2string",
    "array_equal",
    "array_equiv",
    "array_repr",
    "array_str",
    "can_cast",
    "errstate",
    "finfo",
    "get_printoptions",
    "iinfo",
    "isclose",
    "isdtype",
    "isscalar",
    "issubdtype",
    "iterable",
    "may_share_memory",
    "min_scalar_type",
    "ndim",
    "printoptions",
    "promote_types",
    "result_type",
    "set_printoptions",
    "shape",
    "shares_memory",
    "size",
]


def shape(x: Any) -> tuple[int, ...]:
    """Length of each axis."""
    return tuple(arraylike(x).shape)


def ndim(x: Any) -> int:
    """Number of axes."""
    return int(arraylike(x).ndim)


def size(x: Any, axis: int | None = None) -> int:
    """Number of elements, or the length of ``axis``."""
    x = arraylike(x)
    return int(x.size if axis is None else x.shape[axis])


# -- dtypes


def _dtype(x: Any) -> Any:
    """What NumPy's rules are asked about: a dtype, or a Python number."""
    if hasattr(x, "dtype") and not isinstance(x, type):
        return x.dtype
    return x if isinstance(x, (bool, int, float, complex)) else np.dtype(x)


def result_type(*values: Any) -> np.dtype[Any]:
    """The dtype that arrays, dtypes and Python numbers have together; Python numbers do not widen (NEP 50)."""
    return np.result_type(*(_dtype(v) for v in values))


def promote_types(a: Any, b: Any) -> np.dtype[Any]:
    """The smallest dtype that both can be converted to without loss."""
    return np.promote_types(_dtype(a), _dtype(b))


def min_scalar_type(x: Any) -> np.dtype[Any]:
    """The smallest dtype that holds a number."""
    return np.min_scalar_type(raw(x))


def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """Whether ``from_``, a dtype or an array, can be converted to the dtype ``to`` by the rule ``casting``."""
    return bool(np.can_cast(_dtype(from_), np.dtype(to), casting))


def issubdtype(a: Any, b: Any) -> bool:
    """Whether a dtype is of a kind, such as `numpy.floating`, or equal to another dtype."""
    a = _dtype(a)
    return bool((a == BFLOAT16 and b in (np.floating, np.inexact, np.number)) or np.issubdtype(a, b))


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind of the array API standard, such as "real floating", of one of several, or equal."""
    if dtype == BFLOAT16:
        kinds = kind if isinstance(kind, tuple) else (kind,)
        return any(k in ("real floating", "numeric") if isinstance(k, str) else k == BFLOAT16 for k in kinds)
    return bool(np.isdtype(np.dtype(dtype), kind))


def finfo(dtype: Any) -> Any:
    """What a floating-point dtype can hold: ``eps``, ``max``, ``min``, ``smallest_normal``, ``bits``."""
    dtype = _dtype(dtype)
    of_bfloat16: Any = ml_dtypes.finfo
    return of_bfloat16(BFLOAT16) if dtype == BFLOAT16 else np.finfo(dtype)


def iinfo(dtype: Any) -> Any:
    """What an integer dtype can hold: ``max``, ``min``, ``bits``."""
    return np.iinfo(_dtype(dtype))


# -- equality


def array_equal(a: Any, b: Any, equal_nan: bool = False) -> bool:
    """Whether shape and all elements are equal."""
    return bool(np.array_equal(raw(a), raw(b), equal_nan))


def array_equiv(a: Any, b: Any) -> bool:
    """Whether the shapes broadcast and all elements are equal then."""
    return bool(np.array_equiv(raw(a), raw(b)))


def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """For each element, whether the two differ by at most ``atol`` + ``rtol`` * abs(b)."""
    a, b = arraylike(a), arraylike(b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return Tensor(np.isclose(raw(a), raw(b), rtol, atol, equal_nan))
    near = compare.less_equal(abs(a - b), atol + rtol * abs(b))
    same = compare.equal(a, b)
    if equal_nan:
        same = compare.logical_or(same, compare.logical_and(compare.isnan(a), compare.isnan(b)))
    return compare.logical_or(same, compare.logical_and(near, compare.isfinite(b)))


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements differ by at most ``atol`` + ``rtol`` * abs(b)."""
    return bool(reduce.all_(isclose(a, b, rtol, atol, equal_nan)))


# -- memory, text


def may_share_memory(a: Any, b: Any) -> bool:
    """Whether two arrays may lie in the same memory."""
    return bool(np.may_share_memory(raw(a), raw(b)))


def shares_memory(a: Any, b: Any) -> bool:
    """Whether two arrays lie in the same memory, in part at least."""
    return bool(np.shares_memory(raw(a), raw(b)))


def array2string(x: Any, **options: Any) -> str:
    """The elements as text; see `numpy.array2string`."""
    return np.array2string(np.asarray(x), **options)


def array_str(x: Any) -> str:
    """The elements as text."""
    return np.array_str(np.asarray(x))


def array_repr(x: Any) -> str:
    """The text that a tensor shows at the prompt."""
    return repr(arraylike(x))
