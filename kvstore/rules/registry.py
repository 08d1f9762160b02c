"""Rules by name: ``parse("dcasgd:lam=0.04")``."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from shoal.errors import ConfigError
from shoal.kvstore.catalogue import Catalogue
from shoal.kvstore.rules.base import Rule

__all__ = ["names", "parse", "register"]

R = TypeVar("R", bound=type[Rule])


def _as_declared(cls: type[Any], name: str, text: str) -> Any:
    """A parameter's value, of the type of its default."""
    default: Any = next(f.default for f in dataclasses.fields(cls) if f.name == name)
    kind: type[Any] = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text]
        return kind(text)
    except (ValueError, KeyError):
        raise ConfigError(f"rule {cls.name!r}: {name} is {text!r}, expected {kind.__name__}") from None


_RULES: Catalogue[Rule] = Catalogue("rule", "dcasgd:lam=0.04", _as_declared)


def register(name: str) -> Callable[[R], R]:
    """Class decorator: make a rule known as ``name``, in every process that imports its module.

    The servers must know it: name its module with ``--plugin``.

    Raises:
        ConfigError: the name cannot be one, or another class has it.
    """
    return _RULES.register(name)


def names() -> list[str]:
    """The known names, sorted."""
    return _RULES.names()


def parse(spec: str | Rule | None) -> Rule | None:
    """The rule that ``spec`` describes; None for "", which corrects nothing.

    >>> parse("dcasgd:lam=0.1").spec()
    'dcasgd:lam=0.1'

    Raises:
        ConfigError: a name or a parameter is unknown, or a value is out of its range; lists what is known.
    """
    if isinstance(spec, Rule) or not spec or spec.strip().lower() == "none":
        return spec if isinstance(spec, Rule) else None
    return _RULES.read(spec.lower())
