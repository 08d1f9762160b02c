"""Transformers (Vaswani et al., arXiv:1706.03762), with PyTorch's names, arguments and masks."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.attention import causal_mask
from shoal.ops.creation import here
from shoal.ops.nn.activation import Activation
from shoal.ops.nn.attention import MultiHeadAttention
from shoal.ops.nn.basic import Dense, Dropout
from shoal.ops.nn.container import HybridSequential
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.norm import LayerNorm
from shoal.ops.tensor import Tensor

__all__ = [
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]


class _Layer(HybridBlock):
    """What layers of encoders and decoders share: self-attention and two dense layers, with norms around them."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm_first, self._norm = norm_first, (layer_norm_eps, bias, d_model)
        self._attention = {"dropout": dropout, "batch_first": batch_first, "bias": bias}
        self.self_attn = MultiHeadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.linear1 = Dense(dim_feedforward, flatten=False, use_bias=bias, in_units=d_model)
        self.linear2 = Dense(d_model, flatten=False, use_bias=bias, in_units=dim_feedforward)
        self.norm1, self.norm2 = self._new_norm(), self._new_norm()
        self.dropout, self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout), Dropout(dropout)
        self.activation = Activation(activation) if isinstance(activation, str) else activation

    def _new_norm(self) -> LayerNorm:
        eps, bias, width = self._norm
        return LayerNorm(epsilon=eps, center=bias, in_channels=width)

    def _around(self, x: Any, norm: LayerNorm, part: Callable[[Any], Any]) -> Any:
        """A part with its residual connection, and the norm before or after."""
        return x + part(norm(x)) if self.norm_first else norm(x + part(x))

    def _feed(self, x: Any) -> Any:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then two dense layers, each with a residual connection and layer normalization.

    Args:
        d_model: features.
        nhead: heads of the attention.
        dim_feedforward: features between the dense layers.
        dropout: probability of zero, while training.
        activation: between the dense layers: a name, or a function of tensors.
        layer_norm_eps: added to variances.
        batch_first: inputs are (batch, time, features) instead of (time, batch, features).
        norm_first: normalize what goes into each part instead of what comes out.
        bias: whether dense layers and norms have one.
    """

    def forward(self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        """Apply the layer; masks are those of `MultiHeadAttention`."""

        def attend(x: Any) -> Any:
            found = self.self_attn(x, key_padding_mask=src_key_padding_mask, attn_mask=src_mask, is_causal=is_causal)
            return self.dropout1(found)

        x = self._around(src, self.norm1, attend)
        return self._around(x, self.norm2, lambda t: self.dropout2(self._feed(t)))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to what an encoder gave, then two dense layers; see `TransformerEncoderLayer`."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        )
        self.multihead_attn = MultiHeadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.norm3, self.dropout3 = self._new_norm(), Dropout(dropout)

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        """Apply the layer to ``tgt``, with ``memory`` from the encoder; masks are those of `MultiHeadAttention`."""

        def attend(x: Any) -> Any:
            found = self.self_attn(
                x, key_padding_mask=tgt_key_padding_mask, attn_mask=tgt_mask, is_causal=tgt_is_causal
            )
            return self.dropout1(found)

        def remember(x: Any) -> Any:
            found = self.multihead_attn(
                x, memory, key_padding_mask=memory_key_padding_mask, attn_mask=memory_mask, is_causal=memory_is_causal
            )
            return self.dropout2(found)

        x = self._around(tgt, self.norm1, attend)
        x = self._around(x, self.norm2, remember)
        return self._around(x, self.norm3, lambda t: self.dropout3(self._feed(t)))


class _Stack(HybridBlock):
    def __init__(self, layer: HybridBlock, num_layers: int, norm: HybridBlock | None = None) -> None:
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"{type(self).__name__}: num_layers={num_layers} must be at least 1")
        self.layers = HybridSequential(*(copy.deepcopy(layer) for _ in range(num_layers)))
        self.norm = norm


class TransformerEncoder(_Stack):
    """Layers one after the other.

    Args:
        encoder_layer: copied ``num_layers`` times, with its initializers; if it has values, copies begin with the same.
        norm: applied at the end, or None.
    """

    def __init__(self, encoder_layer: HybridBlock, num_layers: int, norm: HybridBlock | None = None) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False) -> Any:
        """Apply the layers; masks are those of `MultiHeadAttention`."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(_Stack):
    """Layers one after the other, all with the same memory; see `TransformerEncoder`."""

    def __init__(self, decoder_layer: HybridBlock, num_layers: int, norm: HybridBlock | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(self, tgt: Any, memory: Any, *masks: Any, **named_masks: Any) -> Any:
        """Apply the layers; further arguments are those of `TransformerDecoderLayer`."""
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, **named_masks)
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(HybridBlock):
    """An encoder and a decoder; arguments as of `TransformerEncoderLayer`, and

    Args:
        num_encoder_layers, num_decoder_layers: how many layers each has.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        each = d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        norms = [LayerNorm(epsilon=layer_norm_eps, center=bias, in_channels=d_model) for _ in range(2)]
        self.encoder = TransformerEncoder(TransformerEncoderLayer(*each), num_encoder_layers, norms[0])
        self.decoder = TransformerDecoder(TransformerDecoderLayer(*each), num_decoder_layers, norms[1])

    def forward(
        self,
        src: Any,
        tgt: Any,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        """The decoder's result for ``tgt``, given ``src``; masks are those of `MultiHeadAttention`."""
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        return self.decoder(tgt, memory, *masks, tgt_is_causal, memory_is_causal)

    @staticmethod
    def generate_square_subsequent_mask(size: int) -> Tensor:
        """Numbers to be added to scores so that a query does not see later keys: (size, size)."""
        return here(causal_mask(np.zeros((size, size), "float32")))
