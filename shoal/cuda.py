"""GPUs: is there one, its memory, waiting for it, streams, and steps that are recorded. Names as in ``torch.cuda``."""

from shoal.ops.gpu.device import Memory
from shoal.ops.gpu.graphed import graphed
from shoal.ops.gpu.kernels.products import get_float32_matmul_precision, set_float32_matmul_precision
from shoal.ops.gpu.trainstep import train_step
from shoal.ops.gpu.words import (
    current_stream,
    device_count,
    empty_cache,
    is_available,
    max_memory_allocated,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    synchronize,
)
from shoal.ops.gpu.words import stream as Stream
from shoal.ops.lossscale import LossScale

__all__ = [
    "LossScale",
    "Memory",
    "Stream",
    "current_stream",
    "device_count",
    "empty_cache",
    "get_float32_matmul_precision",
    "graphed",
    "is_available",
    "max_memory_allocated",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "set_float32_matmul_precision",
    "synchronize",
    "train_step",
]
