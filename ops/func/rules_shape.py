"""Rules of `vmap` for operators that move elements, and for those along one axis."""

from collections.abc import Sequence
from typing import Any

from shoal.ops.func.rules import Batch, aligned, along, batching, flat, flattened, later, lead, loop, reduced, trailing
from shoal.ops.registry import OPS, Op

for _name in ("softmax", "log_softmax", "sort", "argsort", "topk", "standardize", "take_along_axis"):
    batching(_name)(along)
batching("cumsum", "cumprod", "repeat")(flattened)
batching("argmax", "argmin")(reduced)
batching("frexp", "modf")(aligned)
batching("searchsorted")(loop)
batching("barrier", "tril", "triu", "one_hot", "inv", "det", "slogdet", "cholesky", "solve")(trailing)
batching("dropout_mask", "random_uniform", "random_normal")(loop)  # each example draws by a key of its own


def _shape(shape: Any) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


@batching("reshape")
def _reshape(op: Op[Any], batch: Batch, x: Any, shape: Any) -> Any:
    size = 1
    for n in x.shape[1:]:
        size *= n
    known = [n for n in _shape(shape) if n != -1]
    product = 1
    for n in known:
        product *= n
    full = tuple(size // product if n == -1 and product else n for n in _shape(shape))  # the batch may be empty
    return op(x, shape=(batch.size, *full))


@batching("transpose")
def _transpose(op: Op[Any], batch: Batch, x: Any, axes: Sequence[int] | None = None) -> Any:
    ndim = x.ndim - 1
    order = tuple(reversed(range(ndim))) if axes is None else tuple(a % ndim for a in axes)
    return op(x, axes=(0, *(a + 1 for a in order)))


@batching("swapaxes")
def _swapaxes(op: Op[Any], batch: Batch, x: Any, axis1: int, axis2: int) -> Any:
    return op(x, axis1=later(axis1), axis2=later(axis2))


@batching("moveaxis")
def _moveaxis(op: Op[Any], batch: Batch, x: Any, source: Any, destination: Any) -> Any:
    return op(x, source=later(source), destination=later(destination))


@batching("fftn")
def _fftn(op: Op[Any], batch: Batch, x: Any, axes: Any, **attrs: Any) -> Any:
    return op(x, axes=later(tuple(axes)), **attrs)


@batching("squeeze")
def _squeeze(op: Op[Any], batch: Batch, x: Any, axis: Any = None) -> Any:
    axes = tuple(i for i, n in enumerate(x.shape) if i and n == 1) if axis is None else later(axis)
    return op(x, axis=axes) if axes != () else x


@batching("expand_dims")
def _expand_dims(op: Op[Any], batch: Batch, x: Any, axis: Any) -> Any:
    return op(x, axis=later(axis))


@batching("broadcast_to")
def _broadcast_to(op: Op[Any], batch: Batch, x: Any, shape: Any) -> Any:
    return op(lead(x, len(_shape(shape))), shape=(batch.size, *_shape(shape)))


@batching("sum_to")
def _sum_to(op: Op[Any], batch: Batch, x: Any, shape: Any) -> Any:
    own, ndim = tuple(x.shape[1:]), len(shape)
    extra = len(own) - ndim
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 != own[i + extra]))
    full = (batch.size, *shape)
    return OPS["reshape"](OPS["sum"](x, axis=later(axes)) if axes else x, shape=full)


@batching("concatenate", "stack")
def _joined(op: Op[Any], batch: Batch, *values: Any, axis: int = 0) -> Any:
    return op(*batch.all(values), axis=later(axis))


@batching("split")
def _split(op: Op[Any], batch: Batch, x: Any, sections: Any, axis: int = 0) -> Any:
    return op(x, sections=sections, axis=later(axis))


@batching("tile")
def _tile(op: Op[Any], batch: Batch, x: Any, reps: Any) -> Any:
    counts = _shape(reps)
    counts = (1,) * (x.ndim - 1 - len(counts)) + counts
    return op(lead(x, len(counts)), reps=(1, *counts))


@batching("flip")
def _flip(op: Op[Any], batch: Batch, x: Any, axis: Any = None) -> Any:
    axes = tuple(range(1, x.ndim)) if axis is None else later(axis)
    return op(x, axis=axes) if axes != () else x


@batching("roll")
def _roll(op: Op[Any], batch: Batch, x: Any, shift: Any, axis: Any = None) -> Any:
    if axis is None:
        return OPS["reshape"](op(flat(x), shift=shift, axis=1), shape=tuple(x.shape))
    return op(x, shift=shift, axis=later(axis))


@batching("pad")
def _pad(op: Op[Any], batch: Batch, x: Any, pad_width: Any, **attrs: Any) -> Any:
    return op(x, pad_width=((0, 0), *pad_width), **attrs)


@batching("diagonal")
def _diagonal(op: Op[Any], batch: Batch, x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return op(x, offset=offset, axis1=later(axis1), axis2=later(axis2))


@batching("diagonal_add")
def _diagonal_add(
    op: Op[Any], batch: Batch, g: Any, shape: Any, offset: int = 0, axis1: int = 0, axis2: int = 1
) -> Any:
    return op(g, shape=(batch.size, *shape), offset=offset, axis1=later(axis1), axis2=later(axis2))
