"""Fixed binary headers, for the messages that need nothing else: small to make, to read and to check.

A class is packed if its fields are all ``int``, ``float``, ``bool``, ``str``, `Payload`, ``Payload | None``,
``tuple[Payload, ...]`` or ``tuple[int, ...]``. Its header is little-endian and without padding:

- ``TAG``, the protocol version and the kind (one, one and two bytes);
- for each field, in order: an int (8 bytes, signed), a float (8), a bool (1), the number of bytes of a string (4), the
  number of items of a tuple (4), or the shape code of a payload (2): number of its dtype + 256 * number of dimensions,
  `NONE` where there is no payload;
- for each field, in order: the string's bytes (UTF-8), the tuple's ints (8 each), the payload's dimensions (8 each);
  for a tuple of payloads the shape code and dimensions of each.
"""

import struct
import types
from collections.abc import Callable
from dataclasses import fields
from math import prod
from operator import attrgetter
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

from shoal.errors import LocalProtocolError, RemoteProtocolError

__all__ = ["TAG", "Packer"]

TAG = 0x42
"""First byte of a packed header; no msgpack list begins with it."""

NONE = 0xFFFF
"""Shape code of a payload that is not there."""

MAX_DIMENSIONS = 64
"""Most dimensions of a payload: NumPy's own limit."""

_DIMENSIONS = [struct.Struct(f"<{n}Q") for n in range(MAX_DIMENSIONS + 1)]
_CODE = struct.Struct("<H")
_FIXED = {int: "q", float: "d", bool: "?"}

_ALWAYS = object()
"""No field is this."""

Write: TypeAlias = Callable[[Any, list[Any], list[bytes]], int]
"""(value, frames, tail) -> number in the fixed part; appends to frames and tail."""
Read: TypeAlias = Callable[[int, bytes, int, list[Any]], tuple[Any, int]]
"""(number in the fixed part, header, position, frames) -> value, next position; takes its frames from the end."""


class Packer:
    """Header of one message class, both ways.

    Args:
        cls: a frozen dataclass with slots and a ``kind``.
        payload: the class of payloads.
        item_bytes: the dtypes that may travel, with the bytes of one item; their order is their number.
    """

    __slots__ = ("_cls", "_fixed", "_get", "_kind", "_set", "_variable")

    def __init__(self, cls: Any, payload: type[Any], item_bytes: dict[str, int]) -> None:
        names = [f.name for f in fields(cls)]
        hints = get_type_hints(cls)
        coders = _Payloads(payload, item_bytes)
        self._cls, self._kind = cls, cls.kind
        letters = ""
        self._variable: list[tuple[int, Any, int, Write, Read]] = []
        for i, name in enumerate(names):
            letter, write, read = coders.field(hints[name], f"{cls.__name__}.{name}")
            letters += letter
            if write is not None and read is not None:
                self._variable.append((i, *_absent(hints[name], payload), write, read))
        self._fixed = struct.Struct(f"<{letters}")
        self._get = _getter(names)
        self._set = [getattr(cls, n).__set__ for n in names]  # an inherited field has its slot in the base

    @staticmethod
    def fits(cls: Any, payload: type[Any]) -> bool:
        """Whether the class can be packed."""
        hints = get_type_hints(cls)
        return all(_kind_of(hints[f.name], payload) for f in fields(cls))

    def pack(self, m: Any, start: bytes, frames: list[Any]) -> bytes:
        """The header; the payloads' data are appended to ``frames``.

        Raises:
            LocalProtocolError: a value that its field cannot hold.
        """
        values, tail = list(self._get(m)), [start]
        try:
            for i, empty, absent, write, _ in self._variable:
                value = values[i]
                values[i] = absent if value is empty else write(value, frames, tail)
            tail.insert(1, self._fixed.pack(*values))
        except (struct.error, AttributeError, TypeError, KeyError, UnicodeError, OverflowError) as e:
            raise LocalProtocolError(f"{self._cls.__name__} cannot be encoded: {e}") from e
        return b"".join(tail)

    def unpack(self, head: bytes, at: int, frames: list[Any]) -> Any:
        """The message whose fields begin at ``at``; ``frames`` are its payloads' data.

        Raises:
            RemoteProtocolError: names the field that is wrong.
        """
        name = self._cls.__name__
        left = frames[::-1]
        try:
            values = list(self._fixed.unpack_from(head, at))
            at += self._fixed.size
            for i, empty, absent, _, read in self._variable:
                value = values[i]
                if value == absent:
                    values[i] = empty
                else:
                    values[i], at = read(value, head, at, left)
        except struct.error as e:
            raise RemoteProtocolError(f"{name}: a header of {len(head)} bytes ends too early") from e
        if at != len(head):
            raise RemoteProtocolError(f"{name}: a header of {len(head)} bytes, of which {at} have a meaning")
        if left:
            raise RemoteProtocolError(f"{name}: expected {len(frames) - len(left)} payload frames, got {len(frames)}")
        m = object.__new__(self._cls)
        for put, value in zip(self._set, values, strict=True):
            put(m, value)
        return m


def _getter(names: list[str]) -> Callable[[Any], Any]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda m: [getattr(m, n) for n in names]


