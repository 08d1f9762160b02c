"""DeMo: the strongest frequencies of a momentum that each worker keeps for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from shoal.errors import ShapeError, StoreError
from shoal.kvstore.codecs.base import Address, Array, Codec, CodecState, narrower, saturated, wide
from shoal.kvstore.codecs.registry import register
from shoal.ops.optim.hyper import real, whole

__all__ = ["DeMo", "dct"]


@lru_cache(maxsize=64)
def dct(n: int, dtype: str = "<f8") -> Array:
    """The orthonormal DCT-II as a matrix: ``dct(n) @ x`` are the frequencies of ``x``, ``dct(n).T`` goes back.

    Row k is sqrt(2 / n) cos(pi (2 i + 1) k / (2 n)), and the first of them 1 / sqrt(n).
    """
    k, i = np.arange(n)[:, None], np.arange(n)
    matrix: Array = np.sqrt(2 / n) * np.cos(np.pi * (2 * i + 1) * k / (2 * n))
    matrix[0] = n**-0.5
    matrix = matrix.astype(dtype)
    matrix.flags.writeable = False
    return matrix


class Tiles(NamedTuple):
    """How a slice is cut: a matrix of ``rows`` by ``columns`` into tiles of ``height`` by ``width``.

    A flat slice is a matrix whose rows are as long as a tile is wide. What tiles have beyond the slice is zero.
    """

    n: int
    rows: int
    columns: int
    height: int
    width: int

    @classmethod
    def of(cls, n: int, columns: int, chunk: int) -> "Tiles":
        """Of a slice of ``n`` values in rows of ``columns``, or flat if that is 0."""
        columns = columns or chunk
        rows = -(-n // columns)
        return cls(n, rows, columns, min(rows, chunk), min(columns, chunk))

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles downwards, tiles across."""
        return (-(-self.rows // self.height), -(-self.columns // self.width)) if self.n else (0, 0)

    @property
    def size(self) -> int:
        """Values of a tile."""
        return self.height * self.width

    def transform(self, values: Array) -> Array:
        """The frequencies of each tile, a row for each."""
        (down, across), (height, width) = self.grid, self[3:]
        matrix = _padded(values.reshape(-1, 1), self.rows * self.columns, 1).reshape(self.rows, self.columns)
        full = _padded(matrix, down * height, across * width)
        kind = values.dtype.str
        tiles = np.ascontiguousarray(full.reshape(down, height, across, width).swapaxes(1, 2))
        found: Array = dct(height, kind) @ (tiles @ dct(width, kind).T)
        return found.reshape(down * across, self.size)

    def back(self, frequencies: Array) -> Array:
        """The flat slice that `transform` makes these of."""
        (down, across), (height, width) = self.grid, self[3:]
        kind = frequencies.dtype.str
        tiles = dct(height, kind).T @ frequencies.reshape(down, across, height, width) @ dct(width, kind)
        full = tiles.swapaxes(1, 2).reshape(down * height, across * width)
        return np.ascontiguousarray(full[: self.rows, : self.columns]).reshape(-1)[: self.n]


def _padded(matrix: Array, rows: int, columns: int) -> Array:
    """With zeros below and at the right; the matrix itself if it needs none."""
    if matrix.shape == (rows, columns):
        return matrix
    full = np.zeros((rows, columns), matrix.dtype)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    return full


@register("demo")
@dataclass(kw_only=True)
class DeMo(Codec):
    """The ``top`` strongest frequencies of each tile of a local momentum; the server moves by the sign of their sum.

    d <- decay d + g; q is the part of d that the strongest DCT-II frequencies make; d <- d - q. The server does
    w <- w - lr sign(sum of q), which is ``signum`` with momentum 0 (the sign of the mean is that of the sum); any
    other rule is refused. The paper's d has lr times g; at a constant rate the sign does not know. Matrices are cut
    into tiles of ``chunk`` by ``chunk``, flat slices into as many values. A slice that would not become smaller is
    sent as it is. A rejected push returns to d.
    Source: Peng, Quesnelle and Kingma, "DeMo: decoupled momentum optimization", arXiv:2411.19870.

    Args:
        decay: of d, 0 to 1.
        chunk: side of a tile.
        top: frequencies of each tile that are sent.
    """

    matrices: ClassVar[bool] = True
    gradients_only: ClassVar[bool] = True

    decay: float = real(0.999, "0 <= decay <= 1", lambda v: 0.0 <= v <= 1.0)
    chunk: int = whole(64, "an integer from 2 to 256", lambda v: 2 <= v <= 256)
    top: int = whole(32, "an integer from 1 to 65536", lambda v: 1 <= v <= 1 << 16)

    @property
    def has_feedback(self) -> bool:
        """Always."""
        return True

    def objection(self, name: str, params: Mapping[str, Any]) -> str:
        """See `Codec.objection`."""
        if name == "signum" and not params.get("momentum") and not params.get("wd"):
            return ""
        return (
            "demo keeps the momentum on the workers and needs an update by the sign of what they send: optimizer "
            f"'signum' with momentum=0 and wd=0 (decay weights with wd_lh), got {name!r} with momentum="
            f"{params.get('momentum', 0)}, wd={params.get('wd', 0)}"
        )

    def encode(self, grad: Array, state: CodecState, address: Address) -> list[Array]:
        """See `Codec.encode`; ``grad`` is a matrix, or flat. The parts: frequencies, where they are, the row length."""
        if grad.ndim not in (1, 2):
            raise ShapeError(f"codec demo: expected a matrix or a flat slice, got shape {grad.shape}")
        self.require_finite(grad, state, address)
        values = self.begin(grad, state, address, "residual").reshape(-1)
        columns = grad.shape[1] if grad.ndim == 2 else 0
        total = state.arrays["residual"] * values.dtype.type(self.decay)
        total += values
        if self.tiled_bytes(total.size, columns, grad.itemsize) >= grad.nbytes:
            parts = [saturated(total, state.dtype).copy()]
            state.arrays["residual"][:] = total - parts[0]
        else:
            parts = self._strongest(Tiles.of(total.size, columns, self.chunk), total, columns, address)
            sent = np.empty(total.size, state.dtype)
            self.decode(parts, sent)
            np.subtract(total, sent, out=state.arrays["residual"])
        state.counters["encoded"] += 1
        return parts

    def _strongest(self, tiles: Tiles, total: Array, columns: int, address: Address) -> list[Array]:
        with np.errstate(all="ignore"):
            found = tiles.transform(total)
            strength = np.abs(found)
            if not np.isfinite(strength.max()):
                raise StoreError(
                    f"codec demo: {address.where()}: sums over tiles with values up to {np.abs(total).max():.3g} "
                    f"overflow {total.dtype}. Clip or scale the gradients."
                )
        at = strongest(strength, min(self.top, tiles.size))
        values = np.take_along_axis(found, at, axis=1).reshape(-1)
        return [values, at.reshape(-1).astype("<u2"), np.array([columns], "<u4")]

    def decode(self, parts: Sequence[Array], out: Array) -> None:
        """See `Codec.decode`; ``out`` is flat, and the parts say what matrix it is."""
        self.require_parts(parts, 1, 3)
        if len(parts) == 1:
            np.copyto(out, self.require_part("values", parts[0], narrower(out.dtype), out.size))
            return
        columns = int(self.require_part("row length", parts[2], ("<u4",), 1)[0])
        if not out.size or (columns and out.size % columns):
            raise self.malformed(f"{out.size} values are no rows of {columns}")
        tiles = Tiles.of(out.size, columns, self.chunk)
        count, kept = tiles.grid[0] * tiles.grid[1], min(self.top, tiles.size)
        values = self.require_part("frequencies", parts[0], (wide(out.dtype).str,), count * kept)
        at = self.require_part("positions", parts[1], ("<u2",), count * kept)
        if at.max() >= tiles.size:
            raise self.malformed(f"position {at.max()} in a tile of {tiles.size} values")
        frequencies = np.zeros((count, tiles.size), values.dtype)
        np.put_along_axis(frequencies, at.reshape(count, kept).astype(np.int64), values.reshape(count, kept), axis=1)
        with np.errstate(all="ignore"):
            np.copyto(out, saturated(tiles.back(frequencies), out.dtype.str))

    def encoded_bytes(self, n: int, itemsize: int = 4) -> int:
        """See `Codec.encoded_bytes`; of a flat slice."""
        return min(self.tiled_bytes(n, 0, itemsize), n * itemsize)

    def tiled_bytes(self, n: int, columns: int, itemsize: int = 4) -> int:
        """Bytes of the parts of ``n`` values in rows of ``columns`` (0: flat), if they are not sent as they are."""
        tiles = Tiles.of(n, columns, self.chunk)
        return tiles.grid[0] * tiles.grid[1] * min(self.top, tiles.size) * (max(itemsize, 4) + 2) + 4


def strongest(strength: Array, k: int) -> Array:
    """Positions, ascending, of the ``k`` largest in each row; of equals the first."""
    rows, n = strength.shape
    cut = np.partition(strength, n - k, axis=1)[:, n - k, None]
    chosen = strength >= cut
    crowded = np.count_nonzero(chosen, axis=1) > k if np.count_nonzero(chosen) > rows * k else ()
    for row in np.flatnonzero(crowded):  # ties
        above = strength[row] > cut[row]
        ties = np.flatnonzero(strength[row] == cut[row])
        above[ties[: k - np.count_nonzero(above)]] = True
        chosen[row] = above
    found: Array = np.flatnonzero(chosen).reshape(rows, k)
    found -= np.arange(rows)[:, None] * n
    return found
