"""Settings of a store that can be changed while it is in use: which there are, and what they may be.

====================  ================================================================================================
setting               is
====================  ================================================================================================
``lr``                the learning rate; ``learning_rate`` is the same
any hyper-parameter   of the store's present optimizer, such as ``momentum``, ``wd`` or ``clip_gradient``
``s``                 the slack of gates ``ssp`` and ``essp``
``max``               the largest staleness under ``ssp``, ``essp``, ``asp`` and ``fedbuff``; None for no limit
``codec``             what compresses pushes and pulls, such as ``"topk:ratio=0.01/bf16"``; None or "none" for nothing
====================  ================================================================================================
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from shoal.errors import ConfigError, lacking, meant
from shoal.kvstore.codecs import Plan
from shoal.kvstore.gates import Gate, altered_gate, parse_gate
from shoal.ops.optim import Optimizer, OptimizerSpec, from_spec

__all__ = [
    "GATE_SETTINGS",
    "altered_optimizer",
    "check",
    "check_clock",
    "checked_settings",
    "hyper_parameters",
    "parse_setting",
    "shown",
]

GATE_SETTINGS = ("s", "max")

_SYNONYMS = {"lr": "learning_rate", "weight_decay": "wd", "slack": "s", "compression": "codec"}


def checked_settings(
    settings: Mapping[str, Any], gate: Gate, optimizer: OptimizerSpec | None, gradients: bool = True
) -> dict[str, Any]:
    """The settings under their proper names, if the store can take them.

    Args:
        gate: the store's.
        optimizer: what updates the store's keys; None for no optimizer.
        gradients: whether gradients are pushed, and not differences of weights.
    Raises:
        ConfigError: a name is not known (what is known is listed), or a value is out of its range.
    """
    if not settings:
        raise ConfigError("control: nothing to change; give a setting, such as lr=0.01")
    found: dict[str, Any] = {}
    for given, value in settings.items():
        name = _SYNONYMS.get(given, given)
        if name in found:
            raise ConfigError(f"control: {name} is given twice")
        found[name] = value
    altered_gate(gate, found)
    present = None if optimizer is None else from_spec(optimizer)
    later = _checked_hyper(present, {n: v for n, v in found.items() if n not in (*GATE_SETTINGS, "codec")})
    if "codec" in found:
        found["codec"] = _checked_codec(found["codec"], later, gradients)
    values = {} if later is None else later.hyper_parameters()
    return {n: values.get(n, v) for n, v in found.items()}


def check(
    settings: Mapping[str, Any], gate: str, optimizer: tuple[str, Any] | None, gradients: bool
) -> tuple[dict[str, Any], str]:
    """`checked_settings`, for the scheduler: the settings, and why the store cannot take them ("" if it can)."""
    try:
        spec = None if optimizer is None else OptimizerSpec(*optimizer)
        return checked_settings(settings, parse_gate(gate), spec, gradients), ""
    except ConfigError as e:
        return {}, lacking(e, "the scheduler")


def _checked_hyper(present: Optimizer | None, wanted: dict[str, Any]) -> Optimizer | None:
    known = [] if present is None else [*hyper_parameters(present)]
    for name in wanted:
        if name not in known:
            raise _unknown(name, known, present)
    if present is None or not wanted:
        return present
    later = altered_optimizer(present, wanted)
    if later.whole and not present.whole:
        raise ConfigError(
            "control: clip_norm needs the norms of whole keys, and the store's keys may be cut into slices; call "
            "set_optimizer with it before init"
        )
    return later


def _unknown(name: str, known: list[str], present: Optimizer | None) -> ConfigError:
    others = ["lr", *known, *GATE_SETTINGS, "codec"] if known else [*GATE_SETTINGS, "codec"]
    hint = meant(name, others)
    if present is None:
        return ConfigError(
            f"control: the store has no optimizer that could have a {name!r}; known: {', '.join(others)}{hint}. Call "
            "set_optimizer first"
        )
    return ConfigError(
        f"control: optimizer {present.name!r} has no parameter {name!r}; known: {', '.join(others)}{hint}"
    )


def _checked_codec(spec: Any, optimizer: Optimizer | None, gradients: bool) -> str:
    plan = Plan.of(spec)
    if plan.push.gradients_only and not gradients:
        raise ConfigError(f"codec {plan.push.name!r} has a momentum of gradients; here differences of weights are sent")
    own = None if optimizer is None else optimizer.spec()
    objection = "" if own is None else plan.push.objection(own.name, own.params)
    if objection:
        raise ConfigError(objection)
    return plan.spec()


def hyper_parameters(optimizer: Optimizer) -> dict[str, Any]:
    """Those that can be changed, with their present values; None where one is not in use."""
    values = optimizer.hyper_parameters()
    names = [f.name for f in dataclasses.fields(optimizer) if f.metadata and f.name != "lr_scheduler"]
    return {n: values.get(n) for n in names}


def altered_optimizer(optimizer: Optimizer, settings: Mapping[str, Any]) -> Optimizer:
    """``optimizer`` with the hyper-parameters among ``settings``.

    Raises:
        ConfigError: it has no such parameter, or the value is out of its range; or a schedule sets the rate.
    """
    hyper = {n: v for n, v in settings.items() if n not in (*GATE_SETTINGS, "codec")}
    if not hyper:
        return optimizer
    if "learning_rate" in hyper and optimizer.lr_scheduler is not None:
        raise ConfigError(
            f"the learning rate of optimizer {optimizer.name!r} follows {type(optimizer.lr_scheduler).__name__}; "
            "make the optimizer without lr_scheduler to set it by hand"
        )
    spec = optimizer.spec()
    return from_spec(OptimizerSpec(spec.name, {**spec.params, **hyper}))


def check_clock(at_clock: Any) -> int:
    """``at_clock``, if it is one.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(at_clock, bool) or not isinstance(at_clock, int) or at_clock < 0:
        raise ConfigError(f"control: at_clock is a whole number of updates, at least 0; got {at_clock!r}")
    return at_clock


def parse_setting(text: str) -> tuple[str, Any]:
    """Name and value of ``name=value``.

    >>> parse_setting("lr=0.01"), parse_setting("codec=topk:ratio=0.1"), parse_setting("max=none")
    (('lr', 0.01), ('codec', 'topk:ratio=0.1'), ('max', None))

    Raises:
        ConfigError: it does not read so.
    """
    name, equals, value = (piece.strip() for piece in text.partition("="))
    if not (name and equals and value):
        raise ConfigError(f"expected NAME=VALUE, such as lr=0.01, got {text!r}")
    return name, value if name in ("codec", "compression") else _value(value)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def shown(settings: Mapping[str, Any]) -> str:
    """The settings as people write them.

    >>> shown({"learning_rate": 0.01, "codec": "bf16"})
    'lr=0.01 codec=bf16'
    """
    return " ".join(f"{'lr' if n == 'learning_rate' else n}={v}" for n, v in settings.items())
