"""Rules by name: ``parse("dcasgd:lam=0.04")``."""

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import Any, TypeVar

from shoal.errors import ConfigError
from shoal.kvstore.rules.base import Rule

__all__ = ["names", "parse", "register"]

R = TypeVar("R", bound=type[Rule])

_RULES: dict[str, type[Rule]] = {}


def register(name: str) -> Callable[[R], R]:
    """Class decorator: make a rule known as ``name``, in every process that imports its module.

    The servers must know it: name its module with ``--plugin``.

    Raises:
        ConfigError: the name cannot be one, or another class has it.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ConfigError(f"a rule's name is lower-case letters, digits and dashes, got {name!r}")

    def declare(cls: R) -> R:
        other = _RULES.get(name)
        if other is not None and other.__qualname__ != cls.__qualname__:
            raise ConfigError(f"rule {name!r} is already {other.__module__}.{other.__qualname__}: rename one")
        cls.name = name
        _RULES[name] = cls
        return cls

    return declare


def names() -> list[str]:
    """The known names, sorted."""
    return sorted(_RULES)


def parse(spec: str | Rule | None) -> Rule | None:
    """The rule that ``spec`` describes; None for "", which corrects nothing.

    >>> parse("dcasgd:lam=0.1").spec()
    'dcasgd:lam=0.1'

    Raises:
        ConfigError: a name or a parameter is unknown, or a value is out of its range; lists what is known.
    """
    if isinstance(spec, Rule) or not spec or spec.strip().lower() == "none":
        return spec if isinstance(spec, Rule) else None
    name, _, rest = spec.strip().lower().partition(":")
    if name not in _RULES:
        raise ConfigError(f"no rule is called {name!r}; known: {', '.join(names())}{_hint(name, names())}")
    known = {f.name: f for f in dataclasses.fields(_RULES[name])}  # type: ignore[arg-type]
    params: dict[str, Any] = {}
    for pair in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = (piece.strip() for piece in pair.partition("="))
        if key not in known or not equals or key in params:
            what = f"no parameter {key!r}" if key not in known else f"{key!r} twice, or without a value"
            raise ConfigError(f"rule {name!r} has {what}; known: {', '.join(known) or 'none'}{_hint(key, list(known))}")
        params[key] = _value(name, key, value, type(known[key].default))
    return _RULES[name](**params)


def _value(rule: str, key: str, text: str, kind: type[Any]) -> Any:
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text]
        return kind(text)
    except (ValueError, KeyError):
        raise ConfigError(f"rule {rule!r}: {key} is {text!r}, expected {kind.__name__}") from None


def _hint(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f". Did you mean {near[0]!r}?" if near else ""
