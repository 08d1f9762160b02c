"""Codecs that keep every value, in 16 bits or as it is. Infinities and NaN pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from shoal.errors import StoreError
from shoal.kvstore.codecs.base import Address, Array, Codec, CodecState, narrower
from shoal.kvstore.codecs.blockwise import Blockwise, Part, Place
from shoal.kvstore.codecs.half import from_half, to_half
from shoal.kvstore.codecs.registry import register
from shoal.kvstore.codecs.scratch import scratch

__all__ = ["BF16", "FP16", "Uncompressed"]


@register("none")
@dataclass(kw_only=True)
class Uncompressed(Codec):
    """The gradient as it is, without a copy. Source: none needed; what the others are compared with."""

    lossless: ClassVar[bool] = True

    def takes(self, grad: Array) -> bool:
        """Anything."""
        return True

    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """See `Codec.encode`; the part is ``grad`` itself, if that is contiguous."""
        self.require_flat(grad)
        self.begin(grad, state, address)
        state.counters["encoded"] += 1
        return [np.ascontiguousarray(grad)]

    def decode(self, parts: Sequence[Array], out: Array) -> None:
        """See `Codec.decode`."""
        self.require_parts(parts, 1)
        np.copyto(out, self.require_part("values", parts[0], narrower(out.dtype), out.size))

    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """See `Codec.encoded_bytes`."""
        return n * itemsize


@register("fp16")
@dataclass(kw_only=True)
class FP16(Blockwise):
    """IEEE half precision, rounded to nearest even: 11 significant bits, 6e-8 to 65504.

    Finite values beyond 65504 are refused: half precision would make them infinite. Source: Micikevicius et al.,
    "Mixed precision training", arXiv:1710.03740; gradients on the wire as in Horovod's ``Compression.fp16``.
    """

    refuses: ClassVar[bool] = False
    on_weights: ClassVar[bool] = True

    def takes(self, grad: Array) -> bool:
        """What is below 65504; an infinity passes, but is rare enough to be looked at twice."""
        return not grad.size or bool(grad.max() < 65504 and grad.min() > -65504)

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """One half for each value."""
        return (Part("values", "<f2"),)

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Convert; NumPy's own conversion knows infinities."""
        if values.dtype == np.float32 and to_half(values, parts[0].view(np.uint16)):
            return
        try:
            with np.errstate(over="raise", under="ignore", invalid="ignore"):
                np.copyto(parts[0], values, casting="same_kind")
        except FloatingPointError:
            raise self._overflow(values, place) from None

    def _overflow(self, values: Array, place: Place) -> StoreError:
        with np.errstate(all="ignore"):
            i = int(np.flatnonzero(np.isinf(values.astype(np.float16)) & np.isfinite(values))[0])
        return StoreError(
            f"codec fp16: {place.address.where()}: the gradient is {values[i]} at position {place.start + i}, and "
            "half precision ends at 65504. Scale the loss down, or use bf16."
        )

    def restore(self, parts: list[Array], out: Array) -> None:
        """Convert."""
        if not (out.dtype == np.float32 and from_half(parts[0].view(np.uint16), out)):
            np.copyto(out, parts[0])


@register("bf16")
@dataclass(kw_only=True)
class BF16(Blockwise):
    """The upper half of a float32, rounded to nearest even: 8 significant bits and the whole range of float32.

    float64 is rounded to float32 first; float16 beyond 65280 comes back infinite. NaN stays NaN.
    Source: Kalamkar et al., "A study of BFLOAT16 for deep learning training", arXiv:1905.12322.
    """

    refuses: ClassVar[bool] = False
    on_weights: ClassVar[bool] = True

    def takes(self, grad: Array) -> bool:
        """Anything."""
        return True

    def layout(self, dtype: np.dtype[Any]) -> tuple[Part, ...]:
        """16 bits for each value."""
        return (Part("values", "<u2"),)

    def quantise(self, values: Array, parts: list[Array], place: Place) -> None:
        """Add half a unit, less one if that would not end even, and cut."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            bits = values.astype(np.float32, copy=False).view(np.uint32)
        rounded = scratch("rounded", bits.size, np.uint32)
        np.right_shift(bits, np.uint32(16), out=rounded)
        rounded &= np.uint32(1)
        rounded += np.uint32(0x7FFF)
        rounded += bits
        rounded >>= np.uint32(16)
        np.copyto(parts[0], rounded, casting="unsafe")
        nan = np.isnan(values)
        if nan.any():  # rounding may have carried it to infinity, or to zero
            parts[0][nan] = (bits[nan] >> np.uint32(16)) | np.uint32(0x40)

    def restore(self, parts: list[Array], out: Array) -> None:
        """Zeros for the lower half."""
        if out.dtype == np.float32:
            bits = out.view(np.uint32)
            np.copyto(bits, parts[0])
            bits <<= np.uint32(16)
        else:
            np.copyto(out, (parts[0].astype(np.uint32) << np.uint32(16)).view(np.float32))
