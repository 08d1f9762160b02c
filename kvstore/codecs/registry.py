"""Codecs by name: ``parse("topk:ratio=0.01")``."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from shoal.errors import ConfigError
from shoal.kvstore.catalogue import Catalogue
from shoal.kvstore.codecs.base import Codec

__all__ = ["CODECS", "Spec", "names", "parse", "register"]

Spec: TypeAlias = str | Mapping[str, Any] | Codec
"""``"topk:ratio=0.01"``, or ``{"type": "topk", "ratio": 0.01}`` as in MXNet's ``set_gradient_compression``."""

C = TypeVar("C", bound=type[Codec])

CODECS: Catalogue[Codec] = Catalogue("codec", "2bit:threshold=0.5")


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a codec known as ``name``, on every process that imports its module.

    ::

        @register("half-of-it")
        @dataclass(kw_only=True)
        class HalfOfIt(Codec):
            '''What it does, and where it is from.'''
            ...

    Args:
        name: lower-case letters, digits and dashes.
    Raises:
        ConfigError: the name cannot be one, or another class has it.
    """
    return CODECS.register(name)


def names() -> list[str]:
    """The known names, sorted."""
    return CODECS.names()


def parse(spec: Spec) -> Codec:
    """The codec that ``spec`` describes; parameters that are not given have their defaults.

    >>> parse("2bit:threshold=0.25") == parse({"type": "2bit", "threshold": 0.25})
    True

    Raises:
        ConfigError: a name or a parameter is unknown, or a value is out of its range; lists what is known.
    """
    if isinstance(spec, Codec):
        return spec
    if isinstance(spec, str):
        return CODECS.read(spec)
    if not isinstance(spec, Mapping):
        raise ConfigError(f"a codec is given as text or as a dict, got {type(spec).__name__} {spec!r}")
    if "type" not in spec:
        raise ConfigError(f"a codec needs a 'type', such as {{'type': '2bit', 'threshold': 0.5}}; got {dict(spec)!r}")
    return CODECS.make(spec)
