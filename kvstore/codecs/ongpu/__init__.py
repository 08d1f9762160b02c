"""Codecs on a GPU, before the copy to the host: what is copied is what the codec of the CPU would send, bit for bit.

The parts are those of the store's slices at the store's clocks, so that they go to the servers as they are. What was
not sent stays on the GPU, in float32; what a server refuses goes to the residual on the host, and is sent later.

On a GPU kernels do it (``ops/gpu/c/codec.cu``); where there are none, functions of the array namespace, to the same
bits. Neither waits: that a gradient cannot be sent is a word behind the parts, which the host reads with them.
"""

from shoal.errors import ConfigError
from shoal.kvstore.codecs.base import Codec
from shoal.kvstore.codecs.encoded import Encoding
from shoal.kvstore.codecs.levels import QSGD, Int8
from shoal.kvstore.codecs.ongpu.base import GpuCodec
from shoal.kvstore.codecs.ongpu.bits import GpuHalf, GpuOneBit, GpuSign, GpuTwoBit
from shoal.kvstore.codecs.ongpu.groups import GpuLevels, GpuMeans
from shoal.kvstore.codecs.ongpu.sparse import GpuRandomK, GpuTopK
from shoal.kvstore.codecs.plain import FP16
from shoal.kvstore.codecs.registry import parse
from shoal.kvstore.codecs.signs import EFSign, OneBit, OneBitMean, Sign, TwoBit
from shoal.kvstore.codecs.sparse import RandomK, TopK
from shoal.ops.backend import Namespace

__all__ = ["GpuCodec", "gpu_codec", "runs_on_gpu"]

_KINDS: dict[type[Codec], type[GpuCodec]] = {
    TwoBit: GpuTwoBit,
    OneBit: GpuOneBit,
    Sign: GpuSign,
    FP16: GpuHalf,
    Int8: GpuLevels,
    QSGD: GpuLevels,
    OneBitMean: GpuMeans,
    EFSign: GpuMeans,
    TopK: GpuTopK,
    RandomK: GpuRandomK,
}


def runs_on_gpu(codec: Codec) -> str:
    """Why a codec does not run on a GPU; empty if it does."""
    if type(codec) in _KINDS:
        return ""
    known = ", ".join(sorted(kind.name for kind in _KINDS))
    return f"codec {codec.name!r} runs on the host; on a GPU there are {known}"


def gpu_codec(encoding: Encoding, xp: Namespace, *, after: int = 0, kernels: bool = True) -> GpuCodec:
    """A codec on a GPU, for a flat float32 gradient; see `GpuCodec`.

    Args:
        after: number of the last step before the first one that is encoded.
        kernels: False computes on the array namespace, to compare.
    Raises:
        ConfigError: it runs on the host only; says why.
    """
    codec = parse(encoding.spec)
    why = runs_on_gpu(codec)
    if why:
        raise ConfigError(why)
    return _KINDS[type(codec)](codec, xp, encoding, after, kernels)
