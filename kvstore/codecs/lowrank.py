"""PowerSGD: a matrix of gradients as a product of two thin ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shoal.errors import ShapeError, StoreError
from shoal.kvstore.codecs.base import FLOATS, Address, Array, Codec, CodecState, is_tame, narrower, saturated, wide
from shoal.kvstore.codecs.registry import register
from shoal.ops.optim.hyper import whole

__all__ = ["PowerSGD"]


@register("powersgd")
@dataclass(kw_only=True)
class PowerSGD(Codec):
    """One step of power iteration on the gradient of a matrix, with error feedback and a warm start.

    P = orthonormal(M Q), Q <- M^T P; what is sent is P and Q, what is decoded P Q^T. This codec alone takes slices that
    are *two-dimensional* (whole rows of a matrix, the same ones each time). Flat slices, and matrices too small to be
    halved, are sent as they are, as the paper does with biases. Every worker iterates by itself and the server averages
    the products; the paper's all-reduce between the two steps would need a second round trip.
    Source: Vogels et al., "PowerSGD", arXiv:1905.13727.

    Args:
        rank: columns of P and Q.
    """

    matrices: ClassVar[bool] = True

    rank: int = whole(2, "an integer from 1 to 64", lambda v: 1 <= v <= 64)

    @property
    def has_feedback(self) -> bool:
        """Always."""
        return True

    def pays(self, rows: int, columns: int) -> bool:
        """Whether P and Q are at most half of the matrix."""
        return 2 * self.rank * (rows + columns) <= rows * columns

    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """See `Codec.encode`; ``grad`` is a matrix, or flat."""
        if grad.ndim not in (1, 2):
            raise ShapeError(f"codec powersgd: expected a matrix or a flat slice, got shape {grad.shape}")
        self.require_finite(grad, state, address)
        values = self.begin(grad, state, address, "residual")
        residual = state.arrays["residual"]
        total = residual + values
        if grad.ndim == 1 or not self.pays(*grad.shape):
            parts = [saturated(total, state.dtype).copy()]
            residual[:] = total - parts[0]
        else:
            matrix = total.reshape(grad.shape)
            parts = self._factors(matrix, state, address)
            p, q = parts
            state.arrays["q"] = q.copy()
            np.subtract(matrix, saturated(p @ q.T, state.dtype), out=residual.reshape(grad.shape))
        state.counters["encoded"] += 1
        return parts

    def _factors(self, matrix: Array, state: CodecState, address: Address) -> list[Array]:
        """P and Q; refused if the sums overflow."""
        with np.errstate(all="ignore"):
            sketch = matrix @ self._start(state, matrix.shape[1], address)
            p = np.ascontiguousarray(np.linalg.qr(sketch).Q)
            q = np.ascontiguousarray(matrix.T @ p)
            if not (np.isfinite(p).all() and is_tame(q)):
                raise StoreError(
                    f"codec powersgd: {address.where()}: sums over a matrix with values up to "
                    f"{np.abs(matrix).max():.3g} overflow {matrix.dtype}. Clip or scale the gradients."
                )
        return [p, q]

    def _start(self, state: CodecState, columns: int, address: Address) -> Array:
        """The last Q, or a random one that is the same for all workers."""
        kept = state.arrays.get("q")
        if kept is not None and kept.shape == (columns, self.rank):
            return kept
        draws = address._replace(worker=0).stream("codec/powersgd")
        return draws.standard_normal((columns, self.rank)).astype(wide(np.dtype(state.dtype)))

    def decode(self, parts: Sequence[Array], out: Array) -> None:
        """See `Codec.decode`; ``out`` is flat, and the parts say what matrix it is."""
        self.require_parts(parts, 1, 2)
        if len(parts) == 1:
            np.copyto(out, self.require_part("values", parts[0], narrower(out.dtype), out.size))
            return
        kind = wide(out.dtype)
        for part in parts:
            if part.dtype.str not in FLOATS or part.dtype != kind or part.ndim != 2 or part.shape[1] != self.rank:
                raise self.malformed(
                    f"expected matrices of {kind} and {self.rank} columns, got {part.dtype} {part.shape}"
                )
        p, q = parts
        if p.shape[0] * q.shape[0] != out.size:
            raise self.malformed(f"{p.shape[0]} rows by {q.shape[0]} columns are not {out.size} values")
        with np.errstate(all="ignore"):
            np.copyto(out, saturated((p @ q.T).reshape(-1), out.dtype.str))

    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """See `Codec.encoded_bytes`; for a square matrix. `matrix_bytes` is exact."""
        side = round(n**0.5)
        return self.matrix_bytes(side, side, itemsize) if side else 0

    def matrix_bytes(self, rows: int, columns: int, itemsize: int = 4) -> int:
        """Bytes for a matrix of this shape."""
        if not self.pays(rows, columns):
            return rows * columns * itemsize
        return self.rank * (rows + columns) * max(itemsize, 4)
