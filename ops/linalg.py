"""Linear algebra: products of all kinds, and factorizations of square matrices.

Batches are leading axes, which broadcast.
"""

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import elementwise, reduce, shape, specs
from shoal.ops.contraction import contracted
from shoal.ops.registry import Array, Op, Shape, Spec, op


def _product(op: Op[Any], x: Any, y: Any) -> Spec:
    if not isinstance(x, Spec) or not isinstance(y, Spec) or not x.ndim or not y.ndim:
        raise ShapeError(f"{op.name}: both sides must have axes, got {_shape(x)} and {_shape(y)}; use multiply")
    a = x.shape if x.ndim > 1 else (1, *x.shape)
    b = y.shape if y.ndim > 1 else (*y.shape, 1)
    try:
        batch = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        batch = None
    if batch is None or a[-1] != b[-2]:
        raise ShapeError(
            f"{op.name}: shapes {x.shape} and {y.shape} do not fit: the last axis of the first ({a[-1]}) must be "
            f"as long as the {'last but one' if y.ndim > 1 else 'only'} axis of the second ({b[-2]}), and batches "
            "must broadcast"
        )
    rows = a[-2:-1] if x.ndim > 1 else ()
    columns = b[-1:] if y.ndim > 1 else ()
    return Spec(batch + rows + columns, np.result_type(x.dtype, y.dtype))


def _shape(x: Any) -> str:
    return str(x.shape) if isinstance(x, Spec) else f"the number {x!r}"


@op(_product)
def matmul(xp: Any, x: Array, y: Array) -> Any:
    """The matrix product x @ y over the last two axes; a 1-d side is a row (left) or a column (right)."""
    return xp.gemm(x, y)


