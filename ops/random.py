"""Addressed randomness: what is drawn depends on where in the run it is drawn, not on what was drawn before.

A stream of numbers has an *address*: (seed of the run, purpose, worker, step, index). The seed and the purpose, a text
such as "dropout", are hashed to the key of Philox, a counter-based generator (Salmon et al., SC'11); worker, step and
index are words of its counter. So a run that is resumed, replayed or re-distributed needs no generator state: at the
same address there are the same bits, on every machine.

Each thread has a current address. `set_address` says which worker and step it is at; draws count up ``index`` from
there. Nothing depends on Python's ``hash`` or on NumPy's global state.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from shoal.errors import GraphError
from shoal.ops import philox
from shoal.ops.registry import Array, Op, Shape, Spec, op

__all__ = [
    "KEY_SPEC",
    "KEY_WORDS",
    "Address",
    "address",
    "at",
    "current_seed",
    "generator",
    "key_source",
    "keys_placed",
    "next_key",
    "seed",
    "set_address",
    "stream",
    "undraw",
]

KEY_WORDS = 5
"""A random key is an array of this many uint64: two from (seed, purpose), then index, step, worker."""

KEY_SPEC = Spec((KEY_WORDS,), np.dtype(np.uint64))
"""Shape and dtype of a random key."""


class Address(NamedTuple):
    """Where in a run this thread is, and how many draws it has made there."""

    seed: int
    worker: int
    step: int
    drawn: int


class _State(threading.local):
    seed: int | None = None  # None: the process's
    worker = 0
    step = 0
    drawn = 0
    key_source: Callable[[str], Any] | None = None
    placing: Callable[[str, Any], Any] | None = None


_state = _State()
_process_seed = 0


def seed(n: int) -> None:
    """Seed the run: for this thread, and for all that have not been given a seed of their own. Step 0 begins.

    Args:
        n: any integer. Without a call the seed is 0.
    """
    global _process_seed
    _process_seed = int(n)
    set_address(seed=n, step=0)


@contextmanager
def at(address: Address) -> Iterator[None]:
    """Within this context this thread draws what it drew after it was at ``address``; afterwards it is where it was."""
    s = _state
    before = s.seed, s.worker, s.step, s.drawn, s.key_source
    s.seed, s.worker, s.step, s.drawn, s.key_source = *address, None
    try:
        yield
    finally:
        s.seed, s.worker, s.step, s.drawn, s.key_source = before


def current_seed() -> int:
    """The seed that draws of this thread use."""
    return _process_seed if _state.seed is None else _state.seed


def set_address(*, seed: int | None = None, worker: int | None = None, step: int | None = None) -> None:
    """Move this thread to another place in the run; what is not given stays. The count of draws starts again at 0.

    Setting the same address again makes the following draws the same, bit for bit.

    Raises:
        ValueError: a negative worker or step.
    """
    if (worker or 0) < 0 or (step or 0) < 0:
        raise ValueError(f"worker and step of an address must not be negative, got worker={worker}, step={step}")
    if seed is not None:
        _state.seed = int(seed)
    if worker is not None:
        _state.worker = int(worker)
    if step is not None:
        _state.step = int(step)
    _state.drawn = 0


def address() -> Address:
    """This thread's address."""
    return Address(current_seed(), _state.worker, _state.step, _state.drawn)


@lru_cache(maxsize=1024)
def _hashed(seed: int, purpose: str) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16, person=b"shoal random").digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def _philox(words: Any) -> np.random.Generator:
    k0, k1, index, step, worker = (int(w) for w in words)
    return np.random.Generator(np.random.Philox(key=k0 + (k1 << 64), counter=_counter(index, step, worker)))


def _counter(index: int, step: int, worker: int) -> int:
    return (index << 64) + (step << 128) + (worker << 192)  # the lowest word counts within the stream


def stream(seed: int, purpose: str, worker: int = 0, step: int = 0, index: int = 0) -> np.random.Generator:
    """A NumPy generator for one address; two addresses that differ anywhere have independent streams.

    Args:
        seed: any integer.
        purpose: what the numbers are for, such as "shuffle".
        worker, step, index: from 0 to 2**64 - 1.

    >>> a, b = stream(7, "shuffle", step=3), stream(7, "shuffle", step=3)
    >>> bool((a.random(4) == b.random(4)).all())
    True
    """
    return _philox((*_hashed(int(seed), purpose), index, step, worker))


def next_key(purpose: str) -> Any:
    """A key for one random operation at this thread's address: `KEY_WORDS` uint64. Counts as a draw.

    Within `keys_placed` it is what that makes of it: an array that a recorded step reads anew each time.
    """
    words = _next_words(purpose)
    return words if _state.placing is None else _state.placing(purpose, words)


