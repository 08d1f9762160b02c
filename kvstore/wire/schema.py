"""How a message class describes itself: its annotations are its schema.

``@message`` and ``@record`` make dataclasses that nobody changes, and register messages by kind. A field may be
``int``, ``float``, ``bool``, ``str``, `Payload`, another record, ``tuple[X, ...]``, ``dict[str, X]``, ``X | None`` or
`Plain` (nested JSON-like data). From the annotations come the list that goes on the wire, the checks on what comes
in, and ``docs/protocol.md``.
"""

import dataclasses
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.kvstore.wire.packed import MAX_DIMENSIONS, Packer

__all__ = [
    "KINDS",
    "Message",
    "Payload",
    "Plain",
    "Reader",
    "Writer",
    "field_rows",
    "fixed",
    "listed",
    "message",
    "record",
    "stem",
]

Plain: TypeAlias = Any
"""JSON-like data: None, bool, int, float, str, lists of them and dicts of them with string keys."""

MAX_DEPTH = 8
"""Deepest nesting of `Plain` data that is accepted."""

Buffer: TypeAlias = Any
Frames: TypeAlias = list[Buffer]
Writer: TypeAlias = Callable[[Any, Frames], Any]
Reader: TypeAlias = Callable[[Any, "FrameSource"], Any]


T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def fixed(cls: type[T]) -> type[T]:
    """Declare a dataclass that nobody changes, of which there is one and more for every message.

    The type checker sees to that: a class that checks it itself takes several times as long to make an object.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@fixed
class Payload:
    """An array that travels as a frame of its own, never copied into the header.

    Args:
        dtype: little-endian numpy name such as ``"<f4"``.
        shape: its shape.
        data: anything with the buffer protocol, C-contiguous; cores never look inside.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Any = dataclasses.field(compare=False, repr=False)


class FrameSource:
    """The payload frames of a message that is being read, in order."""

    __slots__ = ("_frames", "_next")

    def __init__(self, frames: Frames) -> None:
        self._frames, self._next = frames, 0

    def take(self) -> Buffer:
        if self._next >= len(self._frames):
            raise RemoteProtocolError(f"payload frame {self._next} is missing: got {len(self._frames)} frames")
        self._next += 1
        return self._frames[self._next - 1]

    def finish(self) -> None:
        if self._next != len(self._frames):
            raise RemoteProtocolError(f"expected {self._next} payload frames, got {len(self._frames)}")


class Message:
    """Base of every message: ``kind`` is its number on the wire, ``flow`` says who sends it to whom."""

    __slots__ = ()
    kind: ClassVar[int]
    flow: ClassVar[str]
    writers: ClassVar[tuple[Writer, ...]]
    readers: ClassVar[tuple[Reader, ...]]
    names: ClassVar[tuple[str, ...]]
    packer: ClassVar[Packer | None]


