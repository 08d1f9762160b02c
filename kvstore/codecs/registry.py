"""Codecs by name: ``parse("topk:ratio=0.01")``."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from shoal.errors import ConfigError
from shoal.kvstore.codecs.base import Codec

__all__ = ["Spec", "names", "parse", "register"]

Spec: TypeAlias = str | Mapping[str, Any] | Codec
"""``"topk:ratio=0.01"``, or ``{"type": "topk", "ratio": 0.01}`` as in MXNet's ``set_gradient_compression``."""

C = TypeVar("C", bound=type[Codec])

_CODECS: dict[str, type[Codec]] = {}


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
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise ConfigError(f"a codec's name is lower-case letters, digits and dashes, got {name!r}")

    def declare(cls: C) -> C:
        other = _CODECS.get(name)
        if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"codec {name!r} is already {other.__module__}.{other.__qualname__}: rename one")
        cls.name = name
        _CODECS[name] = cls
        return cls

    return declare


def names() -> list[str]:
    """The known names, sorted."""
    return sorted(_CODECS)


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
        name, params = _split(spec)
    elif isinstance(spec, Mapping):
        if "type" not in spec:
            raise ConfigError(
                f"a codec needs a 'type', such as {{'type': '2bit', 'threshold': 0.5}}; got {dict(spec)!r}"
            )
        name, params = str(spec["type"]).strip().lower(), {str(k): v for k, v in spec.items() if k != "type"}
    else:
        raise ConfigError(f"a codec is given as text or as a dict, got {type(spec).__name__} {spec!r}")
    if name not in _CODECS:
        raise ConfigError(f"no codec is called {name!r}; known: {', '.join(names())}{_hint(name, _CODECS)}")
    known = [f.name for f in dataclasses.fields(_CODECS[name])]
    for p in params:
        if p not in known:
            listed = f"known: {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"codec {name!r} has no parameter {p!r}; {listed}{_hint(p, known)}")
    return _CODECS[name](**params)


def _split(text: str) -> tuple[str, dict[str, Any]]:
    name, _, rest = text.strip().partition(":")
    params: dict[str, Any] = {}
    for pair in rest.split(",") if rest.strip() else []:
        key, equals, value = (piece.strip() for piece in pair.partition("="))
        if not (key and equals and value):
            raise ConfigError(
                f"codec {text!r}: expected parameter=value, got {pair.strip()!r}; e.g. '2bit:threshold=0.5'"
            )
        if key in params:
            raise ConfigError(f"codec {text!r}: {key!r} is given twice")
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
