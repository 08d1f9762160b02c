"""Rows of tables, and sums of them."""

from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, GraphError, ShapeError
from shoal.ops import index
from shoal.ops.elementwise import astype, stop_gradient, where
from shoal.ops.elementwise import maximum as at_least
from shoal.ops.reduce import max_, sum_
from shoal.ops.row_sparse import sparse_take
from shoal.ops.shape import expand_dims, reshape
from shoal.ops.tensor import Tensor

__all__ = ["embedding", "embedding_bag", "renormalize"]


def embedding(
    data: Any,
    weight: Any,
    input_dim: int | None = None,
    output_dim: int | None = None,
    padding_idx: int | None = None,
    sparse_grad: bool = False,
) -> Any:
    """The rows of ``weight`` at the positions ``data`` (integers): (*data.shape, output_dim).

    Args:
        input_dim, output_dim: what the weight's shape says already; checked if given.
        padding_idx: this row gets no gradient.
        sparse_grad: the gradient of a variable ``weight`` has the rows that occur, and no others.
    Raises:
        IndexError: a position is not a row.
    """
    if (input_dim, output_dim) != (None, None) and tuple(weight.shape) != (
        input_dim or weight.shape[0],
        output_dim or weight.shape[1],
    ):
        raise ShapeError(f"embedding: weight has shape {tuple(weight.shape)}, not ({input_dim}, {output_dim})")
    if getattr(data, "dtype", None) is not None and data.dtype.kind == "f":
        data = astype(data, dtype="int64")
    rows = sparse_take(weight, data) if sparse_grad else index.take(weight, data, axis=0)
    if padding_idx is None:
        return rows
    return where(expand_dims(_is(data, padding_idx, weight.shape[0]), -1), stop_gradient(rows), rows)


def _is(data: Any, padding_idx: int, rows: int) -> Any:
    if not -rows <= padding_idx < rows:
        raise ConfigError(f"embedding: padding_idx={padding_idx} is not one of {rows} rows")
    return (data == padding_idx % rows) | (data == padding_idx % rows - rows)


def renormalize(weight: Any, data: Any, max_norm: float, norm_type: float = 2.0) -> None:
    """Shorten, in place, the rows of ``weight`` that ``data`` names and that are longer than ``max_norm``.

    Raises:
        GraphError: the table is a symbol: what is written in place while a model is traced happens once.
    """
    if not isinstance(weight, Tensor):
        raise GraphError("embedding: max_norm writes to the table in place, which a graph cannot; do not hybridize")
    table = weight.data
    places = np.unique(np.asarray(data.data if isinstance(data, Tensor) else data))
    rows = table[places]
    lengths = np.linalg.norm(rows.astype(np.float64), norm_type, axis=1, keepdims=True)
    table[places] = np.where(lengths > max_norm, rows * (max_norm / (lengths + 1e-7)), rows).astype(table.dtype)


def embedding_bag(
    data: Any,
    weight: Any,
    offsets: Any = None,
    mode: str = "mean",
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Rows of ``weight``, reduced bag by bag: (bags, output_dim). A bag without rows gives zeros.

    Args:
        data: (bags, rows of a bag), integers; or (rows,) with ``offsets``.
        offsets: (bags,), ascending: where in data each bag begins.
        mode: "sum", "mean" or "max".
        per_sample_weights: the shape of data; rows are multiplied with them; for "sum" only.
        include_last_offset: ``offsets`` has one element more, the end of the last bag.
        padding_idx: this row counts nowhere and gets no gradient.
    Raises:
        ConfigError: there is no such mode, or it takes no weights.
        ShapeError: data and offsets do not fit.
    """
    if mode not in ("sum", "mean", "max") or (per_sample_weights is not None and mode != "sum"):
        raise ConfigError(
            f"embedding_bag: mode={mode!r}; 'sum', 'mean' and 'max', and per_sample_weights with 'sum' only"
        )
    if data.dtype.kind not in "iu":
        raise DTypeError(f"embedding_bag: data must hold integers, got {data.dtype}; use astype('int64')")
    if len(data.shape) != (2 if offsets is None else 1):
        raise ShapeError(
            f"embedding_bag: data of shape {tuple(data.shape)}; expected (bags, rows), or (rows,) with offsets"
        )
    rows = embedding(data, weight, padding_idx=padding_idx)
    kept = None if padding_idx is None else ~_is(data, padding_idx, weight.shape[0])
    if offsets is None:
        inside, owner, bags = kept, None, data.shape[0]
    else:
        bags = offsets.shape[0] - bool(include_last_offset)
        places = np.arange(data.shape[0])[:, None]
        owner = sum_((expand_dims(offsets[:bags], 0) <= places).astype(np.int64), axis=1) - 1
        inside = kept
    if per_sample_weights is not None:
        rows = rows * expand_dims(per_sample_weights, -1)
    if mode == "max":
        return _largest(rows, inside, owner, bags)
    if inside is not None:
        rows = rows * expand_dims(inside, -1).astype(rows.dtype)
    total = sum_(rows, axis=1) if owner is None else index.take_add(rows, owner, axis=0, shape=(bags, weight.shape[1]))
    if mode == "sum":
        return total
    return total / at_least(_counts(data, inside, owner, bags), 1.0).astype(rows.dtype)


def _counts(data: Any, inside: Any, owner: Any, bags: int) -> Any:
    """How many rows each bag has: (bags, 1)."""
    ones = (data == data).astype(np.float32) if inside is None else inside.astype(np.float32)
    if owner is None:
        return sum_(ones, axis=1, keepdims=True)
    return reshape(index.take_add(ones, owner, axis=0, shape=(bags,)), shape=(bags, 1))


def _largest(rows: Any, inside: Any, owner: Any, bags: int) -> Any:
    """The largest of each bag, element by element; zeros for a bag without rows."""
    if owner is None:
        chosen = inside
    else:
        rows = expand_dims(rows, 0)
        chosen = expand_dims(owner, 0) == np.arange(bags)[:, None]
        chosen = chosen if inside is None else chosen & expand_dims(inside, 0)
    if chosen is None:
        return max_(rows, axis=1)
    mask = expand_dims(chosen, -1)
    some = chosen.any(axis=1, keepdims=True)
    return where(some, max_(where(mask, rows, float("-inf")), axis=1), 0.0)
