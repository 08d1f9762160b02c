"""A path to the store whose streams, of GPUs made of NumPy, go on by themselves."""

import threading
from typing import Any

import pytest

from shoal.worker.device.path import DevicePath

__all__ = ["let_streams_go_on"]


def let_streams_go_on(patch: pytest.MonkeyPatch) -> None:
    """Every path made from now on carries out what its streams have been given when it has nothing else to do.

    A real GPU works while nobody looks.
    """
    lock = threading.Lock()
    first = DevicePath.__init__

    def made(self: Any, gpu: Any, buckets: Any, send: Any, **options: Any) -> None:
        def idle() -> None:
            with lock:
                for stream in gpu.timeline.streams[1:]:
                    stream.carry_out(stream.given)

        first(self, gpu, buckets, send, **{"idle": idle, **options})
        self.start = lambda: None  # a fake GPU is no matter for two threads: who waits drives

    patch.setattr(DevicePath, "__init__", made)
