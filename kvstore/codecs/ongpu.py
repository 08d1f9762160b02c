"""Codecs on a GPU, before the copy to the host: what is copied, and sent, is what the codec of the CPU would send.

Only codecs whose decoded values encode to the same bits again are here: the host decodes what it gets, and the store,
which has the same codec, sends the very bits that the GPU made, by slices and with answers of its own. What was not
sent stays on the GPU, in float32; what a server refuses goes to the residual on the host, and is sent later.

On a GPU kernels do it (``ops/gpu/c/codec.cu``); where there are none, functions of the array namespace, to the same
bits. Neither waits: that a gradient cannot be sent is a word behind the parts, which the host reads with them.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.codecs.base import Array, Codec
from shoal.kvstore.codecs.plain import FP16
from shoal.kvstore.codecs.registry import Spec, parse
from shoal.kvstore.codecs.signs import OneBit, Sign, TwoBit
from shoal.ops.gpu.kernels.program import flat, function

__all__ = ["GpuCodec", "gpu_codec", "runs_on_gpu"]

SINGLE = np.dtype(np.float32)


class GpuCodec(ABC):
    """A codec for one flat float32 gradient of a GPU.

    Args:
        codec: of the CPU, with its numbers.
        xp: the array namespace of the GPU.
        size: of the gradient.
        kernels: False computes on the array namespace, to compare.
    Attributes:
        out: uint8 on the GPU: the parts, and a word that is not 0 if the gradient cannot be sent.
        residual: what was not sent, on the GPU; None for codecs without feedback.
    """

    def __init__(self, codec: Any, xp: Any, size: int, kernels: bool = True) -> None:
        self.codec, self.xp, self.size = codec, xp, size
        self.nbytes = -(-codec.encoded_bytes(size) // 4) * 4
        self.out = xp.module.zeros((self.nbytes + 4,), np.uint8)
        self.parts, self.bad = self.out[: self.nbytes], self.out[self.nbytes :].view(np.uint32)
        self.residual = xp.module.zeros((size,), SINGLE) if codec.has_feedback else None
        self.by_kernels = kernels and hasattr(xp.module, "RawModule")
        self._launches: dict[str, Any] = {}
        if self.by_kernels:
            self.load()

    def encode(self, grad: Any, step: Any) -> None:
        """Fill `out` from ``grad`` and the residual, which takes what is left. Nobody waits.

        Args:
            grad: flat, float32, on the GPU; not written to.
            step: one uint32 on the GPU: how many gradients there were, with this one.
        """
        self.bad[...] = 0
        if self.by_kernels:
            self.launch(grad, step)
        else:
            self.compute(self.xp.module, grad, step)

    def decode(self, out: Array, values: Array) -> bool:
        """Write what ``out``, copied to the host, stands for to ``values``; False if the gradient cannot be sent."""
        if out[self.nbytes :].view(np.uint32)[0]:
            return False
        (part,) = self.codec.layout(SINGLE)
        count = part.size(self.size) * np.dtype(part.dtype).itemsize
        self.codec.decode([out[:count].view(part.dtype)], values)
        return True

    @abstractmethod
    def load(self) -> None:
        """Compile the kernels: not in a recording."""

    @abstractmethod
    def launch(self, grad: Any, step: Any) -> None:
        """By kernels."""

    @abstractmethod
    def compute(self, np_: Any, grad: Any, step: Any) -> None:
        """By functions of the array namespace."""

    # For subclasses.

    def prepare(self, *kernels: str) -> None:
        """Compile kernels of ``codec.cu``."""
        for name in kernels:
            types = (SINGLE,) if name == "codec_half" else (SINGLE, SINGLE)
            self._launches[name] = function(self.xp, "codec.cu", name, *types)

    def look(self, grad: Any) -> None:
        """Set the word behind the parts if a sum with the residual is not finite."""
        rest = np.uint64(0) if self.residual is None else self.residual
        self.run("codec_bad", self.size, grad, rest, self.bad, self.size)

    def run(self, name: str, count: int, *args: Any) -> None:
        """Launch a kernel for ``count`` items."""
        self._launches[name](*flat(count), *args)

    def pack(self, np_: Any, codes: Any, bits: int) -> None:
        """Codes of 1 or 2 bits, each a uint8, the first in the highest bits of the first byte; the rest is there."""
        per = 8 // bits
        rows = codes.reshape(-1, per)
        packed = rows[:, 0] << np.uint8(8 - bits)
        for k in range(1, per):
            packed = packed | (rows[:, k] << np.uint8(8 - bits * (k + 1)))
        self.parts[...] = packed

    def padded(self, np_: Any, values: Any, bits: int, fill: Any) -> Any:
        """``values`` and as many of ``fill`` as the parts have room for."""
        room = np_.full((self.nbytes * 8 // bits,), fill, values.dtype)
        room[: self.size] = values
        return room

    def keep(self, np_: Any, total: Any, sent: Any) -> None:
        """The residual is what was not sent, unless nothing can be."""
        assert self.residual is not None
        self.bad[...] = (~np_.isfinite(total)).any()
        self.residual[...] = np_.where(self.bad != 0, self.residual, total - sent)


class _TwoBit(GpuCodec):
    def load(self) -> None:
        self.prepare("codec_bad", "codec_two")

    def launch(self, grad: Any, step: Any) -> None:
        self.look(grad)
        given = (grad, self.residual, self.bad, self.parts, self.size, self.nbytes, self.codec.threshold)
        self.run("codec_two", self.nbytes, *given)

    def compute(self, np_: Any, grad: Any, step: Any) -> None:
        t, total = SINGLE.type(self.codec.threshold), self.residual + grad
        up, down = total >= t, total <= -t
        codes = ((up | down).astype(np.uint8) << np.uint8(1)) | up.astype(np.uint8)
        self.pack(np_, self.padded(np_, codes, 2, 0), 2)
        self.keep(np_, total, np_.where(up, t, np_.where(down, -t, SINGLE.type(0))))


class _OneBit(GpuCodec):
    def load(self) -> None:
        self.prepare("codec_bad", "codec_one")

    def launch(self, grad: Any, step: Any) -> None:
        self.look(grad)
        given = (grad, self.residual, self.bad, self.parts, self.size, self.nbytes, self.codec.threshold)
        self.run("codec_one", self.nbytes, *given)

    def compute(self, np_: Any, grad: Any, step: Any) -> None:
        t, total = SINGLE.type(self.codec.threshold), self.residual + grad
        up = total > t
        self.pack(np_, self.padded(np_, up.astype(np.uint8), 1, int(t < 0)), 1)
        self.keep(np_, total, np_.where(up, SINGLE.type(1), SINGLE.type(-1)))


class _Sign(GpuCodec):
    def load(self) -> None:
        self.prepare("codec_bad", "codec_sign")

    def launch(self, grad: Any, step: Any) -> None:
        self.look(grad)
        self.run("codec_sign", self.nbytes, grad, step, self.bad, self.parts, self.size, self.nbytes)

    def compute(self, np_: Any, grad: Any, step: Any) -> None:
        turn = (np_.arange(self.size, dtype=np.uint32) + (step - np.uint32(1))) & np.uint32(1)
        bits = (grad > 0) | ((grad == 0) & (turn != 0))
        self.bad[...] = (~np_.isfinite(grad)).any()
        self.pack(np_, self.padded(np_, bits.astype(np.uint8), 1, 0), 1)


class _Half(GpuCodec):
    def load(self) -> None:
        self.prepare("codec_half")

    def launch(self, grad: Any, step: Any) -> None:
        self.run("codec_half", self.size, grad, self.parts, self.bad, self.size)

    def compute(self, np_: Any, grad: Any, step: Any) -> None:
        halves = self.parts[: 2 * self.size].view(np.float16)
        with np.errstate(over="ignore"):  # which is what is looked for
            halves[...] = grad
        self.bad[...] = (np_.isinf(halves) & np_.isfinite(grad)).any()


_KINDS: dict[type[Codec], type[GpuCodec]] = {TwoBit: _TwoBit, OneBit: _OneBit, Sign: _Sign, FP16: _Half}


def runs_on_gpu(codec: Codec) -> str:
    """Why a codec does not run on a GPU; empty if it does."""
    if type(codec) not in _KINDS:
        return f"codec {codec.name!r} runs on the host: what it decodes to does not encode to the same bits again"
    if isinstance(codec, OneBit) and not -1 <= codec.threshold < 1:
        return f"1bit with threshold {codec.threshold:g} runs on the host: 1 and -1 do not encode to themselves"
    return ""


def gpu_codec(spec: Spec, xp: Any, size: int, *, kernels: bool = True) -> GpuCodec:
    """A codec on a GPU, for a flat float32 gradient of ``size`` values; see `GpuCodec`.

    Raises:
        ConfigError: it runs on the host only; says why.
    """
    codec = spec if isinstance(spec, Codec) else parse(spec)
    why = runs_on_gpu(codec)
    if why:
        raise ConfigError(why)
    return _KINDS[type(codec)](codec, xp, size, kernels)
