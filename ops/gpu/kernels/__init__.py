"""Kernels of operators for GPUs, one file a family; `shoal.ops.gpu.kernels.table` says how a call finds its own."""
