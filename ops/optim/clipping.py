"""Gradients of a whole model, clipped together."""

import math
from collections.abc import Iterable
from typing import Any

from shoal.errors import ConfigError
from shoal.ops.backend import namespace
from shoal.ops.rows import RowSparse

__all__ = ["clip_global_norm"]


def clip_global_norm(arrays: Iterable[Any], max_norm: float, check_isfinite: bool = True) -> float:
    """Scale arrays, in place and by the same factor, so that their norm is at most ``max_norm``. Gluon's.

    Between ``backward`` and ``trainer.step(batch_size)``, which divides them: to bound the mean gradient by ``b``, give
    ``b * batch_size``. Each worker of a cluster clips its own. What has left in a `Trainer.overlap` cannot be.

    Args:
        arrays: tensors such as gradients, also row-sparse ones: ``[p.grad() for p in net.collect_params().values()]``.
        max_norm: bound of the Euclidean norm of all of them together, greater than 0.
        check_isfinite: refuse a norm that is not finite; else the arrays are left as they are.
    Returns:
        The norm before.
    Raises:
        ConfigError: ``max_norm`` is no bound, or there are no arrays.
        FloatingPointError: the norm is not finite; nothing has been scaled.
    """
    found = [a.rows if isinstance(a, RowSparse) else a.data for a in arrays]
    if not found:
        raise ConfigError("clip_global_norm expects arrays, such as [p.grad() for p in net.collect_params().values()]")
    if not max_norm > 0:
        raise ConfigError(f"clip_global_norm: max_norm is {max_norm!r}, expected a number greater than 0")
    norm = math.sqrt(sum(_squares(a) for a in found))
    if check_isfinite and not math.isfinite(norm):
        raise FloatingPointError(f"clip_global_norm: the norm of the {len(found)} arrays is {norm}")
    if math.isfinite(norm) and norm > max_norm:
        for a in found:
            a *= max_norm / norm
    return norm


def _squares(array: Any) -> float:
    xp: Any = namespace(array)
    flat = array.reshape(-1).astype("float64" if array.dtype.itemsize > 4 else "float32", copy=False)
    return float(xp.dot(flat, flat)) if flat.size else 0.0
