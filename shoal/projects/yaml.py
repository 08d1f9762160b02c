"""Writes plain data as YAML: dictionaries, lists, texts, numbers, true and false. Nothing here reads YAML."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["documents", "to_yaml"]

_PLAIN = re.compile(r"[A-Za-z_/][\w./@ ()+-]*[\w./@()+-]|[A-Za-z_/]")
"""Texts that need no quotes, if they are no word of `_WORDS`: no colon, no hash, nothing that looks like a number."""

_WORDS = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"])


def documents(parts: Sequence[Any], head: str = "") -> str:
    """Several documents in one text, after comment lines."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in head.splitlines())
    return comment + "---\n".join(to_yaml(part) for part in parts)


def to_yaml(value: Any) -> str:
    """One document.

    >>> print(to_yaml({"name": "a", "ports": [9091], "on": "yes", "env": {}}), end="")
    name: a
    ports:
      - 9091
    "on": "yes"
    env: {}
    """
    return "\n".join(_lines(value, 0)) + "\n"


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    if isinstance(value, Mapping) and value:
        return [line for k, v in value.items() for line in _entry(f"{pad}{_scalar(k)}:", v, depth)]
    if isinstance(value, list | tuple) and value:
        return [line for v in value for line in _item(pad, v, depth)]
    return [pad + _scalar(value)]


def _entry(head: str, value: Any, depth: int) -> list[str]:
    if isinstance(value, str) and _is_block(value):
        return _block(head, value, depth)
    if isinstance(value, Mapping | list | tuple) and value:
        return [head, *_lines(value, depth + 1)]
    return [f"{head} {_scalar(value)}"]


def _item(pad: str, value: Any, depth: int) -> list[str]:
    """The first line of a mapping or list stands behind the dash."""
    if isinstance(value, Mapping | list | tuple) and value:
        first, *rest = _lines(value, depth + 1)
        return [f"{pad}- {first.lstrip(' ')}", *rest]
    return [f"{pad}- {_scalar(value)}"]


def _is_block(value: str) -> bool:
    """Whether a text of several lines can stand as it is."""
    printable = all(c.isprintable() or c == "\n" for c in value)
    return "\n" in value and printable and value.endswith("\n") and not value.startswith((" ", "\n"))


def _block(head: str, value: str, depth: int) -> list[str]:
    pad = "  " * (depth + 1)
    body = value.removesuffix("\n").split("\n")
    keep = "|+" if value.endswith("\n\n") else "|"
    return [f"{head} {keep}", *(pad + line if line else "" for line in body)]


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    text = str(value)
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else f'"{"".join(map(_escaped, text))}"'


def _escaped(c: str) -> str:
    """One character between double quotes."""
    if c in '\\"':
        return "\\" + c
    if c.isprintable():
        return c
    return "\\n" if c == "\n" else f"\\U{ord(c):08x}"
