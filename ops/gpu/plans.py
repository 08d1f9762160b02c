"""Plans of cuDNN on the disk: those that take seconds to build are read back by the next process.

Off unless ``SHOAL_GPU_PLANS`` names a folder. A plan holds for one GPU model, driver, cuDNN and frontend: all of these
are part of its file's name, so that what another machine has left there is not found, and stale files do no harm.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PlanFolder", "folder_of"]

log = logging.getLogger("shoal.gpu")

DIGEST_BYTES = 16


class PlanFolder:
    """Plans by what they are for.

    Args:
        folder: made if it is not there.
        machine: what a plan depends on beside its graph: GPU, driver, versions of libraries.
    """

    def __init__(self, folder: Path, machine: Sequence[object]) -> None:
        self._folder, self._machine = folder, tuple(machine)

    def path(self, key: object) -> Path:
        """Where the plan for ``key`` is, or would be; ``key`` has the same ``repr`` in every process."""
        name = hashlib.blake2b(repr((self._machine, key)).encode(), digest_size=DIGEST_BYTES).hexdigest()
        return self._folder / f"{name}.plan"

    def read(self, key: object) -> bytes | None:
        """The plan; None if there is none, or what is there is damaged."""
        try:
            raw = self.path(key).read_bytes()
        except OSError:
            return None
        digest, plan = raw[:DIGEST_BYTES], raw[DIGEST_BYTES:]
        return plan if digest == _digest(plan) else None

    def write(self, key: object, plan: bytes) -> None:
        """Keep a plan; a folder that cannot be written to is told once, and does no harm."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as f:
                f.write(_digest(plan) + plan)
            os.replace(f.name, self.path(key))
        except OSError as error:
            log.warning("SHOAL_GPU_PLANS: a plan cannot be kept: %s", error)


def _digest(plan: bytes) -> bytes:
    return hashlib.blake2b(plan, digest_size=DIGEST_BYTES).digest()


def folder_of(xp: Any, cudnn: Any, index: int, named: str) -> PlanFolder | None:
    """Where plans for a GPU are kept; None if no folder is named."""
    if not named:
        return None
    runtime = xp.module.cuda.runtime
    found = runtime.getDeviceProperties(index)
    model = (found["name"], found["major"], found["minor"], found["multiProcessorCount"])
    return PlanFolder(Path(named), (*model, runtime.driverGetVersion(), cudnn.backend_version(), cudnn.__version__))
