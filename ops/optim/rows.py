"""Updates by rows: a row-sparse gradient moves its own rows, and neither value nor state of any other."""

from typing import Any

from shoal.ops.optim.optimizer import Optimizer, State
from shoal.ops.rows import RowSparse

__all__ = ["step_rows"]


def step_rows(optimizer: Optimizer, param: Any, grad: RowSparse, state: State, t: int, **factors: Any) -> None:
    """`Optimizer.step` with a row-sparse gradient (MXNet's ``lazy_update``, PyTorch's ``SparseAdam``).

    An optimizer with ``lazy_update=False``, or one that needs a norm of the whole parameter, gets the whole gradient.

    Args:
        param: updated in place.
        grad: of the shape of ``param``.
        state: what `Optimizer.init` gave, updated in place.
        t: number of this update, from 1.
        factors: keywords of `Optimizer.step`.
    """
    if optimizer.whole or not optimizer.lazy_update:
        optimizer.step(param, grad.dense(), state, t, **factors)
        return
    merged = grad.merged()
    if not merged.ids.size:
        return
    rows = param[merged.ids]
    kept = {name: array[merged.ids] for name, array in state.items()}
    optimizer.step(rows, merged.rows, kept, t, **factors)
    param[merged.ids] = rows
    for name, array in state.items():
        array[merged.ids] = kept[name]