def _kind_of(hint: Any, payload: type[Any]) -> str:
    """What sort of field this is; "" if it cannot be packed."""
    if hint in _FIXED:
        return _FIXED[hint]
    if hint is str:
        return "str"
    if hint is payload:
        return "payload"
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and args == (payload, type(None)):
        return "payload?"
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        return {int: "ints", payload: "payloads"}.get(args[0], "")
    return ""


def _absent(hint: Any, payload: type[Any]) -> tuple[Any, int]:
    """What most fields of this sort are, with nothing in the tail, and its number in the fixed part."""
    kind = _kind_of(hint, payload)
    if kind == "payload":
        return _ALWAYS, -1
    return {"str": ("", 0), "payload?": (None, NONE)}.get(kind, ((), 0))


class _Payloads:
    """Writers and readers of single fields."""

    def __init__(self, payload: type[Any], item_bytes: dict[str, int]) -> None:
        self._payload = payload
        self._numbers = {name: i for i, name in enumerate(item_bytes)}
        self._dtypes = list(item_bytes.items())
        self._set = [payload.__dict__[n].__set__ for n in ("dtype", "shape", "data")]

    def field(self, hint: Any, where: str) -> tuple[str, Write | None, Read | None]:
        """Letter in the fixed part, writer and reader."""
        kind = _kind_of(hint, self._payload)
        if kind == "str":
            return "I", _write_text, _reader_of_text(where)
        if kind == "ints":
            return "I", _write_ints, _read_ints
        if kind == "payload":
            return "H", self._write, self._reader(where)
        if kind == "payload?":
            return "H", self._write_optional, self._reader_optional(where)
        if kind == "payloads":
            return "I", self._write_all, self._reader_of_all(where)
        return kind, None, None

    def _write(self, p: Any, frames: list[Any], tail: list[bytes]) -> int:
        frames.append(p.data)
        shape = p.shape
        tail.append(_DIMENSIONS[len(shape)].pack(*shape))
        return self._numbers[p.dtype] + (len(shape) << 8)

    def _write_optional(self, p: Any, frames: list[Any], tail: list[bytes]) -> int:
        return NONE if p is None else self._write(p, frames, tail)

    def _write_all(self, payloads: Any, frames: list[Any], tail: list[bytes]) -> int:
        for p in payloads:
            dimensions: list[bytes] = []
            tail.append(_CODE.pack(self._write(p, frames, dimensions)))
            tail += dimensions
        return len(payloads)

    def _reader(self, where: str) -> Read:
        dtypes, cls, (set_dtype, set_shape, set_data) = self._dtypes, self._payload, self._set

        def read(code: int, head: bytes, at: int, left: list[Any]) -> tuple[Any, int]:
            number, n = code & 255, code >> 8
            if number >= len(dtypes):
                raise RemoteProtocolError(f"{where}: dtype {number}; known are the first {len(dtypes)}")
            if n > MAX_DIMENSIONS:
                raise RemoteProtocolError(f"{where}: expected at most {MAX_DIMENSIONS} dimensions, got {n}")
            shape = _DIMENSIONS[n].unpack_from(head, at)
            dtype, want = dtypes[number]
            want *= shape[0] if n == 1 else prod(shape)
            if not left:
                raise RemoteProtocolError(f"{where}: a payload frame is missing")
            data = left.pop()
            have = data.nbytes if isinstance(data, memoryview) else len(data)
            if have != want or (want == 0 and max(shape) >> 48):
                raise RemoteProtocolError(f"{where}: {dtype} {shape} needs {want} bytes, its frame has {have}")
            p = object.__new__(cls)
            set_dtype(p, dtype)
            set_shape(p, shape)
            set_data(p, data)
            return p, at + 8 * n

        return read

    def _reader_optional(self, where: str) -> Read:
        read = self._reader(where)

        def read_optional(code: int, head: bytes, at: int, left: list[Any]) -> tuple[Any, int]:
            return (None, at) if code == NONE else read(code, head, at, left)

        return read_optional

    def _reader_of_all(self, where: str) -> Read:
        read = self._reader(where)

        def read_all(n: int, head: bytes, at: int, left: list[Any]) -> tuple[Any, int]:
            if n > len(left):
                raise RemoteProtocolError(f"{where}: {n} payloads, but {len(left)} frames are left")
            found = []
            for _ in range(n):
                payload, at = read(_CODE.unpack_from(head, at)[0], head, at + _CODE.size, left)
                found.append(payload)
            return tuple(found), at

        return read_all


def _write_text(text: str, frames: list[Any], tail: list[bytes]) -> int:
    data = text.encode()
    tail.append(data)
    return len(data)


def _reader_of_text(where: str) -> Read:
    def read(n: int, head: bytes, at: int, left: list[Any]) -> tuple[Any, int]:
        if at + n > len(head):
            raise RemoteProtocolError(f"{where}: a string of {n} bytes, of which {len(head) - at} are there")
        if not n:
            return "", at
        try:
            return head[at : at + n].decode(), at + n
        except UnicodeDecodeError as e:
            raise RemoteProtocolError(f"{where}: a string that is not UTF-8") from e

    return read


def _write_ints(numbers: Any, frames: list[Any], tail: list[bytes]) -> int:
    tail.append(struct.pack(f"<{len(numbers)}q", *numbers))
    return len(numbers)


def _read_ints(n: int, head: bytes, at: int, left: list[Any]) -> tuple[Any, int]:
    if at + 8 * n > len(head):
        raise struct.error
    return struct.unpack_from(f"<{n}q", head, at), at + 8 * n
