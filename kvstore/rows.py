"""Some rows of an array: how gradients of embeddings are pushed, and their values pulled (MXNet's row_sparse)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops.rows import RowSparse, check_ids, wider

__all__ = ["RowSparse", "check_ids", "each_out", "into_rows", "merge_rows", "reduce_rows", "wanted_rows", "wider"]


def reduce_rows(parts: Sequence[RowSparse], reduce: str) -> RowSparse:
    """Sum or mean of `merged` parts, added in the order given; a row that a part lacks counts as 0.

    The ids are those of all parts. The rows have the parts' dtype, or float32 for half precision.
    """
    ids = parts[0].ids if len(parts) == 1 else np.unique(np.concatenate([p.ids for p in parts]))
    total = np.zeros((ids.size, *parts[0].shape[1:]), wider(parts[0].dtype))
    for part in parts:
        total[np.searchsorted(ids, part.ids)] += part.rows
    if reduce == "mean" and len(parts) > 1:
        np.divide(total, len(parts), out=total)
    return RowSparse(ids, total, parts[0].shape)


def merge_rows(value: Any) -> RowSparse | None:
    """The row-sparse array that a pushed value is: one, or the sum of a list of them; None if it is none."""
    if isinstance(value, RowSparse):
        return value
    if not isinstance(value, list | tuple) or not any(isinstance(v, RowSparse) for v in value):
        return None
    shapes = [v.shape if isinstance(v, RowSparse) else type(v).__name__ for v in value]
    if any(s != shapes[0] for s in shapes):
        raise ShapeError(f"the row-sparse values of one key have one shape; got {', '.join(map(str, shapes))}")
    return RowSparse(np.concatenate([v.ids for v in value]), np.concatenate([v.rows for v in value]), value[0].shape)


def wanted_rows(key: str, row_ids: Any, shape: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Rows to be pulled: each once, ascending.

    Raises:
        ConfigError: there is none.
        ShapeError, DTypeError: as `check_ids`.
    """
    if row_ids is None:
        raise ConfigError(f"row_sparse_pull of {key!r} needs row_ids, such as row_ids=[0, 5, 7]")
    try:
        return np.unique(check_ids(row_ids, shape))
    except (ShapeError, DTypeError) as e:
        raise type(e)(f"row_sparse_pull of {key!r}: {e}") from None


def each_out(key: str, out: Any, row_ids: Any) -> list[tuple[Any, Any]]:
    """The places of one key's rows, which may be several, with the rows that each is to get.

    Raises:
        ConfigError: there is another number of lists of rows than of places.
    """
    if not isinstance(out, list | tuple):
        return [(out, row_ids)]
    apart = isinstance(row_ids, list | tuple) and any(np.ndim(i) for i in row_ids)
    if apart and len(row_ids) != len(out):
        raise ConfigError(
            f"row_sparse_pull of {key!r}: {len(out)} outs and {len(row_ids)} row_ids; give one for each out, or "
            "one for all"
        )
    return list(zip(out, row_ids if apart else [row_ids] * len(out), strict=True))


def into_rows(key: str, found: RowSparse, out: Any) -> Any:
    """``found`` itself, or ``out`` with these rows written."""
    if out is None:
        return found
    array = out if isinstance(out, np.ndarray) else getattr(out, "data", out)
    if not isinstance(array, np.ndarray) or array.shape != found.shape or array.dtype != found.dtype:
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(out).__name__
        raise ShapeError(
            f"row_sparse_pull of {key!r}: out must be an array of the whole key, {found.dtype} {found.shape}; "
            f"got {what}"
        )
    if not array.flags.writeable:
        raise ConfigError(f"row_sparse_pull of {key!r}: out is read-only")
    array[found.ids] = found.rows
    return out
