"""Codecs that send few values and where they are: top-k, deep gradient compression, random-k."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from shoal.kvstore.codecs.base import Address, Array, Codec, CodecState, is_tame, narrower, saturated
from shoal.kvstore.codecs.positions import largest, pack_positions, unpack_positions
from shoal.kvstore.codecs.registry import register
from shoal.ops.optim.hyper import flag, fraction, real, whole

__all__ = ["DGC", "RandomK", "TopK"]


def _ratio(default: float) -> Any:
    return real(default, "0 < ratio <= 1", lambda v: 0.0 < v <= 1.0)


def how_many(n: int, ratio: float) -> int:
    """``ratio`` of ``n`` values, at least one if there are any."""
    return min(n, max(1, round(n * ratio)))


@dataclass(kw_only=True)
class _Sparse(Codec):
    """The parts: values, the lower 16 bits of their positions, and how many lie in each 65536 of the slice."""

    @property
    def has_feedback(self) -> bool:
        """Always."""
        return True

    def take(self, state: CodecState, k: int) -> tuple[Array, list[Array]]:
        """Take the ``k`` largest values out of the residual: their positions, and the parts."""
        residual = self.kept(state)
        at = largest(residual, k)
        values = saturated(residual[at], state.dtype)
        residual[at] -= values
        return at, [values, *pack_positions(at, residual.size)]

    def decode(self, parts: Sequence[Array], out: Array) -> None:
        """See `Codec.decode`."""
        self.require_parts(parts, 3)
        values = self.require_part("values", parts[0], narrower(out.dtype), None)
        low = self.require_part("positions", parts[1], ("<u2",), values.size)
        counts = self.require_part("counts", parts[2], ("<u4",), -(-out.size >> 16))
        try:
            at = unpack_positions(low, counts, out.size)
        except ValueError as error:
            raise self.malformed(str(error)) from None
        out[:] = 0
        out[at] = values

    def sparse_bytes(self, n: int, itemsize: int, k: int) -> int:
        """Bytes of ``k`` values of a slice of ``n``."""
        return k * (itemsize + 2) + -(-n >> 16) * 4


@register("topk")
@dataclass(kw_only=True)
class TopK(_Sparse):
    """The values of largest magnitude, exactly, and error feedback for the others; zeros are never sent.

    Of equal magnitudes the first are taken, so that every machine takes the same. Source: Aji and Heafield,
    arXiv:1704.05021; Stich et al., "Sparsified SGD with memory", arXiv:1809.07599.

    Args:
        ratio: part of the values that is sent, 0 to 1; at least one value is.
    """

    ratio: float = _ratio(0.01)

    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """See `Codec.encode`."""
        self.require_flat(grad)
        self.require_finite(grad, state, address)
        values = self.begin(grad, state, address, "residual")
        np.add(state.arrays["residual"], values, out=state.arrays["residual"])
        _, parts = self.take(state, how_many(grad.size, self.ratio))
        state.counters["encoded"] += 1
        return parts

    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """See `Codec.encoded_bytes`; at most this."""
        return self.sparse_bytes(n, itemsize, how_many(n, self.ratio))


@register("dgc")
@dataclass(kw_only=True)
class DGC(_Sparse):
    """Top-k of a local velocity that adds up: momentum correction, momentum factor masking, and a warm-up.

    u <- momentum u + g; v <- v + u; the largest of v are sent, and u and v are zero there. The optimizer on the server
    must then have no momentum of its own. In the warm-up the sparsity is 75, 93.75, 98.44, 99.6 % (1 - 4**-i), each for
    ``warmup`` clocks. A rejected push returns to v; the momentum that was masked is not restored.
    Source: Lin et al., "Deep gradient compression", arXiv:1712.01887. Its gradient clipping is left to the trainer.

    Args:
        ratio: part of the values that is sent after the warm-up.
        momentum: 0 is `TopK` with a warm-up.
        warmup: clocks at each of the four stages; 0 for none.
    """

    gradients_only: ClassVar[bool] = True

    ratio: float = _ratio(0.001)
    momentum: float = real(0.9, "0 <= momentum < 1", fraction)
    warmup: int = whole(100, "an integer >= 0", lambda v: v >= 0)

    def objection(self, name: str, params: Mapping[str, Any]) -> str:
        """See `Codec.objection`."""
        if not (self.momentum and params.get("momentum")):
            return ""
        return (
            f"dgc has a momentum of its own; with the optimizer's {params['momentum']:g} it would be applied twice. "
            "Give the momentum to dgc and none to the optimizer."
        )

    def density(self, clock: int) -> float:
        """Part of the values that is sent at ``clock``."""
        stage = clock // self.warmup if self.warmup else 4
        return max(self.ratio, 0.25 ** (stage + 1)) if stage < 4 else self.ratio

    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """See `Codec.encode`."""
        self.require_flat(grad)
        self.require_finite(grad, state, address)
        values = self.begin(grad, state, address, "velocity", "residual")
        velocity, residual = state.arrays["velocity"], state.arrays["residual"]
        with np.errstate(over="ignore"):
            moved = velocity * self.momentum
            moved += values
        if not is_tame(moved):
            self.require_finite(moved, state, address)
        velocity[:] = moved
        residual += moved
        at, parts = self.take(state, how_many(grad.size, self.density(address.clock)))
        velocity[at] = 0
        state.counters["encoded"] += 1
        return parts

    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """See `Codec.encoded_bytes`; after the warm-up, and at most this."""
        return self.sparse_bytes(n, itemsize, how_many(n, self.ratio))


@register("randomk")
@dataclass(kw_only=True)
class RandomK(Codec):
    """One value at random from each of k equal ranges; who receives draws the same positions, which do not travel.

    Values are scaled by the size of their range, so that the mean is the gradient; with ``feedback`` they are not, and
    the others are kept. With ``shared`` all workers choose the same positions, and their values may be added before
    they are decoded. float16 saturates. Source: Wangni et al., arXiv:1710.09854; Stich et al., arXiv:1809.07599; in
    BytePS as ``randomk``.

    Args:
        ratio: part of the values that is sent; at least one value is.
        feedback: keep what was not chosen, instead of scaling up what was.
        shared: the draw does not depend on the worker.
    """

    ratio: float = _ratio(0.01)
    feedback: bool = flag(False)
    shared: bool = flag(False)

    @property
    def has_feedback(self) -> bool:
        """If asked for."""
        return self.feedback

    @property
    def unbiased(self) -> bool:
        """Without feedback."""
        return not self.feedback

    @property
    def linear(self) -> bool:
        """If the positions are shared: add the values, keep the words of any."""
        return self.shared

    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """See `Codec.encode`; the parts are values, and the six words of a Philox generator."""
        self.require_flat(grad)
        self.require_finite(grad, state, address)
        values = self.begin(grad, state, address, *(["residual"] if self.feedback else []))
        if self.shared:
            address = address._replace(worker=0)
        drawn: Any = address.stream("codec/randomk").bit_generator.state
        words = np.concatenate([drawn["state"]["key"], drawn["state"]["counter"]]).astype("<u8")
        at, sizes = self.positions(words, grad.size)
        if self.feedback:
            residual = state.arrays["residual"]
            residual += values
            chosen = saturated(residual[at], state.dtype)
            residual[at] -= chosen
        else:
            with np.errstate(over="ignore"):
                chosen = saturated(values[at] * sizes.astype(values.dtype), state.dtype)
        state.counters["encoded"] += 1
        return [chosen, words]

    def positions(self, words: Array, n: int) -> tuple[Array, Array]:
        """The chosen positions, ascending, and the sizes of the ranges they were chosen from."""
        k = how_many(n, self.ratio)
        edges = np.arange(k + 1, dtype=np.int64) * n // max(k, 1)
        sizes = np.diff(edges)
        source = np.random.Philox(key=words[:2].astype(np.uint64), counter=words[2:].astype(np.uint64))
        draws = source.random_raw(-(-k // 2)).view(np.uint32)[:k].astype(np.uint64)
        return edges[:-1] + ((draws * sizes.astype(np.uint64)) >> np.uint64(32)).astype(np.int64), sizes

    def decode(self, parts: Sequence[Array], out: Array) -> None:
        """See `Codec.decode`."""
        self.require_parts(parts, 2)
        values = self.require_part("values", parts[0], narrower(out.dtype), how_many(out.size, self.ratio))
        words = self.require_part("words", parts[1], ("<u8",), 6)
        at, _ = self.positions(words, out.size)
        out[:] = 0
        out[at] = values

    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """See `Codec.encoded_bytes`."""
        return how_many(n, self.ratio) * itemsize + 48
