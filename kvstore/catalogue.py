"""Classes that users choose by text: ``name:parameter=value,...``. Codecs, rules and strategies are read by this."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from shoal.errors import ConfigError, meant, unregistered

__all__ = ["Catalogue", "guessed"]

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


def guessed(cls: type[Any], name: str, text: str) -> Any:
    """A parameter's value as the text looks: true or false, an integer, a float, or a word in lower case."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text.lower()


class Catalogue(Generic[T]):
    """Dataclasses by name.

    Args:
        kind: what they are, for error texts.
        example: a text with a parameter, for error texts.
        convert: the value of a parameter that is given as text, from its class, name and text.
    """

    def __init__(self, kind: str, example: str, convert: Callable[[type[Any], str, str], Any] = guessed) -> None:
        self.kind, self.example, self._convert = kind, example, convert
        self.classes: dict[str, type[T]] = {}

    def register(self, name: str, *aliases: str) -> Callable[[C], C]:
        """Class decorator: make a class known as ``name``, and by other names.

        Raises:
            ConfigError: a name cannot be one, or another class has it.
        """
        every = (name, *aliases)
        for n in every:
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", n):
                raise ConfigError(f"a {self.kind}'s name is lower-case letters, digits and dashes, got {n!r}")

        def declare(cls: C) -> C:
            for n in every:
                other = self.classes.get(n)
                if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                    raise ConfigError(
                        f"{self.kind} {n!r} is already {other.__module__}.{other.__qualname__}: rename one"
                    )
                self.classes[n] = cls
            cls.name = name
            return cls

        return declare

    def names(self) -> list[str]:
        """The known names, sorted; aliases too."""
        return sorted(self.classes)

    def read(self, text: str) -> T:
        """The object that ``text`` describes; parameters that are not given have their defaults.

        Raises:
            ConfigError: a name or a parameter is unknown, or a value is out of its range; lists what is known.
        """
        name, _, rest = text.strip().partition(":")
        given: dict[str, str] = {}
        for pair in rest.split(",") if rest.strip() else []:
            key, equals, value = (piece.strip() for piece in pair.partition("="))
            if not (key and equals and value):
                raise ConfigError(
                    f"{self.kind} {text!r}: expected parameter=value, got {pair.strip()!r}; e.g. {self.example!r}"
                )
            if key in given:
                raise ConfigError(f"{self.kind} {text!r}: {key!r} is given twice")
            given[key] = value
        cls = self._named(name.strip().lower(), given)
        return cls(**{k: self._convert(cls, k, v) for k, v in given.items()})

    def make(self, spec: Mapping[str, Any]) -> T:
        """The object that ``{"type": name, parameter: value, ...}`` describes; raises as `read`."""
        params = {str(k): v for k, v in spec.items() if k != "type"}
        return self._named(str(spec["type"]).strip().lower(), params)(**params)

    def _named(self, name: str, params: Mapping[str, Any]) -> type[T]:
        if name not in self.classes:
            known = self.names()
            raise unregistered(f"no {self.kind} is called {name!r}; known: {', '.join(known)}{meant(name, known, 0.5)}")
        cls: Any = self.classes[name]
        known = [f.name for f in dataclasses.fields(cls)]
        for p in params:
            if p not in known:
                listed = f"known: {', '.join(known)}" if known else "it has none"
                raise ConfigError(f"{self.kind} {name!r} has no parameter {p!r}; {listed}{meant(p, known, 0.5)}")
        return self.classes[name]
