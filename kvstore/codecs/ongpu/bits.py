"""Codecs that look at each value by itself: 2bit, 1bit, sign and fp16."""

from typing import Any

import numpy as np

from shoal.kvstore.codecs.encoded import Span
from shoal.kvstore.codecs.ongpu.base import SINGLE, GpuCodec, Room, filled, pack

__all__ = ["GpuHalf", "GpuOneBit", "GpuSign", "GpuTwoBit", "signs"]


def signs(np_: Any, values: Any, clock: Any) -> Any:
    """Whether values are sent as +; a zero is + and - in turn over positions and clocks."""
    odd = ((np_.arange(values.size, dtype=np.uint64) + clock) & np.uint64(1)) != 0
    return (values > 0) | ((values == 0) & odd)


class _Bits(GpuCodec):
    """Codes of 1 or 2 bits in 32-bit words."""

    def rooms(self, n: int) -> list[Room]:
        (part,) = self.codec.layout(SINGLE)
        return [Room(part.dtype, part.size(n))]


class GpuTwoBit(_Bits):
    """See `shoal.kvstore.codecs.signs.TwoBit`."""

    def kernels(self) -> tuple[str, ...]:
        return ("codec_two",)

    def launch(self, grad: Any, step: Any) -> None:
        given = (grad, self.residual, self.bad, self.table, self.out, self.codec.threshold)
        self.run("codec_two", -(-self.longest // 4), *given)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        t = SINGLE.type(self.codec.threshold)
        up, down = total >= t, total <= -t
        codes = ((up | down).astype(np.uint8) << np.uint8(1)) | up.astype(np.uint8)
        parts[0].view(np.uint8)[...] = pack(filled(np_, codes, parts[0].size * 16), 2)
        return np_.where(up, t, np_.where(down, -t, SINGLE.type(0)))


class GpuOneBit(_Bits):
    """See `shoal.kvstore.codecs.signs.OneBit`."""

    def kernels(self) -> tuple[str, ...]:
        return ("codec_one",)

    def launch(self, grad: Any, step: Any) -> None:
        given = (grad, self.residual, self.bad, self.table, self.out, self.codec.threshold)
        self.run("codec_one", -(-self.longest // 8), *given)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        t = SINGLE.type(self.codec.threshold)
        up = total > t
        parts[0].view(np.uint8)[...] = pack(filled(np_, up.astype(np.uint8), parts[0].size * 32, int(t < 0)), 1)
        return np_.where(up, SINGLE.type(1), SINGLE.type(-1))


class GpuSign(_Bits):
    """See `shoal.kvstore.codecs.signs.Sign`."""

    def kernels(self) -> tuple[str, ...]:
        return ("codec_sign",)

    def launch(self, grad: Any, step: Any) -> None:
        self.run("codec_sign", -(-self.longest // 8), grad, self.bad, step, self.table, self.out)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        bits = signs(np_, total, clock).astype(np.uint8)
        parts[0].view(np.uint8)[...] = pack(filled(np_, bits, parts[0].size * 32), 1)
        return None


class GpuHalf(GpuCodec):
    """See `shoal.kvstore.codecs.plain.FP16`: infinities pass, and finite values that would become some are refused."""

    looks = False

    def rooms(self, n: int) -> list[Room]:
        return [Room("<f2", n)]

    def kernels(self) -> tuple[str, ...]:
        return ("codec_half",)

    def launch(self, grad: Any, step: Any) -> None:
        self.run("codec_half", self.longest, grad, self.bad, self.table, self.out)

    def compute(self, np_: Any, total: Any, parts: list[Any], span: Span, clock: Any) -> Any:
        parts[0][...] = total
        self.bad[...] = self.bad | (np_.isinf(parts[0]) & np_.isfinite(total)).any()
        return None
