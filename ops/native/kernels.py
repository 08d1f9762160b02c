"""All kernels of this package; importing it registers them. Nothing is compiled before the first call."""

from shoal.ops.native import activation, dense, gemm, norm, recurrent, rows, sparse, sums
from shoal.ops.native.table import bound, dispatched, plain

__all__ = ["activation", "bound", "dense", "dispatched", "gemm", "norm", "plain", "recurrent", "rows", "sparse", "sums"]
