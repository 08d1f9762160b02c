"""shoal: train one model on many machines through a sharded parameter server.

Names are loaded when they are first used, so that ``import shoal`` takes milliseconds and starts nothing.

>>> import shoal
>>> shoal.__version__.count(".")
2
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shoal.version import VERSION

if TYPE_CHECKING:
    from shoal import (
        amp,
        autograd,
        checkpoint,
        cuda,
        data,
        errors,
        fft,
        func,
        init,
        kv,
        lr_scheduler,
        metric,
        nn,
        np,
        npx,
        onnx,
        optim,
        profiler,
        random,
        rnn,
        sparse,
        special,
        sym,
        testing,
    )
    from shoal.ops.context import Device, cpu, current_device, gpu, num_gpus, set_device
    from shoal.ops.tensor import Tensor
    from shoal.worker.cluster import num_workers, rank
    from shoal.worker.data.course import boundary
    from shoal.worker.loop import Callback, evaluate, fit
    from shoal.worker.record import report
    from shoal.worker.trainer import Trainer

__version__ = VERSION

_MODULES = (
    "amp",
    "autograd",
    "checkpoint",
    "cuda",
    "data",
    "errors",
    "fft",
    "func",
    "init",
    "kv",
    "lr_scheduler",
    "metric",
    "nn",
    "np",
    "npx",
    "onnx",
    "optim",
    "profiler",
    "random",
    "rnn",
    "sparse",
    "special",
    "sym",
    "testing",
)
_NAMES = {
    "Callback": "shoal.worker.loop",
    "Device": "shoal.ops.context",
    "Tensor": "shoal.ops.tensor",
    "Trainer": "shoal.worker.trainer",
    "boundary": "shoal.worker.data.course",
    "cpu": "shoal.ops.context",
    "current_device": "shoal.ops.context",
    "evaluate": "shoal.worker.loop",
    "fit": "shoal.worker.loop",
    "gpu": "shoal.ops.context",
    "num_gpus": "shoal.ops.context",
    "num_workers": "shoal.worker.cluster",
    "rank": "shoal.worker.cluster",
    "report": "shoal.worker.record",
    "set_device": "shoal.ops.context",
}

__all__ = [
    "Callback",
    "Device",
    "Tensor",
    "Trainer",
    "__version__",
    "amp",
    "autograd",
    "boundary",
    "checkpoint",
    "cpu",
    "cuda",
    "current_device",
    "data",
    "errors",
    "evaluate",
    "fft",
    "fit",
    "func",
    "gpu",
    "init",
    "kv",
    "lr_scheduler",
    "metric",
    "nn",
    "np",
    "npx",
    "num_gpus",
    "num_workers",
    "onnx",
    "optim",
    "profiler",
    "random",
    "rank",
    "report",
    "rnn",
    "set_device",
    "sparse",
    "special",
    "sym",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"shoal.{name}")
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
