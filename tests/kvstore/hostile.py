"""Messages that nobody honest sends: every class filled with extremes, and bytes that are damaged on purpose."""

import random
import struct
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgpack
import numpy as np

from shoal.kvstore.arrays import as_payload, dtype_named
from shoal.kvstore.wire.codec import encode
from shoal.kvstore.wire.messages import PROTOCOL
from shoal.kvstore.wire.schema import ITEM_BYTES, KINDS, Message, Payload

INTS = (0, 1, 2, 7, -1, 255, 2**31, 2**32 - 1, 2**53, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e308, -1e308, float("inf"), float("nan"))
TEXTS = ("", "a", "bsp", "mean", "w0", "\0", "../../etc/passwd", "é" * 300, "x" * 5000, "%s%n", "__import__('os')")
PLAIN = (None, True, 3, -1.5, "a", [1, [2, [3]]], {"lr": 0.1, "b": [None, "x"]}, {})


def value(hint: Any, rng: random.Random) -> Any:
    """Anything that a field of this type may hold, extremes first."""
    if hint in (int, float, bool, str):
        return rng.choice({int: INTS, float: FLOATS, bool: (True, False), str: TEXTS}[hint])
    if hint is Any:
        return rng.choice(PLAIN)
    if hint is Payload:
        shape = tuple(rng.choice((0, 1, 2, 3)) for _ in range(rng.choice((0, 1, 1, 2, 3))))
        return as_payload(np.zeros(shape, dtype_named(rng.choice(list(ITEM_BYTES)))))
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple(value(args[0], rng) for _ in range(rng.choice((0, 1, 2, 5))))
    if origin is dict:
        return {rng.choice(TEXTS): value(args[1], rng) for _ in range(rng.choice((0, 1, 3)))}
    if origin in (Union, types.UnionType):
        return value(args[0], rng) if rng.random() < 0.5 else None
    return hint(**{n: value(h, rng) for n, h in get_type_hints(hint).items() if n in hint.__slots__})


def message(rng: random.Random, flow: str = "", **fixed: Any) -> Message:
    """One of any class of this flow; ``fixed`` fields are set where the class has them."""
    cls = rng.choice([c for c in KINDS.values() if flow in c.flow])
    hints = get_type_hints(cls)
    made = cls(**{n: value(hints[n], rng) for n in cls.names})
    return replace(made, **{n: v for n, v in fixed.items() if n in cls.names})


def damaged(rng: random.Random) -> Iterator[list[bytes]]:
    """Frames without end: whole messages, cut, stretched, flipped, mixed up, mistyped, or nested without bottom."""
    while True:
        frames = [bytes(f) for f in encode(message(rng))]
        yield rng.choice(DAMAGE)(frames, rng)


def _cut(frames: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(frames))
    return [*frames[:i], frames[i][: rng.randrange(len(frames[i]) + 1)], *frames[i + 1 :]]


def _stretch(frames: list[bytes], rng: random.Random) -> list[bytes]:
    i = rng.randrange(len(frames))
    return [*frames[:i], frames[i] + rng.randbytes(rng.choice((1, 8, 4096))), *frames[i + 1 :]]


def _flip(frames: list[bytes], rng: random.Random) -> list[bytes]:
    head = bytearray(frames[0])
    for _ in range(rng.choice((1, 1, 2, 8))):
        head[rng.randrange(len(head))] ^= 1 << rng.randrange(8)
    return [bytes(head), *frames[1:]]


def _huge(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """A count or a length somewhere says 2**32 - 1, or 2**63 - 1."""
    head = bytearray(frames[0])
    number = rng.choice((struct.pack("<I", 2**32 - 1), struct.pack("<Q", 2**63 - 1), b"\xdd\xff\xff\xff\xff"))
    at = rng.randrange(4, len(head) + 1) if len(head) > 4 else len(head)
    head[at : at + len(number)] = number
    return [bytes(head), *frames[1:]]


def _frames(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """Too few, too many, in another order, or none at all."""
    extra = [rng.randbytes(16)] * rng.choice((0, 0, 1, 300))
    mixed = [*frames, *extra]
    rng.shuffle(mixed)
    return mixed[: rng.randrange(len(mixed) + 1)]


def _mistype(frames: list[bytes], rng: random.Random) -> list[bytes]:
    kind = rng.choice([*KINDS, 0, -1, 10**6, "Push", None])
    fields = [rng.choice([*PLAIN, b"raw", *INTS[:9]]) for _ in range(rng.randrange(12))]
    return [msgpack.packb([rng.choice((PROTOCOL, PROTOCOL, 0, 2**40, "1")), kind, *fields]), *frames[1:]]


def _nest(frames: list[bytes], rng: random.Random) -> list[bytes]:
    depth = rng.choice((20, 500, 5000, 100_000))
    return [rng.choice((b"\x91", b"\x81\xa1a")) * depth + b"\xc0", *frames[1:]]


def _noise(frames: list[bytes], rng: random.Random) -> list[bytes]:
    return [rng.randbytes(rng.choice((0, 1, 3, 40, 1000))) for _ in range(rng.choice((1, 1, 2, 4)))]


DAMAGE: tuple[Callable[[list[bytes], random.Random], list[bytes]], ...] = (
    lambda frames, rng: frames,
    _cut,
    _stretch,
    _flip,
    _huge,
    _frames,
    _mistype,
    _nest,
    _noise,
)
