"""What a value of ``shoal.toml`` may be: each kind checks one, and says what it had expected."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import ConfigError

__all__ = [
    "Kind",
    "choice",
    "flag",
    "mapping",
    "number",
    "pattern",
    "seconds",
    "size_bytes",
    "text",
    "texts",
    "workers",
]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|K|M|G|T)(i?)B?")
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True)
class Kind:
    """What is expected, in words, and what becomes of a value; ``accept`` raises ValueError for another one."""

    expected: str
    accept: Callable[[Any], Any]

    def check(self, where: str, value: Any) -> Any:
        """The value, as it is kept.

        Raises:
            ConfigError: it is something else.
        """
        try:
            return self.accept(value)
        except (ValueError, TypeError) as e:
            raise ConfigError(f"{where}: expected {self.expected}, got {_shown(value)}") from e


def _shown(value: Any) -> str:
    """As TOML writes it, shortened."""
    shown = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else None
    written = shown or (f'"{value}"' if isinstance(value, str) else str(value))
    return written if len(written) <= 60 else written[:57] + "..."


def _fail(condition: bool) -> None:
    if not condition:
        raise ValueError


def _text(value: Any) -> str:
    _fail(isinstance(value, str) and "\0" not in value)
    return str(value)


def _texts(value: Any) -> tuple[str, ...]:
    _fail(isinstance(value, list))
    return tuple(map(_text, value))


def _mapping(value: Any) -> dict[str, str]:
    _fail(isinstance(value, dict))
    for name, v in value.items():
        _fail(re.fullmatch(r"[A-Za-z_]\w*", name) is not None and isinstance(v, str | int | float))
    return {n: str(v).lower() if isinstance(v, bool) else str(v) for n, v in value.items()}


def _flag(value: Any) -> bool:
    _fail(isinstance(value, bool))
    return bool(value)


text = Kind("a text", _text)
texts = Kind('a list of texts, such as ["--epochs", "5"]', _texts)
flag = Kind("true or false", _flag)
mapping = Kind("a table of names and texts or numbers", _mapping)


def number(least: float = 0, most: float = float("inf"), whole: bool = True) -> Kind:
    """A number from ``least`` to ``most``."""

    def accept(value: Any) -> Any:
        _fail(isinstance(value, int) or (not whole and isinstance(value, float)))
        _fail(not isinstance(value, bool) and least <= value <= most)
        return value

    limits = f"from {least:g} to {most:g}" if most < float("inf") else f"of at least {least:g}"
    return Kind(f"a {'whole ' if whole else ''}number {limits}", accept)


def choice(*known: str) -> Kind:
    """One of these texts."""

    def accept(value: Any) -> str:
        _fail(value in known)
        return str(value)

    return Kind("one of " + ", ".join(f'"{k}"' for k in known), accept)


def pattern(expression: str, expected: str) -> Kind:
    """A text that matches all of a regular expression."""

    def accept(value: Any) -> str:
        _fail(isinstance(value, str) and re.fullmatch(expression, value) is not None)
        return str(value)

    return Kind(expected, accept)


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", value)
        if found is None:
            raise ValueError
        days, *rest = (int(g or 0) for g in found.groups())
        value = days * 86400 + rest[0] * 3600 + rest[1] * 60 + rest[2]
    _fail(isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"))
    return float(value)


seconds = Kind('a positive number of seconds, or a time such as "01:30:00"', _seconds)


def _size(value: Any) -> int:
    _fail(isinstance(value, str | int) and not isinstance(value, bool))
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise ValueError
    nbytes = int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[found[2]])
    _fail(nbytes > 0)
    return nbytes


size_bytes = Kind('a size such as "512MiB" or "2GB"', _size)


def _workers(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", value)
    _fail(found is not None and 1 <= int(found[1]) <= int(found[2] or found[1]))
    return str(value)


workers = Kind('a number of processes of at least 1, or from and to, such as "2..16"', _workers)


def unknown(where: str, name: str, known: Mapping[str, Any]) -> ConfigError:
    """The error for a name that nobody knows."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
    return ConfigError(f"{where}: unknown name {name!r}{hint}")
