"""Checkpoints, in files and at URLs: see `shoal.worker.checkpoint` and `shoal.worker.checkpoints`."""

from shoal.ops.remote import fetch
from shoal.worker.checkpoint import Checkpoint, load_checkpoint, load_parameters, save_checkpoint, save_parameters
from shoal.worker.checkpoints import Checkpoints

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "fetch",
    "load_checkpoint",
    "load_parameters",
    "save_checkpoint",
    "save_parameters",
]
