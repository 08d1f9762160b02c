"""How the gradient of a bucket leaves the GPU: as it is, rounded to bfloat16, or encoded."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from shoal.errors import StoreError
from shoal.kvstore.codecs.encoded import Encoding
from shoal.kvstore.codecs.ongpu import GpuCodec, gpu_codec
from shoal.ops.gpu.device import Gpu
from shoal.ops.precision import BFLOAT16

__all__ = ["Wire", "wire_of"]


class Wire(Protocol):
    """A way out.

    Attributes:
        source: the array of the GPU that is copied.
        nbytes: of it.
        writes: what `pack` writes to; nothing where there is nothing to pack.
        residual: what was not sent, on the GPU; None where nothing is left out.
    """

    source: Any
    nbytes: int
    writes: Sequence[Any]
    residual: Any

    def pack(self, step: Any) -> None:
        """Work on the GPU before the copy; ``step`` is its number, one uint32 there."""

    def unpack(self, raw: Any, values: Any) -> Any:
        """What the store is given of what has come, as bytes: ``values``, filled, or what was encoded.

        Raises:
            StoreError: it cannot be sent; says why.
        """


class _AsItIs:
    def __init__(self, grad: Any) -> None:
        self.source, self.nbytes = grad, int(grad.nbytes)
        self.residual: Any = None
        self.writes: Sequence[Any] = ()

    def pack(self, step: Any) -> None:
        """Nothing to do."""

    def unpack(self, raw: Any, values: Any) -> Any:
        """A copy."""
        np.copyto(values, raw.view(values.dtype))
        return values


class _Rounded:
    """float32 to bfloat16: the nearest, of two the even one."""

    def __init__(self, gpu: Gpu, grad: Any) -> None:
        self._grad, self.source = grad, gpu.empty(grad.shape, BFLOAT16)
        self.residual: Any = None
        self.nbytes = int(self.source.nbytes)
        self.writes: Sequence[Any] = [self.source]

    def pack(self, step: Any) -> None:
        """One kernel."""
        self.source[...] = self._grad

    def unpack(self, raw: Any, values: Any) -> Any:
        """Exactly."""
        np.copyto(values, raw.view(BFLOAT16), casting="unsafe")
        return values


class _Encoded:
    def __init__(self, codec: GpuCodec, grad: Any) -> None:
        self._codec, self._grad = codec, grad
        self.residual: Any = codec.residual
        self.source, self.nbytes = codec.out, int(codec.out.nbytes)
        self.writes: Sequence[Any] = codec.used

    def pack(self, step: Any) -> None:
        """Some kernels."""
        self._codec.encode(self._grad, step)

    def unpack(self, raw: Any, values: Any) -> Any:
        """Views of it."""
        encoded = self._codec.encoded(raw)
        if encoded is not None:
            return encoded
        raise StoreError(
            f"codec {self._codec.codec.name} has met a value that is infinite, not a number, or too large. Lower the "
            "learning rate, clip or scale the gradients, or use bf16, which passes it on"
        )


def wire_of(spec: str, gpu: Gpu, grad: Any, encoding: Encoding | None = None, after: int = 0) -> Wire:
    """The way out for a flat gradient.

    Args:
        spec: "" as it is, "bf16", or a codec. Gradients that are not float32 leave as they are.
        encoding: of a codec: the slices of the store; without it the gradient leaves as it is.
        after: number of the last step before the first one that leaves this way.
    Raises:
        ConfigError: a codec that runs on the host only, or none.
    """
    if grad.dtype != np.float32 or not spec:
        return _AsItIs(grad)
    if spec == "bf16":
        return _Rounded(gpu, grad)
    return _AsItIs(grad) if encoding is None else _Encoded(gpu_codec(encoding, gpu.xp, after=after), grad)
