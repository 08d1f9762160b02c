"""All kernels of this package; importing it registers them. Nothing is compiled before the first call."""

from shoal.ops.native import activation, dense, norm, recurrent, rows, sparse, sums
from shoal.ops.native.table import bound, dispatched, plain

__all__ = ["activation", "bound", "dense", "dispatched", "norm", "plain", "recurrent", "rows", "sparse", "sums"]
