"""Sums of rows of tables."""

from typing import Any

from shoal.errors import ConfigError
from shoal.ops import embedding
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Parameter

__all__ = ["EmbeddingBag"]


class EmbeddingBag(HybridBlock):
    """Rows of a table, reduced bag by bag, without keeping the rows.

    Args:
        input_dim: number of rows.
        output_dim: length of a row.
        mode: "mean", "sum" or "max".
        padding_idx: this row counts nowhere and gets no gradient.
        include_last_offset: offsets have one element more, the end of the last bag.
        dtype: of the table.
        weight_initializer: of the table (input_dim, output_dim).
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        mode: str = "mean",
        padding_idx: int | None = None,
        include_last_offset: bool = False,
        dtype: Any = "float32",
        weight_initializer: str | float | Initializer | None = None,
    ) -> None:
        super().__init__()
        if mode not in ("mean", "sum", "max"):
            raise ConfigError(f"EmbeddingBag: mode={mode!r}; there are 'mean', 'sum' and 'max'")
        self.input_dim, self.output_dim, self.mode = input_dim, output_dim, mode
        self.padding_idx, self.include_last_offset = padding_idx, include_last_offset
        self.weight = Parameter("weight", shape=(input_dim, output_dim), dtype=dtype, init=weight_initializer)

    def forward(self, x: Any, offsets: Any = None, per_sample_weights: Any = None) -> Any:
        """(bags, rows of a bag), or (rows,) and where each bag begins, to (bags, output_dim)."""
        return embedding.embedding_bag(
            x,
            self.weight.data(),
            offsets,
            self.mode,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.input_dim} -> {self.output_dim}, mode={self.mode}, {self.weight.dtype}"
