"""Importing this module registers the native kernels with `shoal.ops.graph.kernels`."""

from shoal.ops.native import batchnorm, channels, conv, pooling

__all__ = ["batchnorm", "channels", "conv", "pooling"]
