"""Codecs that send few values and where they are: topk and randomk."""

from typing import Any

import numpy as np

from shoal.kvstore.codecs.base import Array
from shoal.kvstore.codecs.encoded import Encoding, Span
from shoal.kvstore.codecs.ongpu.base import GpuCodec, Room
from shoal.kvstore.codecs.sparse import how_many
from shoal.ops import philox
from shoal.ops.backend import Namespace
from shoal.ops.gpu.kernels.program import flat

__all__ = ["GpuRandomK", "GpuTopK"]

THREADS = 512


class GpuTopK(GpuCodec):
    """See `shoal.kvstore.codecs.sparse.TopK`. How many values there are is known on the GPU only: a part of its own."""

    def rooms(self, n: int) -> list[Room]:
        k = self.chosen(n)
        return [Room("<f4", k), Room("<u2", k), Room("<u4", -(-n >> 16)), Room("<u4", 1)]

    def chosen(self, n: int) -> int:
        return how_many(n, self.codec.ratio)

    def trimmed(self, parts: list[Array]) -> tuple[Array, ...]:
        values, low, counts, found = parts
        return values[: found[0]], low[: found[0]], counts

    def kernels(self) -> tuple[str, ...]:
        return ("codec_top",)

    def launch(self, grad: Any, step: Any) -> None:
        self.run_blocks("codec_top", 1, THREADS, grad, self.residual, self.bad, self.table, self.out)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        n, k = span.size, self.chosen(span.size)
        places = np_.arange(n, dtype=np.uint64)
        sizes = np_.abs(total).view(np.uint32).astype(np.uint64)
        last = np.uint64(0xFFFFFFFF)
        ranked = np_.sort((sizes << np.uint64(32)) | (last - places))[n - k :]  # of equals the first is the greatest
        some = (ranked >> np.uint64(32)) != 0
        at = np_.sort(np_.where(some, last - (ranked & last), np.uint64(n)))
        inside = at < np.uint64(n)
        parts[0][...] = np_.where(inside, np_.take(total, np_.minimum(at, np.uint64(n - 1)).astype(np.int64)), 0)
        parts[1][...] = (at & np.uint64(0xFFFF)).astype(np.uint16)
        for j in range(parts[2].size):
            parts[2][j : j + 1] = (inside & ((at >> np.uint64(16)) == np.uint64(j))).sum().astype(np.uint32)
        parts[3][...] = some.sum().astype(np.uint32)
        chosen = np_.zeros(n + 1, np.bool_)
        chosen[at.astype(np.int64)] = True
        return np_.where(chosen[:n], total, np.float32(0))


class GpuRandomK(GpuCodec):
    """See `shoal.kvstore.codecs.sparse.RandomK`."""

    def __init__(self, codec: Any, xp: Namespace, encoding: Encoding, after: int, kernels: bool) -> None:
        super().__init__(codec, xp, encoding, after, kernels)
        self._ranges = {} if self.by_kernels else {s: self._cut(s.size) for s in self.spans}

    def _cut(self, n: int) -> tuple[Any, Any]:
        """Where the ranges begin, and their sizes."""
        k = self.chosen(n)
        edges = np.arange(k + 1, dtype=np.int64) * n // k
        return self.xp.asarray(edges[:-1]), self.xp.asarray(np.diff(edges))

    def rooms(self, n: int) -> list[Room]:
        return [Room("<f4", self.chosen(n)), Room("<u8", 6)]

    def chosen(self, n: int) -> int:
        return how_many(n, self.codec.ratio)

    def address(self, encoding: Encoding) -> tuple[list[int], int]:
        key, worker = super().address(encoding)
        return key, 0 if self.codec.shared else worker

    def kernels(self) -> tuple[str, ...]:
        return ("codec_add", "codec_some")

    def launch(self, grad: Any, step: Any) -> None:
        if self.residual is not None:
            self._launches["codec_add"](*flat(self.size), grad, self.residual, self.bad, self.size)
        given = (grad, self.rest, self.bad, step, self.key, self.table, self.out)
        self.run("codec_some", self.chosen(self.longest), *given)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        n, k = span.size, self.chosen(span.size)
        index = np_.full((1,), span.slice, np.uint64)
        key = np_.concatenate([self.key[:2], index, clock, self.key[2:]])
        words = philox.bits64(np_, key, -(-k // 2))
        draws = np_.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=1).reshape(-1)[:k]
        begins, sizes = self._ranges[span]
        at = begins + ((draws * sizes.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
        values = np_.take(total, at)
        if self.residual is None:
            values = values * sizes.astype(np.float32)
        parts[0][...] = values
        parts[1][...] = np_.concatenate([key[:2], np_.zeros(1, np.uint64), key[2:]])
        if self.residual is None:
            return None
        chosen = np_.zeros(n, np.bool_)
        chosen[at] = True
        return np_.where(chosen, total, np.float32(0))