def undraw() -> None:
    """The last draw of this thread was none: its key had been drawn before."""
    _state.drawn -= 1


@contextmanager
def keys_placed(place: Callable[[str, Any], Any]) -> Iterator[None]:
    """Within this context this thread's keys are what ``place(purpose, words)`` gives."""
    before, _state.placing = _state.placing, place
    try:
        yield
    finally:
        _state.placing = before


def _next_words(purpose: str) -> Any:
    k0, k1 = _hashed(current_seed(), purpose)
    words = np.array([k0, k1, _state.drawn, _state.step, _state.worker], dtype=np.uint64)
    _state.drawn += 1
    return words


@contextmanager
def keys_from(source: Callable[[str], Any]) -> Iterator[None]:
    """Within this context this thread's random functions take their keys from ``source(purpose)``.

    A tracer gives symbols, so that a graph draws new numbers at each run.
    """
    before, _state.key_source = _state.key_source, source
    try:
        yield
    finally:
        _state.key_source = before


def key_source() -> Callable[[str], Any]:
    """Where this thread's random functions take their keys from now: `next_key`, unless `keys_from` says otherwise."""
    return _state.key_source or next_key


def key(purpose: str) -> Any:
    """A key for one random operation: `next_key`, or a symbol while a model is traced."""
    return next_key(purpose) if _state.key_source is None else _state.key_source(purpose)


def generator(purpose: str) -> np.random.Generator:
    """A generator for one random operation at this thread's address. Counts as a draw.

    Raises:
        GraphError: a model is being traced, and what the generator gives would be the same at every run.
    """
    if _state.key_source is not None:
        raise GraphError(
            f"random.{purpose} cannot become part of a graph; uniform, normal, bernoulli and dropout can. "
            "Draw outside the block and pass the numbers in."
        )
    return _philox(next_key(purpose))


def _drawn(op: Op[Any], key: Spec, *, shape: Shape, dtype: str = "float32", **_: Any) -> Spec:
    return Spec(tuple(shape), np.dtype(dtype))


@op(_drawn)
def dropout_mask(xp: Any, key: Array, shape: Shape, p: float, dtype: str = "float32") -> Any:
    """A random array with which dropout multiplies: 0 with probability ``p``, elsewhere 1 / (1 - p).

    ``p`` is rounded to a multiple of 2**-16, and the scale with it, so that the mean is exactly 1.

    Args:
        key: from `next_key`; the same key gives the same mask.
    """
    dropped = min(round(p * 65536), 65536)
    if dropped == 65536:
        return xp.zeros(shape, dtype)
    scale: Any = np.asarray(65536.0 / (65536 - dropped), dtype)
    if not xp.host:
        bits = philox.bits16(xp, key, math.prod(shape)).reshape(shape)
        return (bits >= np.uint16(dropped)).astype(dtype) * scale[()]
    bits = _philox(key.tolist()).integers(0, 65536, size=shape, dtype=np.uint16)
    return np.multiply(bits >= dropped, scale, dtype=dtype)


@op(_drawn)
def random_uniform(xp: Any, key: Array, shape: Shape, dtype: str = "float32") -> Any:
    """Random numbers from 0 up to, but without, 1.

    Args:
        key: from `next_key`; the same key gives the same numbers.
    """
    kind: Any = np.float64 if dtype == "float64" else np.float32
    drawn = _philox(key.tolist()).random(shape, dtype=kind) if xp.host else _uniform(xp, key, shape, kind)
    if dtype == "float16":  # rounding could give 1
        drawn = xp.minimum(drawn, np.float32(1 - 2**-11))
    return drawn.astype(dtype, copy=False)


def _uniform(xp: Any, key: Any, shape: Shape, kind: Any) -> Any:
    """What NumPy's generator makes of the bits: 53 of 64, or 24 of each 32, the lower half first."""
    count = math.prod(shape)
    if kind is np.float64:
        return ((philox.bits64(xp, key, count) >> np.uint64(11)).astype(kind) * 2.0**-53).reshape(shape)
    words = philox.bits64(xp, key, -(-count // 2))
    halves = xp.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=1).reshape(-1)[:count]
    return ((halves >> np.uint64(8)).astype(kind) * np.float32(2.0**-24)).reshape(shape)


@op(_drawn)
def random_normal(xp: Any, key: Array, shape: Shape, dtype: str = "float32") -> Any:
    """Random numbers of the standard normal distribution.

    Args:
        key: from `next_key`; the same key gives the same numbers.
    """
    kind: Any = np.float64 if dtype == "float64" else np.float32
    return xp.asarray(_philox(key.tolist()).standard_normal(shape, dtype=kind).astype(dtype, copy=False))
