"""What tensors and symbols can do alike: Python's operators, NumPy's methods."""

from typing import Any

import numpy as np

from shoal.ops import bits, compare, elementwise, index, linalg, reduce, shape
from shoal.ops.numpymethods import NumpyMethods
from shoal.ops.registry import Shape, Traced

__all__ = ["ArrayMethods"]

Axes = int | tuple[int, ...] | None


class ArrayMethods(Traced, NumpyMethods):
    """Operators and methods of `Tensor` and `Symbol`: each applies one registered operator.

    A subclass provides ``shape`` and ``dtype``.
    """

    __slots__ = ()

    shape: Any
    dtype: Any

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for length in self.shape:
            n *= length
        return n

    @property
    def mT(self) -> Any:
        """The last two axes exchanged: each matrix transposed.

        Raises:
            ShapeError: there are fewer than two axes.
        """
        return shape.swapaxes(self, -1, -2)

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take."""
        return self.size * int(self.dtype.itemsize)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(self.dtype.itemsize)

    @property
    def T(self) -> Any:
        """Axes in reverse order."""
        return shape.transpose(self)

    def __add__(self, other: Any) -> Any:
        return elementwise.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return elementwise.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return elementwise.subtract(self, other)

    def __rsub__(self, other: Any) -> Any:
        return elementwise.subtract(other, self)

    def __mul__(self, other: Any) -> Any:
        return elementwise.multiply(self, other)

    def __rmul__(self, other: Any) -> Any:
        return elementwise.multiply(other, self)

    def __truediv__(self, other: Any) -> Any:
        return elementwise.divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return elementwise.divide(other, self)

    def __floordiv__(self, other: Any) -> Any:
        return elementwise.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return elementwise.floor_divide(other, self)

    def __mod__(self, other: Any) -> Any:
        return elementwise.mod(self, other)

    def __rmod__(self, other: Any) -> Any:
        return elementwise.mod(other, self)

    def __pow__(self, other: Any) -> Any:
        return elementwise.power(self, other)

    def __rpow__(self, other: Any) -> Any:
        return elementwise.power(other, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __lshift__(self, other: Any) -> Any:
        return bits.left_shift(self, other)

    def __rlshift__(self, other: Any) -> Any:
        return bits.left_shift(other, self)

    def __rshift__(self, other: Any) -> Any:
        return bits.right_shift(self, other)

    def __rrshift__(self, other: Any) -> Any:
        return bits.right_shift(other, self)

    def __matmul__(self, other: Any) -> Any:
        return linalg.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return linalg.matmul(other, self)

    def __neg__(self) -> Any:
        return elementwise.negative(self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return elementwise.abs_(self)

    def __invert__(self) -> Any:
        return compare.logical_not(self) if self.dtype.kind == "b" else compare.invert(self)

    def __and__(self, other: Any) -> Any:
        return compare.bitwise_and(self, other)

    def __or__(self, other: Any) -> Any:
        return compare.bitwise_or(self, other)

    def __xor__(self, other: Any) -> Any:
        return compare.bitwise_xor(self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __eq__(self, other: Any) -> Any:
        return compare.equal(self, other)

    def __ne__(self, other: Any) -> Any:
        return compare.not_equal(self, other)

    def __lt__(self, other: Any) -> Any:
        return compare.less(self, other)

    def __le__(self, other: Any) -> Any:
        return compare.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return compare.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return compare.greater_equal(self, other)

    __hash__ = object.__hash__  # by identity, although == is elementwise

    def __getitem__(self, key: Any) -> Any:
        return index.subscript(self, key)

    # -- NumPy's own functions, called with tensors or symbols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        from shoal.ops import protocols

        return protocols.call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        from shoal.ops import protocols

        return protocols.call_function(function, types, args, options)

    # -- reductions

    def sum(self, axis: Axes = None, keepdims: bool = False, *, dtype: Any = None) -> Any:
        """Sum over ``axis`` (all axes if None), computed in ``dtype``."""
        if dtype is not None:
            return reduce.sum_(self.astype(dtype), axis=axis, keepdims=keepdims).astype(dtype)
        return reduce.sum_(self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False, *, dtype: Any = None) -> Any:
        """Mean over ``axis``, computed in ``dtype``."""
        if dtype is not None:
            return reduce.mean(self.astype(dtype), axis=axis, keepdims=keepdims)
        return reduce.mean(self, axis=axis, keepdims=keepdims)

    def prod(self, axis: Axes = None, keepdims: bool = False) -> Any:
        """Product over ``axis``."""
        return reduce.prod(self, axis=axis, keepdims=keepdims)

    def max(self, axis: Axes = None, keepdims: bool = False) -> Any:
        """Largest element over ``axis``."""
        return reduce.max_(self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axes = None, keepdims: bool = False) -> Any:
        """Smallest element over ``axis``."""
        return reduce.min_(self, axis=axis, keepdims=keepdims)

    def var(self, axis: Axes = None, ddof: int = 0, keepdims: bool = False) -> Any:
        """Variance over ``axis``; the sum of squares is divided by n - ``ddof``."""
        return reduce.var(self, axis=axis, ddof=ddof, keepdims=keepdims)

    def std(self, axis: Axes = None, ddof: int = 0, keepdims: bool = False) -> Any:
        """Standard deviation over ``axis``."""
        return reduce.std(self, axis=axis, ddof=ddof, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Any:
        """Position of the largest element along ``axis`` (of the flattened array if None), int64."""
        return reduce.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Any:
        """Position of the smallest element along ``axis``, int64."""
        return reduce.argmin(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> Any:
        """Running sum along ``axis`` (of the flattened array if None)."""
        return reduce.cumsum(self, axis=axis)

    def any(self, axis: Axes = None, keepdims: bool = False) -> Any:
        """Whether an element over ``axis`` is not zero."""
        return reduce.any_(self, axis=axis, keepdims=keepdims)

    def all(self, axis: Axes = None, keepdims: bool = False) -> Any:
        """Whether no element over ``axis`` is zero."""
        return reduce.all_(self, axis=axis, keepdims=keepdims)

    # -- shape

    def reshape(self, *new: int | Shape) -> Any:
        """The same elements in another shape; one length may be -1. Takes a tuple, or the lengths one by one."""
        return shape.reshape(self, shape=_lengths(new))

    def transpose(self, *axes: int | Shape) -> Any:
        """Axes in the given order; in reverse order without arguments."""
        return shape.transpose(self, axes=_lengths(axes) if axes and axes[0] is not None else None)

    def swapaxes(self, axis1: int, axis2: int) -> Any:
        """With two axes exchanged."""
        return shape.swapaxes(self, axis1, axis2)

    def flatten(self) -> Any:
        """All elements in one axis."""
        return shape.reshape(self, shape=(-1,))

    ravel = flatten

    def squeeze(self, axis: Axes = None) -> Any:
        """Without axes of length 1: ``axis``, or all of them."""
        return shape.squeeze(self, axis=axis)

    def expand_dims(self, axis: int) -> Any:
        """With a new axis of length 1 at position ``axis``."""
        return shape.expand_dims(self, axis=axis)

    def broadcast_to(self, new: Shape) -> Any:
        """Repeated along axes of length 1 until it has the shape ``new``."""
        return shape.broadcast_to(self, shape=new)

    def repeat(self, repeats: int, axis: int | None = None) -> Any:
        """Each element ``repeats`` times in a row along ``axis``."""
        return shape.repeat(self, repeats=repeats, axis=axis)

    def split(self, sections: int | tuple[int, ...], axis: int = 0) -> Any:
        """Cut into equal sections, or at the given positions, along ``axis``: a tuple."""
        return shape.split(self, sections=sections, axis=axis)

    # -- elements

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        """Converted to ``dtype``; without ``copy``, itself if it is so already."""
        if not copy and self.dtype == dtype:
            return self
        return elementwise.astype(self, dtype=dtype)

    def copy(self) -> Any:
        """A copy in memory of its own; gradients flow through."""
        return elementwise.copy(self)

    def abs(self) -> Any:
        """Absolute values."""
        return elementwise.abs_(self)

    def exp(self) -> Any:
        """e to the power of each element."""
        return elementwise.exp(self)

    def log(self) -> Any:
        """Natural logarithms."""
        return elementwise.log(self)

    def sqrt(self) -> Any:
        """Square roots."""
        return elementwise.sqrt(self)

    def square(self) -> Any:
        """Squares."""
        return elementwise.square(self)

    def clip(self, a_min: float | None = None, a_max: float | None = None) -> Any:
        """Limited to the range from ``a_min`` to ``a_max``."""
        return elementwise.clip(self, a_min=a_min, a_max=a_max)

    def dot(self, other: Any) -> Any:
        """NumPy's dot product; see `shoal.np.dot`."""
        return linalg.dot(self, other)

    def take(self, indices: Any, axis: int | None = None) -> Any:
        """Elements, or slices along ``axis``, at the given positions."""
        if not hasattr(indices, "dtype"):
            indices = np.asarray(indices, np.int64)
        return index.take(self, indices, axis=axis)


def _lengths(args: tuple[Any, ...]) -> Shape:
    return tuple(args[0]) if len(args) == 1 and not isinstance(args[0], int) else args
