"""What a run that goes on from a checkpoint takes over of the one before, beside the weights."""

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shoal.ops import optim
from shoal.ops.optim import Optimizer
from shoal.worker.checkpoint import Checkpoint
from shoal.worker.strategies.base import Snapshot

if TYPE_CHECKING:
    from shoal.worker.trainer import Trainer

__all__ = ["go_on", "kept", "makers", "optimizer_of"]

log = logging.getLogger("shoal.checkpoint")


def makers(meta: Mapping[str, Any]) -> str:
    """Who has made the states of a checkpoint with this ``meta``."""
    return f"{meta.get('optimizer', 'an unknown optimizer')} ({meta.get('strategy', 'gradient')})"


def optimizer_of(meta: Mapping[str, Any], present: Optimizer, asked: Mapping[str, Any]) -> Optimizer:
    """The present optimizer, with what was changed of it in the course of the run that the checkpoint is of.

    What the script gives now, but did not give then, is meant: it stays.

    Args:
        asked: the hyper-parameters that the script has given.
    """
    hyper = meta.get("hyper")
    if not isinstance(hyper, Mapping):
        return present
    then, now, given = hyper["asked"], hyper["now"], json.loads(json.dumps(dict(asked)))
    changed = {n: v for n, v in now.items() if v != then.get(n) and then.get(n) == given.get(n)}
    if not changed:
        return present
    log.warning("the checkpoint is of a run in whose course the optimizer was changed: %s is as it had become", changed)
    spec = present.spec()
    return optim.from_spec(optim.OptimizerSpec(spec.name, {**spec.params, **changed}))


def kept(net: Any, trainer: "Trainer") -> Checkpoint:
    """All that a run's checkpoint holds of a model and its trainer; parameters have their names in the model."""
    found, names = trainer.kept(), _names(net, trainer)
    params = {name: p.data().asnumpy() for name, p in net.collect_params().items()}
    params |= {names[n]: value for n, value in (found.params or {}).items() if n in names}
    states = {names[n]: state for n, state in found.states.items() if n in names}
    return Checkpoint(params, states, dict(found.meta))


def go_on(net: Any, trainer: "Trainer", found: Checkpoint) -> None:
    """Give a model the weights of a checkpoint, and its trainer the rest; nothing to one that has begun."""
    names = {theirs: ours for ours, theirs in _names(net, trainer).items()}
    states = {names[n]: state for n, state in found.states.items() if n in names}
    if trainer.go_on(Snapshot(states, found.meta)):
        for name, p in net.collect_params().items():
            p.set_data(found.params[name])


def _names(net: Any, trainer: "Trainer") -> dict[str, str]:
    """What the model calls the trainer's parameters, by what the trainer does."""
    called = {id(p): name for name, p in reversed(net.collect_params().items())}
    return {name: called[id(p)] for name, p in trainer.learning.items() if id(p) in called}
