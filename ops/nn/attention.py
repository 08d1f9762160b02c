"""Attention with several heads, and what tells it where in a sequence an element is.

Arguments and masks are PyTorch's: boolean masks are True where something is *not* to be seen.
"""

from typing import Any

import numpy as np

from shoal.errors import ConfigError, ShapeError
from shoal.ops import attention, position
from shoal.ops.dropout import dropout
from shoal.ops.linalg import matmul
from shoal.ops.nn.basic import Dense
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Constant
from shoal.ops.shape import expand_dims, reshape, swapaxes, transpose

__all__ = ["MultiHeadAttention", "RotaryEmbedding", "SinusoidalPositionalEmbedding"]

Init = str | float | Initializer | None


def hidden(mask: Any, dtype: np.dtype[Any]) -> Any:
    """A mask of PyTorch's as numbers to be added to scores: booleans are True where nothing is to be seen."""
    if mask is None or mask.dtype.kind != "b":
        return mask
    return attention.additive(~mask, dtype)


class MultiHeadAttention(HybridBlock):
    """Attention with ``num_heads`` heads, each over its share of the features (Vaswani et al., arXiv:1706.03762).

    Args:
        embed_dim: features of queries and of the result.
        num_heads: divides embed_dim.
        dropout: probability that a weight is dropped, while training.
        bias: whether the four projections have one.
        kdim, vdim: features of keys and of values; embed_dim if None.
        batch_first: inputs are (batch, time, features) instead of (time, batch, features).
        num_kv_heads: keys and values have fewer heads than queries, a divisor of them, and groups of heads share one
            (Ainslie et al., arXiv:2305.13245).
        rotary: turns queries and keys by their positions.
        weight_initializer: of the projections.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        num_kv_heads: int | None = None,
        rotary: "RotaryEmbedding | None" = None,
        weight_initializer: Init = None,
    ) -> None:
        super().__init__()
        shared = num_kv_heads or num_heads
        if num_heads < 1 or embed_dim % num_heads or shared < 1 or num_heads % shared:
            raise ConfigError(
                f"MultiHeadAttention: {embed_dim=} must be a multiple of {num_heads=}, that of num_kv_heads={shared}"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"MultiHeadAttention needs 0 <= dropout < 1, got {dropout}")
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, shared
        self.dropout, self.batch_first, self.size = float(dropout), batch_first, embed_dim // num_heads
        words: dict[str, Any] = {"use_bias": bias, "flatten": False, "weight_initializer": weight_initializer}
        self.query_proj = Dense(embed_dim, in_units=embed_dim, **words)
        self.key_proj = Dense(shared * self.size, in_units=kdim or embed_dim, **words)
        self.value_proj = Dense(shared * self.size, in_units=vdim or embed_dim, **words)
        self.out_proj = Dense(embed_dim, in_units=embed_dim, **words)
        self.rotary = rotary

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        key_padding_mask: Any = None,
        need_weights: bool = False,
        attn_mask: Any = None,
        is_causal: bool = False,
        average_attn_weights: bool = True,
    ) -> Any:
        """Attend.

        Args:
            query: (time, batch, embed_dim), or (batch, time, embed_dim) with ``batch_first``.
            key, value: the same with other times; key is query if None, and value is key.
            key_padding_mask: (batch, keys): True (or a number to be added, such as -inf) where a key is only padding.
            need_weights: return also the weights: (batch, queries, keys), the mean over the heads.
            attn_mask: (queries, keys) or (batch * heads, queries, keys): True where a query must not see a key, or
                numbers to be added.
            is_causal: a query does not see later keys.
            average_attn_weights: False gives the weights of each head: (batch, heads, queries, keys).
        Raises:
            ShapeError: something does not fit.
        """
        key = query if key is None else key
        value = key if value is None else value
        if query.ndim != 3:
            raise ShapeError(f"{self._label()} takes 3 axes, got a query of shape {tuple(query.shape)}")
        q = self._heads(self.query_proj(query), self.num_heads)
        k = self._heads(self.key_proj(key), self.num_kv_heads)
        v = self._heads(self.value_proj(value), self.num_kv_heads)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mask = self._mask(attn_mask, key_padding_mask, q, k, is_causal and need_weights)
        if need_weights:
            weights = attention.attention_weights(q, self._spread(k), mask)
            mixed = matmul(dropout(weights, self.dropout), self._spread(v))
        else:
            mixed = attention.scaled_dot_product_attention(q, k, v, mask, self.dropout, is_causal, enable_gqa=True)
        out = self.out_proj(self._joined(mixed))
        if not need_weights:
            return out
        return out, (weights.mean(axis=1) if average_attn_weights else weights)

    def _heads(self, x: Any, heads: int) -> Any:
        """(batch, heads, time, size)."""
        parts = reshape(x, shape=(*x.shape[:2], heads, self.size))
        return transpose(parts, axes=(0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _joined(self, x: Any) -> Any:
        order = (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)
        back = transpose(x, axes=order)
        return reshape(back, shape=(*back.shape[:2], self.embed_dim))

    def _spread(self, x: Any) -> Any:
        """A head of keys or values for each head of queries."""
        return x if self.num_kv_heads == self.num_heads else x.repeat(self.num_heads // self.num_kv_heads, axis=1)

    def _mask(self, attn_mask: Any, padding: Any, q: Any, k: Any, causal: bool) -> Any:
        """What is added to scores (batch, heads, queries, keys); None for nothing."""
        bias = hidden(attn_mask, q.dtype)
        if bias is not None and bias.ndim == 3:
            bias = reshape(bias, shape=(q.shape[0], self.num_heads, q.shape[2], k.shape[2]))
        more = hidden(padding, q.dtype)
        if more is not None:
            if tuple(more.shape) != (k.shape[0], k.shape[2]):
                raise ShapeError(
                    f"{self._label()}: key_padding_mask has shape {tuple(more.shape)}, expected (batch, keys) = "
                    f"{(k.shape[0], k.shape[2])}"
                )
            more = expand_dims(more, (1, 2))
            bias = more if bias is None else bias + more
        if causal:
            future = attention.causal_mask(np.zeros((q.shape[2], k.shape[2]), q.dtype))
            bias = future if bias is None else bias + future
        return bias

    def extra_repr(self) -> str:
        """Sizes."""
        shared = "" if self.num_kv_heads == self.num_heads else f", num_kv_heads={self.num_kv_heads}"
        return f"{self.embed_dim}, heads={self.num_heads}{shared}, dropout={self.dropout}"


class RotaryEmbedding(HybridBlock):
    """Turns pairs of features by angles that grow with the position; see `shoal.npx.rotary_embedding`.

    Args:
        dim: how many features are turned.
        max_length: positions that there are.
        base: of the geometric row of wave lengths.
        interleaved: pairs are neighbours, not halves.
    """

    def __init__(self, dim: int, max_length: int = 2048, base: float = 10000.0, interleaved: bool = False) -> None:
        super().__init__()
        self.dim, self.max_length, self.interleaved = dim, max_length, interleaved
        cos, sin = position.rotary_tables(max_length, dim, base)
        self.cos, self.sin = Constant(cos, "cos"), Constant(sin, "sin")

    def forward(self, x: Any, positions: Any = None) -> Any:
        """(..., time, width), and positions, integers that broadcast to (..., time), if they are not 0, 1, 2, ..."""
        if positions is None and x.shape[-2] > self.max_length:
            raise ShapeError(f"{self._label()}: {x.shape[-2]} positions, but max_length={self.max_length}")
        tables = self.cos.data(), self.sin.data()
        return position.rotary_embedding(x, positions, rotary_dim=self.dim, interleaved=self.interleaved, tables=tables)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.dim}, max_length={self.max_length}"


class SinusoidalPositionalEmbedding(HybridBlock):
    """Adds sines and cosines of its position to each element (Vaswani et al., arXiv:1706.03762).

    Args:
        units: features; an even number.
        max_length: positions that there are.
        batch_first: inputs are (batch, time, units) instead of (time, batch, units).
    """

    def __init__(self, units: int, max_length: int = 2048, batch_first: bool = False) -> None:
        super().__init__()
        self.units, self.max_length, self.batch_first = units, max_length, batch_first
        self.table = Constant(position.sinusoidal_positions(max_length, units), "table")

    def forward(self, x: Any) -> Any:
        """Apply the layer.

        Raises:
            ShapeError: the input is longer than ``max_length``.
        """
        length = x.shape[1 if self.batch_first else 0]
        if length > self.max_length:
            raise ShapeError(f"{self._label()}: {length} positions, but max_length={self.max_length}")
        rows = self.table.data()[:length].astype(x.dtype)
        return x + (rows if self.batch_first else swapaxes(expand_dims(rows, 0), 0, 1))

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.units}, max_length={self.max_length}"