KINDS: dict[int, type[Message]] = {}
_RECORDS: dict[type[Any], tuple[tuple[str, ...], tuple[Writer, ...], tuple[Reader, ...]]] = {}


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Declare a frozen record that messages can hold."""
    made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
    _RECORDS[made] = _compile(made)
    return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def stem(cls: type[T]) -> type[T]:
    """Declare fields that several messages share; see `fixed`."""
    return dataclass(slots=True, unsafe_hash=True, kw_only=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def message(kind: int, flow: str) -> Callable[[type[T]], type[T]]:
    """Declare a message: ``kind`` is never reused, ``flow`` reads ``"worker -> server"``."""

    def declare(cls: type[T]) -> type[T]:
        made: Any = stem(cls)
        if kind in KINDS:
            raise LocalProtocolError(f"message kind {kind} is both {KINDS[kind].__name__} and {made.__name__}")
        made.kind, made.flow = kind, flow
        made.names, made.writers, made.readers = _compile(made)
        made.packer = Packer(made, Payload, ITEM_BYTES) if Packer.fits(made, Payload) else None
        KINDS[kind] = made
        return made  # type: ignore[no-any-return]  # built through Any: class attributes are set after the fact

    return declare


def listed(cls: type[T]) -> tuple[Callable[[T], list[Any]], Callable[[list[Any]], T]]:
    """How a dataclass of such fields, payloads apart, becomes a list of plain data, and a checked list the same again.

    Raises:
        LocalProtocolError: a field of ``cls`` cannot be written.
        RemoteProtocolError: (the second) names the field that is wrong.
    """
    names, writers, readers = _compile(cls)

    def write(value: T) -> list[Any]:
        return [w(getattr(value, n), []) for n, w in zip(names, writers, strict=True)]

    def read(values: list[Any]) -> T:
        if len(values) != len(names):
            raise _bad(cls.__name__, f"{len(names)} fields", values)
        source = FrameSource([])
        return cls(**{n: r(v, source) for n, r, v in zip(names, readers, values, strict=True)})

    return write, read


def field_rows(cls: type[Any]) -> list[tuple[str, str]]:
    """Name and annotation of each field of a message or record, for the documentation."""
    return [(f.name, _spell(get_type_hints(cls)[f.name])) for f in dataclasses.fields(cls)]


def _spell(hint: Any) -> str:
    if hint is Any:
        return "plain data"
    if isinstance(hint, type) and get_origin(hint) is None:
        return hint.__name__
    return re.sub(r"shoal\.kvstore\.wire\.\w+\.", "", str(hint))


def _compile(cls: type[Any]) -> tuple[tuple[str, ...], tuple[Writer, ...], tuple[Reader, ...]]:
    hints = get_type_hints(cls)
    names = tuple(f.name for f in dataclasses.fields(cls))
    coders = [_coder(hints[n], f"{cls.__name__}.{n}") for n in names]
    return names, tuple(w for w, _ in coders), tuple(r for _, r in coders)


def _coder(hint: Any, where: str) -> tuple[Writer, Reader]:
    if hint in (int, float, bool, str):
        return _scalar(hint, where)
    if hint is Any:
        return _plain(where)
    if hint is Payload:
        return _payload(where)
    if hint in _RECORDS:
        return _record(hint, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return _sequence(_coder(args[0], where), where)
    if origin is dict and args[0] is str:
        return _mapping(_coder(args[1], where), where)
    if origin in (Union, types.UnionType) and len(args) == 2 and args[1] is type(None):
        return _optional(_coder(args[0], where))
    raise LocalProtocolError(f"{where}: a message field cannot be {hint!r}")


def _bad(where: str, expected: str, got: Any) -> RemoteProtocolError:
    return RemoteProtocolError(f"{where}: expected {expected}, got {type(got).__name__} {str(got)[:60]!r}")


def _scalar(kind: type[Any], where: str) -> tuple[Writer, Reader]:
    def read(value: Any, frames: FrameSource) -> Any:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        raise _bad(where, kind.__name__, value)

    return (lambda value, frames: value), read


def _plain(where: str) -> tuple[Writer, Reader]:
    def check(value: Any, depth: int) -> Any:
        if value is None or type(value) in (bool, int, float, str):
            return value
        if depth >= MAX_DEPTH:
            raise _bad(where, f"data nested at most {MAX_DEPTH} deep", value)
        if isinstance(value, list | tuple):
            return [check(v, depth + 1) for v in value]
        if isinstance(value, dict) and all(type(k) is str for k in value):
            return {k: check(v, depth + 1) for k, v in value.items()}
        raise _bad(where, "plain data", value)

    return (lambda value, frames: check(value, 0)), (lambda value, frames: check(value, 0))


def _payload(where: str) -> tuple[Writer, Reader]:
    def write(value: Payload, frames: Frames) -> Any:
        frames.append(value.data)
        return [value.dtype, list(value.shape)]

    def read(value: Any, frames: FrameSource) -> Payload:
        if not (isinstance(value, list) and len(value) == 2 and type(value[0]) is str and isinstance(value[1], list)):
            raise _bad(where, "[dtype, shape]", value)
        dtype, shape = value
        if dtype not in ITEM_BYTES:
            raise _bad(where, f"one of the dtypes {' '.join(ITEM_BYTES)}", dtype)
        if len(shape) > MAX_DIMENSIONS:
            raise _bad(where, f"at most {MAX_DIMENSIONS} dimensions", shape)
        if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
            raise _bad(where, "a shape of non-negative integers", shape)
        data = frames.take()
        want = ITEM_BYTES[dtype]
        for n in shape:
            want *= n
        have = data.nbytes if hasattr(data, "nbytes") else len(data)
        if have != want:
            raise RemoteProtocolError(f"{where}: {dtype} {tuple(shape)} needs {want} bytes, its frame has {have}")
        return Payload(dtype=dtype, shape=tuple(shape), data=data)

    return write, read


_ITEMS = "|b1 <f2 <f4 <f8 |i1 <i2 <i4 <i8 |u1 <u2 <u4 <u8"
ITEM_BYTES = {**{name: int(name[2]) for name in _ITEMS.split()}, "bfloat16": 2}
"""The dtypes that may travel, with the bytes of one item."""


def _record(cls: type[Any], where: str) -> tuple[Writer, Reader]:
    names, writers, readers = _RECORDS[cls]

    def write(value: Any, frames: Frames) -> Any:
        return [w(getattr(value, n), frames) for n, w in zip(names, writers, strict=True)]

    def read(value: Any, frames: FrameSource) -> Any:
        if not isinstance(value, list) or len(value) != len(names):
            raise _bad(where, f"{len(names)} fields of {cls.__name__}", value)
        return cls(**{n: r(v, frames) for n, r, v in zip(names, readers, value, strict=True)})

    return write, read


def _sequence(item: tuple[Writer, Reader], where: str) -> tuple[Writer, Reader]:
    def read(value: Any, frames: FrameSource) -> Any:
        if not isinstance(value, list):
            raise _bad(where, "a list", value)
        return tuple(item[1](v, frames) for v in value)

    return (lambda value, frames: [item[0](v, frames) for v in value]), read


def _mapping(item: tuple[Writer, Reader], where: str) -> tuple[Writer, Reader]:
    def read(value: Any, frames: FrameSource) -> Any:
        if not isinstance(value, dict) or not all(type(k) is str for k in value):
            raise _bad(where, "a mapping with string keys", value)
        return {k: item[1](v, frames) for k, v in value.items()}

    return (lambda value, frames: {k: item[0](v, frames) for k, v in value.items()}), read


def _optional(item: tuple[Writer, Reader]) -> tuple[Writer, Reader]:
    return (
        lambda value, frames: None if value is None else item[0](value, frames),
        lambda value, frames: None if value is None else item[1](value, frames),
    )