@matmul.vjp
def _matmul_vjp(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
    if x.ndim == 1 and y.ndim == 1:
        return lambda: g * y, lambda: g * x
    if x.ndim == 1:
        gx = lambda: xp.squeeze(xp.matmul(y, xp.expand_dims(g, -1)), -1)  # noqa: E731
        return gx, lambda: xp.expand_dims(x, -1) * xp.expand_dims(g, -2)
    if y.ndim == 1:
        gy = lambda: xp.squeeze(xp.matmul(_t(xp, x), xp.expand_dims(g, -1)), -1)  # noqa: E731
        return lambda: xp.expand_dims(g, -1) * y, gy
    if y.ndim == 2 and x.ndim > 2:  # one large product instead of a sum of small ones
        gy = lambda: xp.matmul(_t(xp, _rows(xp, x)), _rows(xp, g))  # noqa: E731
        return lambda: xp.matmul(g, _t(xp, y)), gy
    if x.ndim > 2 and x.shape[-2] == 1:  # a batch of outer products, for which BLAS would be called one by one
        return lambda: xp.matmul(g, _t(xp, y)), lambda: _t(xp, x) * g
    return lambda: xp.matmul(g, _t(xp, y)), lambda: xp.matmul(_t(xp, x), g)


def _rows(xp: Any, x: Any) -> Any:
    return xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _t(xp: Any, x: Any) -> Any:
    return xp.swapaxes(x, -1, -2)


def _connected(op: Op[Any], x: Spec, weight: Spec, bias: Any = None, flatten: bool = True) -> Spec:
    specs.require_ndim(op, "weight", weight, 2)
    if not x.ndim:
        raise ShapeError("fully_connected: x must have a batch axis, got shape ()")
    width = math.prod(x.shape[1:]) if flatten else x.shape[-1]
    units = weight.shape[0]
    if width != weight.shape[1]:
        raise ShapeError(
            f"fully_connected: x of shape {x.shape} has {width} features, but weight of shape {weight.shape} expects "
            f"{weight.shape[1]}: (units, features)"
        )
    if bias is not None and bias.shape != (units,):
        raise ShapeError(
            f"fully_connected: bias has shape {bias.shape}, expected ({units},) as weight has {units} units"
        )
    lead = x.shape[:1] if flatten else x.shape[:-1]
    return Spec((*lead, units), np.result_type(*(s.dtype for s in (x, weight, bias) if s is not None)))


@op(_connected)
def fully_connected(xp: Any, x: Array, weight: Array, bias: Array = None, flatten: bool = True) -> Any:
    """x @ weight.T + bias: a dense layer.

    Args:
        x: (batch, ...).
        weight: (units, features).
        bias: (units,), or None.
        flatten: all axes of x but the first are features; else the last one only.
    Returns:
        (batch, units), or (..., units) without ``flatten``.
    """
    x2 = x.reshape(x.shape[0] if flatten else math.prod(x.shape[:-1]), weight.shape[1]) if x.ndim != 2 else x
    out = xp.gemm(x2, weight.T)
    if x.ndim != 2 and not flatten:
        out = out.reshape(*x.shape[:-1], weight.shape[0])
    if bias is None:
        return out
    if out.dtype != bias.dtype:
        return out + bias
    out += bias
    return out


@fully_connected.vjp
def _fully_connected_vjp(xp: Any, g: Any, out: Any, x: Any, weight: Any, bias: Any = None, flatten: bool = True) -> Any:
    g2 = g if g.ndim == 2 else _rows(xp, g)
    x2 = x if x.ndim == 2 else xp.reshape(x, (g2.shape[0], weight.shape[1]))
    gx = lambda: xp.reshape(xp.matmul(g2, weight), x.shape)  # noqa: E731
    return gx, lambda: xp.matmul(_t(xp, g2), x2), lambda: xp.sum_to(g2, bias.shape)


# -- products in terms of these


def dot(x: Any, y: Any) -> Any:
    """NumPy's dot: numbers multiply; else the last axis of x meets the last but one (or only) axis of y."""
    nx, ny = getattr(x, "ndim", 0), getattr(y, "ndim", 0)
    if not nx or not ny:
        return elementwise.multiply(x, y)
    return matmul(x, y) if (nx <= 2 and ny <= 2) or ny == 1 else tensordot(x, y, ([nx - 1], [max(ny - 2, 0)]))


def tensordot(x: Any, y: Any, axes: Any = 2) -> Any:
    """Sum of products over several axes.

    Args:
        axes: how many: the last of x with the first of y; or (axes of x, axes of y).
    Raises:
        ShapeError: the axes to be summed have different lengths.
    """
    if isinstance(axes, int):
        left, right = list(range(x.ndim - axes, x.ndim)), list(range(axes))
    else:
        left, right = ([a] if isinstance(a, int) else list(a) for a in axes)
    left, right = [a % x.ndim for a in left], [a % y.ndim for a in right]
    if [x.shape[a] for a in left] != [y.shape[a] for a in right]:
        raise ShapeError(f"tensordot: axes {left} of shape {x.shape} and {right} of shape {y.shape} differ in length")
    keep_x = [a for a in range(x.ndim) if a not in left]
    keep_y = [a for a in range(y.ndim) if a not in right]
    inner = math.prod(x.shape[a] for a in left)
    shape_x, shape_y = [x.shape[a] for a in keep_x], [y.shape[a] for a in keep_y]
    a = shape.reshape(shape.transpose(x, axes=(*keep_x, *left)), shape=(math.prod(shape_x), inner))
    b = shape.reshape(shape.transpose(y, axes=(*right, *keep_y)), shape=(inner, math.prod(shape_y)))
    return shape.reshape(matmul(a, b), shape=(*shape_x, *shape_y))


def outer(x: Any, y: Any) -> Any:
    """x[i] * y[j] for all i, j; the inputs are flattened."""
    return elementwise.multiply(shape.reshape(x, shape=(-1, 1)), shape.reshape(y, shape=(1, -1)))


def inner(x: Any, y: Any) -> Any:
    """Sum of products over the last axes."""
    if not getattr(x, "ndim", 0) or not getattr(y, "ndim", 0):
        return elementwise.multiply(x, y)
    return tensordot(x, y, ([x.ndim - 1], [y.ndim - 1]))


def vdot(x: Any, y: Any) -> Any:
    """Sum of products of the flattened inputs."""
    return matmul(shape.reshape(x, shape=(-1,)), shape.reshape(y, shape=(-1,)))


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Sum of a diagonal."""
    return reduce.sum_(diagonal(x, offset=offset, axis1=axis1, axis2=axis2), axis=-1)


# -- einsum


def einsum(subscripts: Any, *arrays: Any, optimize: Any = True) -> Any:
    """Einstein's sum over named axes, such as "bij,bjk->bik".

    Args:
        subscripts: as NumPy's; an ellipsis stands for any number of axes; without "->" the output has the letters that
            occur once, in alphabetical order. A letter that an operand has twice means its diagonal.
        arrays: the operands. Or everything in NumPy's other form: array, [0, 1], array, [1, 2], ..., [0, 2].
        optimize: taken for NumPy's sake; operands are contracted in the best order that is found, two at a time.
    Raises:
        ShapeError: the subscripts do not fit the arrays.
    """
    if not isinstance(subscripts, str):
        subscripts, arrays = _lettered([subscripts, *arrays])
    left, _, right = _explicit(subscripts, [a.ndim for a in arrays]).partition("->")
    simple = [_diagonals(term, x) for term, x in zip(left.split(","), arrays, strict=True)]
    text = ",".join(term for term, _ in simple) + "->" + right
    return contract(*(x for _, x in simple), subscripts=text)


def _lettered(parts: list[Any]) -> tuple[str, tuple[Any, ...]]:
    """NumPy's form with lists of axis numbers, as text and operands."""
    arrays, lists = parts[: len(parts) // 2 * 2 : 2], parts[1::2]
    output = parts[-1:] if len(parts) % 2 else []

    def term(axes: Sequence[Any]) -> str:
        return "".join("..." if a is Ellipsis else string.ascii_letters[a] for a in axes)

    text = ",".join(map(term, lists)) + "".join("->" + term(axes) for axes in output)
    return text, tuple(arrays)


def _diagonals(term: str, x: Any) -> tuple[str, Any]:
    """With the diagonal in the place of axes that have the same letter."""
    while len(set(term)) < len(term):
        letter = next(c for c in term if term.count(c) > 1)
        first, second = (i for i, c in enumerate(term) if c == letter and term[:i].count(letter) < 2)
        if x.shape[first] != x.shape[second]:
            raise ShapeError(f"einsum: {term!r} names axes of different length alike, of shape {tuple(x.shape)}")
        x = diagonal(x, axis1=first, axis2=second)
        term = "".join(c for i, c in enumerate(term) if i not in (first, second)) + letter
    return term, x


def _explicit(subscripts: str, ndims: Sequence[int]) -> str:
    """With letters in the place of an ellipsis, and with an output."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ShapeError(f"einsum: {subscripts!r} has {len(terms)} operands, got {len(ndims)}")
    free = [c for c in string.ascii_letters if c not in text]
    longest = 0
    for i, (term, ndim) in enumerate(zip(terms, ndims, strict=True)):
        if "..." in term:
            extra = ndim - (len(term) - 3)
            if extra < 0:
                raise ShapeError(f"einsum: {term!r} of {subscripts!r} names more axes than the {ndim} there are")
            longest = max(longest, extra)
            terms[i] = term.replace("...", "".join(free[:extra][::-1]))  # aligned at the last axis
    dots = "".join(free[:longest][::-1])
    if arrow:
        right = right.replace("...", dots)
    else:
        letters = "".join(terms)
        right = dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in dots))
    return ",".join(terms) + "->" + right


def _contracted(op: Op[Any], *xs: Spec, subscripts: str) -> Spec:
    left, _, right = subscripts.partition("->")
    lengths: dict[str, int] = {}
    for term, x in zip(left.split(","), xs, strict=True):
        if len(term) != x.ndim or len(set(term)) != len(term):
            raise ShapeError(f"einsum: {term!r} of {subscripts!r} must name each axis of shape {x.shape} once")
        for letter, n in zip(term, x.shape, strict=True):
            if lengths.setdefault(letter, n) != n and 1 not in (n, lengths[letter]):
                raise ShapeError(f"einsum: axis {letter!r} of {subscripts!r} has length {lengths[letter]} and {n}")
            lengths[letter] = max(lengths[letter], n) if n else 0
    if any(c not in lengths for c in right):
        raise ShapeError(f"einsum: the output of {subscripts!r} has a letter that no operand has")
    return Spec(tuple(lengths[c] for c in right), np.result_type(*(x.dtype for x in xs)))


@op(_contracted, view=True)  # einsum gives views of a single operand
def contract(xp: Any, *arrays: Array, subscripts: str) -> Any:
    """`einsum` with explicit output and without ellipsis."""
    out = contracted(xp, subscripts, arrays)
    if len(arrays) == 1:
        out = out.copy()  # it would be a view, and only sometimes
    return out.astype(np.result_type(*(x.dtype for x in arrays)), copy=False)


@contract.vjp
def _contract_vjp(xp: Any, g: Any, out: Any, *arrays: Any, subscripts: str) -> Any:
    left, _, right = subscripts.partition("->")
    terms = left.split(",")

    def wrt(i: int) -> Any:
        others = [t for j, t in enumerate(terms) if j != i]
        known = set(right).union(*others)
        found = "".join(c for c in terms[i] if c in known)
        text = ",".join([right, *others]) + "->" + found
        part = xp.contract(g, *(a for j, a in enumerate(arrays) if j != i), subscripts=text)
        lengths = dict(zip(found, part.shape, strict=True)) | {
            c: n for c, n in zip(terms[i], arrays[i].shape, strict=True) if c not in known
        }
        kept = tuple(lengths[c] if c in known else 1 for c in terms[i])
        return xp.broadcast_to(xp.reshape(part, kept), tuple(lengths[c] for c in terms[i]))

    return tuple((lambda i=i: wrt(i)) for i in range(len(arrays)))


# -- diagonals


def _diagonal_spec(op: Op[Any], x: Spec, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Spec:
    a, b = specs.axes_of(op, (axis1, axis2), x.ndim)
    n = max(0, min(x.shape[a] + min(offset, 0), x.shape[b] - max(offset, 0)))
    return Spec((*(m for i, m in enumerate(x.shape) if i not in (a, b)), n), x.dtype)


@op(_diagonal_spec, view=True)
def diagonal(xp: Any, x: Array, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The diagonal of two axes, as a new last axis. A view that cannot be written to."""
    return xp.diagonal(x, offset, axis1, axis2)


@diagonal.vjp
def _diagonal_vjp(xp: Any, g: Any, out: Any, x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return (xp.diagonal_add(g, tuple(x.shape), offset, axis1, axis2),)


def _diagonal_add_spec(op: Op[Any], g: Spec, *, shape: Shape, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Spec:
    return Spec(tuple(shape), g.dtype)


@op(_diagonal_add_spec)
def diagonal_add(xp: Any, g: Array, shape: Shape, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """Zeros of ``shape`` with g on a diagonal: the gradient of `diagonal`."""
    out = xp.zeros(shape, g.dtype)
    moved = xp.moveaxis(out, (axis1, axis2), (-2, -1))
    i = xp.arange(g.shape[-1])
    moved[..., i + max(-offset, 0), i + max(offset, 0)] = g
    return out


@diagonal_add.vjp
def _diagonal_add_vjp(
    xp: Any, g: Any, out: Any, x: Any, shape: Shape, offset: int = 0, axis1: int = 0, axis2: int = 1
) -> Any:
    return (xp.diagonal(g, offset, axis1, axis2),)
