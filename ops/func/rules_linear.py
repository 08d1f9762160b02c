"""Rules of `vmap` for products."""

import string
from typing import Any

from shoal.ops.func.rules import Batch, batching, decomposed, lead, trailing
from shoal.ops.registry import OPS, Op

batching("cofactor", "eigh", "eigvalsh", "eig", "svd", "svdvals", "qr", "pinv", "least_squares", "matrix_exp")(trailing)


@batching("matmul")
def _matmul(op: Op[Any], batch: Batch, x: Any, y: Any) -> Any:
    on_x, on_y = batch.on
    nx, ny = x.ndim - on_x, y.ndim - on_y
    if on_x and not on_y and ny <= 2 and nx <= 2:  # one product for all examples
        return op(x, y)
    if on_y and not on_x and nx == 2 and ny == 1:
        return op(y, OPS["swapaxes"](x, axis1=0, axis2=1))
    x = _matrix(x, on_x, nx, -2)
    y = _matrix(y, on_y, ny, -1)
    ndim = max(nx, ny, 2)
    out = op(lead(x, ndim) if on_x else x, lead(y, ndim) if on_y else y)
    dropped = (-2,) * (nx == 1) + (-1,) * (ny == 1)
    return OPS["squeeze"](out, axis=dropped) if dropped else out


def _matrix(x: Any, on: bool, ndim: int, axis: int) -> Any:
    """A vector of each example as a row (axis -2) or a column (axis -1)."""
    return OPS["expand_dims"](x, axis=axis) if ndim == 1 else x


@batching("fully_connected")
def _fully_connected(op: Op[Any], batch: Batch, x: Any, weight: Any, bias: Any = None, flatten: bool = True) -> Any:
    if batch.on[0] and not any(batch.on[1:]):
        if flatten:
            size = 1
            for n in x.shape[2:]:
                size *= n
            x = OPS["reshape"](x, shape=(batch.size, x.shape[1], size))
        return op(x, weight, bias, flatten=False)
    return decomposed(_dense)(op, batch, x, weight, bias, flatten=flatten)


def _dense(x: Any, weight: Any, bias: Any, flatten: bool) -> Any:
    if flatten:
        x = OPS["reshape"](x, shape=(x.shape[0], weight.shape[1]))
    out = OPS["matmul"](x, OPS["swapaxes"](weight, axis1=0, axis2=1))
    return out if bias is None else out + bias


@batching("contract")
def _contract(op: Op[Any], batch: Batch, *values: Any, subscripts: str) -> Any:
    left, _, right = subscripts.partition("->")
    letter = next(c for c in string.ascii_letters if c not in subscripts)
    terms = [letter * flag + term for term, flag in zip(left.split(","), batch.on, strict=True)]
    return op(*values, subscripts=f"{','.join(terms)}->{letter}{right}")


@batching("fftn")
def _fftn(op: Op[Any], batch: Batch, x: Any, axes: tuple[int, ...], **attrs: Any) -> Any:
    return op(x, axes=tuple(a + 1 if a >= 0 else a for a in axes), **attrs)
