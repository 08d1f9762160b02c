"""The checkpoints of a run, in a directory or below a URL: a file an epoch; the newest good one is gone on from.

What is saved are the global weights, what the optimizer keeps of them (on the servers, or here), and where the run was:
a synchronous run that goes on from it ends with the bits of one that never stopped. Which checkpoint that is is fixed
before the first worker starts, so that those that come later, and those that come back, go on from the same one.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import CheckpointError, ConfigError
from shoal.ops import remote
from shoal.ops.optim import State
from shoal.worker.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

__all__ = ["Checkpoints", "place_of_run", "resumed"]

log = logging.getLogger("shoal.checkpoint")

NAME = re.compile(r"epoch-(\d{6})\.safetensors")


class Checkpoints:
    """The checkpoints at one place.

    Args:
        place: a directory, or a URL such as ``s3://bucket/run``.
        keep: so many of the newest; older ones are removed after a new one has been written.
    """

    def __init__(self, place: str, keep: int = 3) -> None:
        if keep < 1:
            raise ConfigError(f"at least one checkpoint is kept, got keep={keep}")
        self.place, self.keep = place, keep

    def path(self, epoch: int) -> str:
        """Where the checkpoint after so many epochs is."""
        return remote.join(self.place, f"epoch-{epoch:06d}.safetensors")

    def save(
        self,
        epoch: int,
        params: Mapping[str, Any],
        meta: Mapping[str, Any] | None = None,
        states: Mapping[str, tuple[int, State]] | None = None,
    ) -> str:
        """Write the checkpoint after ``epoch`` epochs, in one step; where it is. Arguments as of `save_checkpoint`.

        Raises:
            CheckpointError: it cannot be written; those before it are as they were.
        """
        path = self.path(epoch)
        save_checkpoint(path, params, states or {}, {"epoch": epoch, **(meta or {})})
        for old in [e for e in self.epochs() if e <= epoch][: -self.keep]:  # later ones are another run's
            self._remove(self.path(old))
        return path

    def epochs(self) -> list[int]:
        """After how many epochs there are checkpoints, in order; good or not."""
        if remote.is_url(self.place):
            names = remote.listing(self.place)
        else:
            names = os.listdir(self.place) if os.path.isdir(self.place) else []
        return sorted(int(m[1]) for name in names if (m := NAME.fullmatch(name)))

    def newest(self) -> str:
        """The newest that is good, "" if there is none; damaged ones are passed over with a warning."""
        return self.last()[0]

    def last(self) -> tuple[str, dict[str, Any]]:
        """`newest`, and the place in the run that was saved with it."""
        for epoch in reversed(self.epochs()):
            path = self.path(epoch)
            try:
                return path, load_checkpoint(path).meta
            except CheckpointError as e:
                log.warning("%s; the checkpoint before it is tried", e)
        return "", {}

    def _remove(self, path: str) -> None:
        try:
            if remote.is_url(path):
                remote.remove(path)
            else:
                Path(path).unlink(missing_ok=True)
        except (CheckpointError, OSError) as e:
            log.warning("an old checkpoint stays: %s", e)


def place_of_run() -> Checkpoints | None:
    """Where this run keeps its checkpoints (``$SHOAL_CHECKPOINT``), if it does."""
    place = os.environ.get("SHOAL_CHECKPOINT", "")
    return Checkpoints(place) if place else None


def resumed() -> Checkpoint | None:
    """What this run goes on from (``$SHOAL_RESUME``, the path or URL of one checkpoint), if it does.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = os.environ.get("SHOAL_RESUME", "")
    return load_checkpoint(path) if path else None
