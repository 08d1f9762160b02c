"""Copies of state machines, and what tells two of them apart: the daily work of an exhaustive search.

`copy.deepcopy` would do, and copies every message and number on the way; here what cannot change is shared.
"""

from collections import deque
from dataclasses import fields, is_dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from shoal.kvstore.wire.schema import Payload

__all__ = ["clone", "frozen"]

_TIMES = frozenset(
    ("since", "due", "warned", "began", "pause", "heard", "trip_s", "landed", "hello_due", "hello_since")
)
_TIMES_OF_CORES = frozenset(("_look_due", "_push_seen", "_now", "counters", "_handlers"))

_ATOMS = (str, int, float, bytes, bool, type(None), Enum, Payload, type)

_kinds: dict[type[Any], str] = {}
_names: dict[type[Any], tuple[str, ...]] = {}


def _kind(cls: type[Any]) -> str:
    """How values of a class are copied."""
    known = _kinds.get(cls)
    if known is None:
        known = _kinds[cls] = _find_kind(cls)
    return known


def _find_kind(cls: type[Any]) -> str:
    if issubclass(cls, _ATOMS) or (is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]  # dataclasses have them
        return "same"
    if cls is MethodType:
        return "method"
    for base, name in ((dict, "dict"), (list, "list"), (deque, "list"), (set, "set"), (tuple, "tuple")):
        if issubclass(cls, base):
            return name
    plain = issubclass(cls, (frozenset, FunctionType, BuiltinFunctionType)) or cls.__module__ == "builtins"
    return "same" if plain else "object"


def clone(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """A copy that shares with the original only what cannot change; what was one object in it is one in the copy."""
    kind = _kind(type(value))
    if kind == "same":
        return value
    memo = {} if memo is None else memo
    made = memo.get(id(value))
    return _clone(value, kind, memo) if made is None else made


def _clone(value: Any, kind: str, memo: dict[int, Any]) -> Any:
    if kind == "tuple":
        items = [clone(v, memo) for v in value]
        same = all(a is b for a, b in zip(items, value, strict=True))
        return value if same else type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if kind == "method":
        return MethodType(value.__func__, clone(value.__self__, memo))
    if kind == "object":
        made = memo[id(value)] = object.__new__(type(value))
        for name in _attributes(value):
            object.__setattr__(made, name, clone(getattr(value, name), memo))
        return made
    made = memo[id(value)] = value.copy()
    if kind == "dict":
        for k, v in value.items():
            if _kind(type(v)) != "same":
                made[k] = clone(v, memo)
    elif kind == "list":
        for i, v in enumerate(value):
            if _kind(type(v)) != "same":
                made[i] = clone(v, memo)
    return made


def _attributes(value: Any) -> list[str]:
    """Of an object: those of its class's slots, and its own."""
    cls = type(value)
    slots = _names.get(cls)
    if slots is None:
        found = [s for c in cls.__mro__ for s in _several(c.__dict__.get("__slots__", ()))]
        slots = _names[cls] = tuple(n for n in found if n not in ("__weakref__", "__dict__"))
    own = list(getattr(value, "__dict__", ()))
    return [*(n for n in slots if hasattr(value, n)), *own]


def _several(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def frozen(value: Any) -> Any:
    """What makes up a core's state, without times, as something hashable."""
    if isinstance(value, str | int | float | bytes | bool | None | Enum):
        return value
    if isinstance(value, dict):
        return frozenset([(frozen(k), frozen(v)) for k, v in value.items()])
    if isinstance(value, set | frozenset):
        return frozenset(map(frozen, value))
    if isinstance(value, tuple | list | deque):
        return tuple([frozen(v) for v in value])
    if isinstance(value, Payload):
        return value.shape
    if is_dataclass(value):
        return (type(value).__name__, *[frozen(getattr(value, n)) for n in _names_of_fields(type(value))])
    if callable(value):
        return None
    names = [n for n in _attributes(value) if n not in _TIMES_OF_CORES]
    return (type(value).__name__, *[(n, frozen(getattr(value, n))) for n in names])


_fields: dict[type[Any], tuple[str, ...]] = {}


def _names_of_fields(cls: type[Any]) -> tuple[str, ...]:
    names = _fields.get(cls)
    if names is None:
        names = _fields[cls] = tuple(f.name for f in fields(cls) if f.name not in _TIMES)
    return names
