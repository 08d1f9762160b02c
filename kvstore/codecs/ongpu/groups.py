"""Codecs whose values share a scale by groups: int8, qsgd, onebit and efsign."""

from typing import Any

import numpy as np

from shoal.kvstore.codecs.dither import CHUNK
from shoal.kvstore.codecs.encoded import Encoding, Span
from shoal.kvstore.codecs.levels import QSGD, offset_of
from shoal.kvstore.codecs.ongpu.base import SINGLE, GpuCodec, Room, filled, pack
from shoal.kvstore.codecs.ongpu.bits import signs
from shoal.kvstore.codecs.signs import EFSign
from shoal.kvstore.codecs.sums import ordered
from shoal.ops import philox
from shoal.ops.backend import Namespace

__all__ = ["GpuLevels", "GpuMeans"]

THREADS = 256


class _Groups(GpuCodec):
    def __init__(self, codec: Any, xp: Namespace, encoding: Encoding, after: int, kernels: bool) -> None:
        self.group = int(codec.bucket if isinstance(codec, QSGD) else codec.block)
        super().__init__(codec, xp, encoding, after, kernels)

    def rooms(self, n: int) -> list[Room]:
        return [Room(p.dtype, p.size(n)) for p in self.codec.layout(SINGLE)]

    def padded(self, n: int) -> int:
        return -(-n // self.group) * self.group

    def run_groups(self, name: str, *args: Any) -> None:
        """A block for each group."""
        self.run_blocks(name, -(-self.longest // self.group), THREADS, *args)

    def rows(self, np_: Any, total: Any) -> Any:
        """The values by groups, the last one filled up with zeros."""
        return filled(np_, total, self.padded(total.size)).reshape(-1, self.group)


class GpuLevels(_Groups):
    """See `shoal.kvstore.codecs.levels`: levels of the largest magnitude, or of the norm, rounded stochastically."""

    def __init__(self, codec: Any, xp: Namespace, encoding: Encoding, after: int, kernels: bool) -> None:
        self.of_norm = isinstance(codec, QSGD)
        self.top = codec.levels if self.of_norm else 127
        self.bits = 2 if self.top == 1 else 4 if self.top <= 7 else 8 if self.top <= 127 else 16
        self.add = {2: 0, 4: 8 - offset_of(self.top)}.get(self.bits, -offset_of(self.top))
        super().__init__(codec, xp, encoding, after, kernels)
        self._words = max(self.words(s.size) for s in self.spans)
        if self.by_kernels:
            stride = -(-self._words // 4) * 4
            self.numbers = xp.zeros((len(self.spans), stride), np.uint64)
            self.used.append(self.numbers)

    def words(self, n: int) -> int:
        """Random words that a slice draws."""
        padded = self.padded(n)
        return padded // (4 * CHUNK) + 1 + -(-min(padded, CHUNK) // 4)

    def kernels(self) -> tuple[str, ...]:
        return ("codec_dither", "codec_levels")

    def launch(self, grad: Any, step: Any) -> None:
        stride = int(self.numbers.shape[1])
        self.run("codec_dither", -(-self._words // 4), self.key, self.bad, step, self.table, self.numbers, stride)
        shape = (self.group, stride, self.top, self.bits, self.add, int(self.of_norm))
        self.run_groups("codec_levels", grad, self.rest, self.bad, self.table, self.numbers, self.out, *shape)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        rows = self.rows(np_, total)
        length = self.lengths(np_, rows)
        info, one = np.finfo(np.float32), SINGLE.type(1)
        unit = np_.minimum(length, info.max) / SINGLE.type(self.top)
        inverse = one / np_.maximum(unit, 2 * info.tiny)
        unit = np_.where(unit >= 2 * info.tiny, unit, SINGLE.type(0))
        parts[1][...] = unit
        scaled = (rows * inverse[:, None]).reshape(-1) + self.above(np_, span, clock)
        codes = np_.minimum(scaled.astype(np.int32), np.int32(offset_of(self.top) + self.top)) + np.int32(self.add)
        if self.bits >= 8:
            parts[0][...] = codes[: span.size].astype(parts[0].dtype)
        else:
            bytes_ = pack(codes.astype(np.uint8), self.bits)
            view = parts[0].view(np.uint8)
            view[...] = bytes_[: view.size]
        if self.residual is None:
            return None
        return (codes.reshape(rows.shape).astype(np.float32) * unit[:, None]).reshape(-1)[: span.size]

    def lengths(self, np_: Any, rows: Any) -> Any:
        """Of each group: the largest magnitude, or the norm."""
        top = np_.abs(rows).max(axis=1)
        if not self.of_norm:
            return top
        info = np.finfo(np.float32)
        squares = ordered(rows * rows)
        relative = rows / np_.maximum(top, info.tiny)[:, None]
        others = top * np_.sqrt(ordered(relative * relative))
        plain = (squares > info.tiny / info.eps**2) & (squares <= info.max)
        return np_.where(plain, np_.sqrt(squares), others)

    def above(self, np_: Any, span: Span, clock: Any) -> Any:
        """What is added before values are cut to whole numbers; see `shoal.kvstore.codecs.dither`."""
        n = self.padded(span.size)
        index = np_.full((1,), span.slice, np.uint64)
        key = np_.concatenate([self.key[:2], index, clock, self.key[2:]])
        words = philox.bits64(np_, key, self.words(span.size))
        numbers = np_.stack([(words >> np.uint64(16 * i)).astype(np.uint16) for i in range(4)], axis=1).reshape(-1)
        uses = 4 * (n // (4 * CHUNK) + 1)
        at = np_.arange(n, dtype=np.int64)
        found = np_.take(numbers[uses:], at % CHUNK) ^ np_.take(numbers[:uses], at // CHUNK)
        shift = 7 - (offset_of(self.top).bit_length() - 1)
        wide = found.astype(np.uint32)
        wide = wide << np.uint32(shift) if shift >= 0 else wide >> np.uint32(-shift)
        half = 1 << (shift - 1) if shift > 0 else 0
        ones = int(np.float32(offset_of(self.top)).view(np.uint32)) | half
        return (wide | np.uint32(ones)).view(np.float32)


class GpuMeans(_Groups):
    """See `shoal.kvstore.codecs.signs`: signs and mean magnitudes (efsign), or the means of both signs (onebit)."""

    def __init__(self, codec: Any, xp: Namespace, encoding: Encoding, after: int, kernels: bool) -> None:
        super().__init__(codec, xp, encoding, after, kernels)
        self._there = {} if self.by_kernels else {s: self._counted(s.size) for s in self.spans}

    def _counted(self, n: int) -> tuple[Any, Any]:
        """Which places of the groups have values, and how many each group has."""
        sizes = np.full(self.padded(n) // self.group, self.group, np.int64)
        sizes[-1] -= self.padded(n) - n
        return self.xp.asarray(np.arange(self.group) < sizes[:, None]), self.xp.asarray(sizes.astype(np.float64))

    def kernels(self) -> tuple[str, ...]:
        return ("codec_means",)

    @property
    def even(self) -> bool:
        """One magnitude for both signs."""
        return isinstance(self.codec, EFSign)

    def launch(self, grad: Any, step: Any) -> None:
        given = (grad, self.residual, self.bad, step, self.table, self.out, self.group, int(self.even))
        self.run_groups("codec_means", *given)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        rows = self.rows(np_, total)
        (valid, sizes), zero = self._there[span], SINGLE.type(0)
        if self.even:
            up = (filled(np_, signs(np_, total, clock), rows.size, False)).reshape(rows.shape)
            above = (self.sums(np_, np_.abs(rows)) / sizes).astype(np.float32)
            below = -above
            parts[1][...] = above
        else:
            up = (rows >= 0) & valid
            count = up.sum(axis=1).astype(np.float64)
            few, more = np_.maximum(sizes - count, 1.0), np_.maximum(count, 1.0)
            below = (self.sums(np_, np_.minimum(rows, zero)) / few).astype(np.float32) + zero
            above = (self.sums(np_, np_.maximum(rows, zero)) / more).astype(np.float32) + zero
            parts[1][...] = np_.stack([below, above], axis=1).reshape(-1)
        view = parts[0].view(np.uint8)
        view[...] = pack(up.reshape(-1).astype(np.uint8), 1)[: view.size]
        return np_.where(up, above[:, None], below[:, None]).reshape(-1)[: span.size]

    @staticmethod
    def sums(np_: Any, rows: Any) -> Any:
        """In float64; what overflows in float32 is added in float64."""
        found = ordered(rows)
        wide = ordered(rows.astype(np.float64) * 2.0**-16) * 2.0**16
        return np_.where(np_.isfinite(found), found.astype(np.float64), wide)
