"""Strategies by name: ``parse("diloco:h=50")``."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from shoal.errors import ConfigError
from shoal.kvstore.catalogue import Catalogue
from shoal.worker.strategies.base import Strategy

__all__ = ["Spec", "names", "parse", "register"]

Spec: TypeAlias = str | Mapping[str, Any] | Strategy
"""``"diloco:h=50"``, ``{"type": "diloco", "h": 50}``, or a strategy."""

S = TypeVar("S", bound=type[Strategy])

_STRATEGIES: Catalogue[Strategy] = Catalogue("strategy", "local:h=16")


def register(name: str, *aliases: str) -> Callable[[S], S]:
    """Class decorator: make a strategy known as ``name``, and by other names, in every process that imports its module.

    Raises:
        ConfigError: a name cannot be one, or another class has it.
    """
    return _STRATEGIES.register(name, *aliases)


def names() -> list[str]:
    """The known names, sorted; aliases too."""
    return _STRATEGIES.names()


def parse(spec: Spec) -> Strategy:
    """The strategy that ``spec`` describes; parameters that are not given have their defaults.

    >>> parse("local:h=4") == parse({"type": "local", "h": 4})
    True

    Raises:
        ConfigError: a name or a parameter is unknown, or a value is out of its range; lists what is known.
    """
    if isinstance(spec, Strategy):
        return spec
    if isinstance(spec, str):
        return _STRATEGIES.read(spec)
    if isinstance(spec, Mapping) and "type" in spec:
        return _STRATEGIES.make(spec)
    raise ConfigError(f"a strategy is text such as 'diloco:h=50', or {{'type': 'diloco', 'h': 50}}; got {spec!r}")
