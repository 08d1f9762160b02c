"""Strategies by name: ``parse("diloco:h=50")``."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from shoal.errors import ConfigError
from shoal.worker.strategies.base import Strategy

__all__ = ["Spec", "names", "parse", "register"]

Spec: TypeAlias = str | Mapping[str, Any] | Strategy
"""``"diloco:h=50"``, ``{"type": "diloco", "h": 50}``, or a strategy."""

S = TypeVar("S", bound=type[Strategy])

_STRATEGIES: dict[str, type[Strategy]] = {}


def register(name: str, *aliases: str) -> Callable[[S], S]:
    """Class decorator: make a strategy known as ``name``, and by other names, in every process that imports its module.

    Raises:
        ConfigError: a name cannot be one, or another class has it.
    """
    for n in (name, *aliases):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", n):
            raise ConfigError(f"a strategy's name is lower-case letters, digits and dashes, got {n!r}")

    def declare(cls: S) -> S:
        for n in (name, *aliases):
            other = _STRATEGIES.get(n)
            if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(f"strategy {n!r} is already {other.__module__}.{other.__qualname__}: rename one")
            _STRATEGIES[n] = cls
        cls.name = name
        return cls

    return declare


def names() -> list[str]:
    """The known names, sorted; aliases too."""
    return sorted(_STRATEGIES)


def parse(spec: Spec) -> Strategy:
    """The strategy that ``spec`` describes; parameters that are not given have their defaults.

    >>> parse("local:h=4") == parse({"type": "local", "h": 4})
    True

    Raises:
        ConfigError: a name or a parameter is unknown, or a value is out of its range; lists what is known.
    """
    if isinstance(spec, Strategy):
        return spec
    name, params = _read(spec)
    if name not in _STRATEGIES:
        raise ConfigError(f"no strategy is called {name!r}; known: {', '.join(names())}{_hint(name, _STRATEGIES)}")
    known = [f.name for f in dataclasses.fields(_STRATEGIES[name])]
    for p in params:
        if p not in known:
            listed = f"known: {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"strategy {name!r} has no parameter {p!r}; {listed}{_hint(p, known)}")
    return _STRATEGIES[name](**params)


def _read(spec: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return _split(spec)
    if isinstance(spec, Mapping) and "type" in spec:
        return str(spec["type"]).strip().lower(), {str(k): v for k, v in spec.items() if k != "type"}
    raise ConfigError(f"a strategy is text such as 'diloco:h=50', or {{'type': 'diloco', 'h': 50}}; got {spec!r}")


def _split(text: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.strip().partition(":")
    params: dict[str, Any] = {}
    for pair in rest.split(",") if rest.strip() else []:
        key, equals, value = (piece.strip() for piece in pair.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"strategy {text!r}: expected parameter=value, got {pair.strip()!r}; e.g. 'local:h=16'")
        if key in params:
            raise ConfigError(f"strategy {text!r}: {key!r} is given twice")
        params[key] = _value(value)
    return name.strip().lower(), params


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text.lower()


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f". Did you mean {near[0]!r}?" if near else ""
