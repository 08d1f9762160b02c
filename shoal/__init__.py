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
        autograd,
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
    from shoal.ops.tensor import Tensor
    from shoal.worker.cluster import num_workers, rank
    from shoal.worker.data.course import boundary
    from shoal.worker.loop import Callback, evaluate, fit
    from shoal.worker.record import report
    from shoal.worker.trainer import Trainer

__version__ = VERSION

_MODULES = (
    "autograd",
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
    "Tensor": "shoal.ops.tensor",
    "Trainer": "shoal.worker.trainer",
    "boundary": "shoal.worker.data.course",
    "evaluate": "shoal.worker.loop",
    "fit": "shoal.worker.loop",
    "num_workers": "shoal.worker.cluster",
    "rank": "shoal.worker.cluster",
    "report": "shoal.worker.record",
}

__all__ = [
    "Callback",
    "Tensor",
    "Trainer",
    "__version__",
    "autograd",
    "boundary",
    "data",
    "errors",
    "evaluate",
    "fft",
    "fit",
    "func",
    "init",
    "kv",
    "lr_scheduler",
    "metric",
    "nn",
    "np",
    "npx",
    "num_workers",
    "onnx",
    "optim",
    "profiler",
    "random",
    "rank",
    "report",
    "rnn",
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
