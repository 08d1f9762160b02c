"""What codecs of a GPU share: where the parts of a slice lie, residuals, clocks, gradients that cannot be sent."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from shoal.kvstore.codecs.base import Array
from shoal.kvstore.codecs.encoded import Encoded, Encoding, Span
from shoal.ops import random
from shoal.ops.backend import Namespace
from shoal.ops.gpu.kernels.program import THREADS, flat, function

__all__ = ["SINGLE", "GpuCodec", "Room"]

SINGLE = np.dtype(np.float32)

ALIGN_BYTES = 8
"""Where each part begins."""

FIELDS = 10
"""Numbers of a slice that kernels read; ``codec.cu`` says which."""


class Room(NamedTuple):
    """One array of an encoding, at its largest."""

    dtype: str
    items: int

    @property
    def nbytes(self) -> int:
        """With what alignment adds."""
        return -(-self.items * np.dtype(self.dtype).itemsize // ALIGN_BYTES) * ALIGN_BYTES


class GpuCodec(ABC):
    """A codec for one flat float32 gradient of a GPU.

    Args:
        codec: of the CPU, with its numbers.
        xp: the array namespace of the GPU.
        encoding: slices, and where random numbers are drawn.
        after: number of the last step before the first one.
        kernels: False computes on the array namespace.
    Attributes:
        out: uint8 on the GPU: the parts, and a word that is not 0 if the gradient cannot be sent.
        residual: what was not sent, on the GPU; None for codecs without feedback.
        used: arrays of its own that `encode` writes to, `out` and `residual` among them.
    """

    def __init__(self, codec: Any, xp: Namespace, encoding: Encoding, after: int, kernels: bool) -> None:
        self.codec, self.xp, self.spans = codec, xp, encoding.spans
        self.size = encoding.spans[-1].stop
        self._rooms = [self.rooms(s.size) for s in self.spans]
        self._starts: list[list[int]] = []
        at = 0
        for rooms in self._rooms:
            edges = np.cumsum([at, *[r.nbytes for r in rooms]]).tolist()
            self._starts.append(edges[:-1])
            at = edges[-1]
        module: Any = xp.module
        self._nbytes = at
        self.out = module.zeros((at + 4,), np.uint8)
        self.bad = self.out[at:].view(np.uint32)
        self.residual = module.zeros((self.size,), SINGLE) if codec.has_feedback else None
        self.used = [self.out, *([] if self.residual is None else [self.residual])]
        key, worker = self.address(encoding)
        self.key = xp.asarray(np.array([*key, worker], np.uint64))
        self._after = after
        self.by_kernels = kernels and hasattr(module, "RawModule")
        self._launches: dict[str, Any] = {}
        if self.by_kernels:
            table = [self._row(s, starts) for s, starts in zip(self.spans, self._starts, strict=True)]
            self.table = xp.asarray(np.array(table, np.int64))
            for name in ("codec_bad", *self.kernels()):
                types = (SINGLE, SINGLE) if name in _RESTS else (SINGLE,)
                self._launches[name] = function(xp, "codec.cu", name, *types)
        else:
            self.views = [
                [
                    self.out[a : a + np.dtype(r.dtype).itemsize * r.items].view(r.dtype)
                    for a, r in zip(starts, rooms, strict=True)
                ]
                for starts, rooms in zip(self._starts, self._rooms, strict=True)
            ]

    def _row(self, span: Span, starts: list[int]) -> list[int]:
        offsets = [*starts, 0, 0, 0, 0][:4]
        clock = span.clock - self._after - 1
        return [span.start, span.size, *offsets, span.slice, clock, self.chosen(span.size), self.padded(span.size)]

    def encode(self, grad: Any, step: Any) -> None:
        """Fill `out` from ``grad`` and the residual, which takes what is left. Nobody waits.

        Args:
            grad: flat, float32, on the GPU; not written to.
            step: one uint32 on the GPU: number of the step, one more each time.
        """
        self.bad[...] = 0
        if self.by_kernels:
            if self.looks:
                rest = np.uint64(0) if self.residual is None else self.residual
                self._launches["codec_bad"](*flat(self.size), grad, rest, self.bad, self.size)
            self.launch(grad, step)
            return
        with np.errstate(all="ignore"):  # what comes of infinities is not used, and a GPU says nothing of them
            self._compute_all(self.xp.module, grad, step)

    def _compute_all(self, np_: Any, grad: Any, step: Any) -> None:
        """By functions of the array namespace, slice by slice."""
        total = grad if self.residual is None else self.residual + grad
        if self.looks:
            self.bad[...] = (~np_.isfinite(total)).any()
        for span, parts in zip(self.spans, self.views, strict=True):
            part = total[span.start : span.stop]
            clock = step.astype(np.uint64) + np.uint64((span.clock - self._after - 1) % 2**64)
            sent = self.compute(np_, part, parts, span, clock)
            if self.residual is not None:
                rest = self.residual[span.start : span.stop]
                rest[...] = np_.where(self.bad != 0, rest, part - sent)

    def encoded(self, out: Array) -> Encoded | None:
        """What ``out``, copied to the host, holds: views of it; None if the gradient cannot be sent."""
        if out[self._nbytes :].view(np.uint32)[0]:
            return None
        parts = []
        for starts, rooms in zip(self._starts, self._rooms, strict=True):
            cut = [
                out[a : a + np.dtype(r.dtype).itemsize * r.items].view(r.dtype)
                for a, r in zip(starts, rooms, strict=True)
            ]
            parts.append(self.trimmed(cut))
        return Encoded(self.codec.spec(), tuple(parts))

    # --- what a codec says of itself ---------------------------------------------------------------------------------

    looks = True
    """Gradients that are not finite are looked for first."""

    @abstractmethod
    def rooms(self, n: int) -> list[Room]:
        """The parts of a slice of ``n`` values."""

    @abstractmethod
    def kernels(self) -> tuple[str, ...]:
        """Those of ``codec.cu`` that `launch` needs."""

    @abstractmethod
    def launch(self, grad: Any, step: Any) -> None:
        """By kernels."""

    @abstractmethod
    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        """By functions of the array namespace: fill the parts of a slice; with feedback, give what they stand for.

        Args:
            total: the slice of the gradient, with what was left.
            clock: one uint64 on the GPU.
        """

    def trimmed(self, parts: list[Array]) -> tuple[Array, ...]:
        """The parts of a slice as they travel."""
        return tuple(parts)

    def chosen(self, n: int) -> int:
        """How many of ``n`` values are sent; all where it does not matter."""
        return n

    def padded(self, n: int) -> int:
        """``n`` with what fills up the last group."""
        return n

    def address(self, encoding: Encoding) -> tuple[list[int], int]:
        """The key of random numbers, and the worker."""
        source: Any = random.stream(encoding.seed, f"codec/{self.codec.name}").bit_generator
        return source.state["state"]["key"].tolist(), encoding.worker

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def run(self, name: str, count: int, *args: Any) -> None:
        """Launch a kernel for ``count`` items of each slice."""
        (blocks, _, _), block = flat(count)
        self._launches[name]((blocks, len(self.spans), 1), block, *args)

    def run_blocks(self, name: str, blocks: int, threads: int, *args: Any) -> None:
        """Launch a kernel with so many blocks for each slice."""
        self._launches[name]((blocks, len(self.spans), 1), (threads, 1, 1), *args)

    @property
    def longest(self) -> int:
        """Elements of the largest slice."""
        return max(s.size for s in self.spans)

    @property
    def rest(self) -> Any:
        """The residual for a kernel: null if there is none."""
        return np.uint64(0) if self.residual is None else self.residual


_RESTS = frozenset(["codec_bad", "codec_two", "codec_one", "codec_sign"])
"""Kernels that are templates of the residual's type, too."""

assert THREADS == 256, "kernels of groups are made for blocks of 256"


def pack(codes: Any, bits: int) -> Any:
    """Codes of 1, 2 or 4 bits, each a uint8, the first in the highest bits of the first byte."""
    per = 8 // bits
    rows = codes.reshape(-1, per)
    packed = rows[:, 0] << np.uint8(8 - bits)
    for k in range(1, per):
        packed = packed | (rows[:, k] << np.uint8(8 - bits * (k + 1)))
    return packed


def filled(np_: Any, values: Any, size: int, fill: Any = 0) -> Any:
    """``values`` and behind them as many of ``fill`` as ``size`` has room for."""
    room = np_.full((size,), fill, values.dtype)
    room[: values.size] = values
    return room
