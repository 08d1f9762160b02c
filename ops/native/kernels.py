"""All kernels of this package; importing it registers them. Nothing is compiled before the first call."""

from shoal.ops.native import dense, recurrent, rows, sums
from shoal.ops.native.table import bound, dispatched, plain

__all__ = ["bound", "dense", "dispatched", "plain", "recurrent", "rows", "sums"]
