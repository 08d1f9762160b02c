"""Methods that NumPy's arrays have besides those of `shoal.ops.methods`: each is the function of its name."""

from typing import Any

__all__ = ["NumpyMethods"]

Axis = int | None


class NumpyMethods:
    """Methods of `Tensor` and `Symbol`. What has another shape for other values is no part of a graph."""

    __slots__ = ()

    @property
    def real(self) -> Any:
        """The real part."""
        return _functions().real(self)

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return _functions().imag(self)

    def conj(self) -> Any:
        """The complex conjugate."""
        return _functions().conj(self)

    conjugate = conj

    def round(self, decimals: int = 0) -> Any:
        """To that many decimals; halves go to the even neighbour."""
        return _functions().round(self, decimals)

    def ptp(self, axis: Any = None, keepdims: bool = False) -> Any:
        """Largest minus smallest element over ``axis``."""
        return _functions().ptp(self, axis, keepdims=keepdims)

    def cumprod(self, axis: Axis = None) -> Any:
        """Running product along ``axis`` (of the flattened array if None)."""
        return _functions().cumprod(self, axis=axis)

    def argsort(self, axis: Axis = -1) -> Any:
        """The positions that sort along ``axis``; equal elements keep their order."""
        return _functions().argsort(self, axis)

    def argpartition(self, kth: Any, axis: Axis = -1) -> Any:
        """Positions along ``axis`` that put the ``kth`` smallest element in its place, smaller ones before it."""
        return _functions().argpartition(self, kth, axis)

    def searchsorted(self, v: Any, side: str = "left", sorter: Any = None) -> Any:
        """Where the values ``v`` would have to go so that this vector stays sorted."""
        return _functions().searchsorted(self, v, side, sorter)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
        """The diagonal of two axes, as a new last axis."""
        return _functions().diagonal(self, offset=offset, axis1=axis1, axis2=axis2)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
        """Sum of the diagonal of two axes."""
        return _functions().trace(self, offset, axis1, axis2)

    def nonzero(self) -> tuple[Any, ...]:
        """The positions of elements that are not zero: one int64 tensor per axis."""
        return tuple(_functions().nonzero(self))

    def compress(self, condition: Any, axis: Axis = None) -> Any:
        """The slices along ``axis`` (elements of the flattened array if None) for which the condition holds."""
        return _functions().compress(condition, self, axis)

    def choose(self, choices: Any, mode: str = "raise") -> Any:
        """From each position, the element of that one of the ``choices`` whose number stands here."""
        return _functions().choose(self, choices, mode)

    # -- in place; with gradients, as assignment has them

    def fill(self: Any, value: Any) -> None:
        """Write ``value`` everywhere."""
        self[...] = value

    def put(self, indices: Any, values: Any) -> None:
        """Write ``values``, again and again from the start, to positions in the flattened array."""
        _functions().put(self, indices, values)

    def sort(self: Any, axis: int = -1) -> None:
        """Put into ascending order along ``axis``, in place; `shoal.np.sort` gives a new array."""
        self[...] = _functions().sort(self, axis)

    def partition(self: Any, kth: Any, axis: int = -1) -> None:
        """Put the ``kth`` smallest element along ``axis`` in its place, smaller ones before it; in place."""
        self[...] = _functions().partition(self, kth, axis)


def _functions() -> Any:
    """The functions of `shoal.np`, which are made of operators, and know tensors."""
    from shoal import np

    return np
