"""Training checkpoints: parameters, optimizer states and place in the run, in one safetensors file.

Written atomically and checked when read, as `shoal.ops.tensorfile` says: whatever happens during a save, the path holds
the old checkpoint or the new one. In the file, parameter ``w`` is the tensor ``param/w`` and its state ``mean`` is
``state/mean/w``; update counts and the run's place are JSON in the metadata. Nothing in it can execute.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import CheckpointError
from shoal.ops.optim import State
from shoal.ops.tensorfile import load_tensors, save_tensors

__all__ = ["Checkpoint", "load_checkpoint", "load_parameters", "save_checkpoint", "save_parameters"]

FORMAT = "1"

_FORMAT_KEY, _META_KEY, _UPDATES_KEY = "shoal.checkpoint", "shoal.meta", "shoal.updates"


@dataclass
class Checkpoint:
    """What a run needs to go on.

    Args:
        params: NumPy arrays by parameter name.
        states: of each parameter that has one, how many updates it has had, and its optimizer state.
        meta: the run's place and whatever else was saved, as JSON has it: ``{"epoch": 3, "step": 0, "seed": 7}``.
    """

    params: dict[str, Any]
    states: dict[str, tuple[int, State]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    states: Mapping[str, tuple[int, State]],
    meta: Mapping[str, Any],
) -> None:
    """Write a checkpoint, replacing an existing file in one step. Missing folders are created.

    Args:
        params: arrays or tensors by name.
        states: by parameter name, the number of updates and the arrays of `shoal.optim.Optimizer.init`.
        meta: what JSON can hold, such as epoch, step and seed, a data loader's ``state()``, or the optimizer's
            ``spec().params``.
    Raises:
        CheckpointError: a state of an unknown parameter, ``meta`` that JSON cannot hold, or the disk refuses.
    """
    unknown = sorted(states.keys() - params.keys())
    if unknown:
        raise CheckpointError(f"cannot save {os.fspath(path)!r}: states of {unknown[:8]}, which are no parameters")
    tensors = {f"param/{name}": value for name, value in params.items()}
    for name, (_, state) in states.items():
        tensors |= {f"state/{slot}/{name}": value for slot, value in state.items()}
    updates = {name: count for name, (count, _) in states.items()}
    texts = {_FORMAT_KEY: FORMAT, _META_KEY: _encoded(path, meta), _UPDATES_KEY: _encoded(path, updates)}
    save_tensors(path, tensors, texts)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, of a newer format, or no training checkpoint.
    """
    tensors, texts = load_tensors(path)
    found = texts.get(_FORMAT_KEY)
    if found is None:
        raise CheckpointError(
            f"{os.fspath(path)!r} has tensors but is no training checkpoint: read it with load_parameters, "
            "or with the model's own load_parameters"
        )
    if found != FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)!r} has checkpoint format {found}, this version of shoal reads {FORMAT}"
        )
    try:
        return _unpacked(tensors, json.loads(texts[_META_KEY]), json.loads(texts[_UPDATES_KEY]))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{os.fspath(path)!r} is damaged: {error!r}. Restore it from a copy.") from error


def save_parameters(
    path: str | os.PathLike[str], params: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays or tensors under their names, replacing an existing file in one step.

    Raises:
        CheckpointError: as `shoal.ops.tensorfile.save_tensors`.
    """
    save_tensors(path, params, metadata)


def load_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """NumPy arrays by name: of a file of parameters, of a checkpoint, or of any other safetensors file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    tensors, texts = load_tensors(path)
    if _FORMAT_KEY not in texts:
        return tensors
    return {key.removeprefix("param/"): value for key, value in tensors.items() if key.startswith("param/")}


def _unpacked(tensors: Mapping[str, Any], meta: dict[str, Any], updates: dict[str, int]) -> Checkpoint:
    found = Checkpoint({}, {name: (int(count), {}) for name, count in updates.items()}, meta)
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "param":
            found.params[name] = value
        elif kind == "state":
            slot, _, name = name.partition("/")
            found.states[name][1][slot] = value
        else:
            raise ValueError(f"unknown tensor {key!r}")
    return found


def _encoded(path: str | os.PathLike[str], value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(value))
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"cannot save {os.fspath(path)!r}: {error}; meta may hold Python's numbers, text, lists and dicts"
        ) from error
