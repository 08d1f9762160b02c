"""Importing this module registers all kernels of the package. Nothing is compiled before the first launch."""

from shoal.ops.gpu.kernels import attention, batchnorm, convolution, embedding, norm, pooling, products, random, rows
from shoal.ops.gpu.kernels.table import bound, dispatched

__all__ = [
    "attention",
    "batchnorm",
    "bound",
    "convolution",
    "dispatched",
    "embedding",
    "norm",
    "pooling",
    "products",
    "random",
    "rows",
]
