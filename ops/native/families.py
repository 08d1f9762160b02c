"""Importing this module registers the native kernels with `shoal.ops.graph.kernels`."""

from shoal.ops.native import batchnorm, conv, pooling

__all__ = ["batchnorm", "conv", "pooling"]
