"""Rules for contributions that were computed from old weights."""

from dataclasses import dataclass

import numpy as np

from shoal.errors import ConfigError
from shoal.kvstore.arrays import Array
from shoal.kvstore.rules.base import CellView, Part, Rule
from shoal.kvstore.rules.registry import register

__all__ = ["DCASGD", "Stale"]


@register("stale")
@dataclass(frozen=True)
class Stale(Rule):
    """Smaller steps for older contributions: ``g / max(1, tau)`` (Zhang et al.: arXiv:1511.05950).

    Args:
        law: "inverse" as above, or "sqrt" for ``g / sqrt(1 + tau)`` (as in FedBuff: arXiv:2106.06639).
    """

    law: str = "inverse"

    def __post_init__(self) -> None:
        if self.law not in ("inverse", "sqrt"):
            raise ConfigError(f"rule 'stale': law is {self.law!r}; known: inverse, sqrt")

    def weight(self, staleness: int) -> float:
        """The factor of a contribution of this staleness."""
        return 1.0 / max(1, staleness) if self.law == "inverse" else (1.0 + staleness) ** -0.5

    def correct(self, cell: CellView, part: Part, out: Array) -> None:
        np.multiply(part.value, out.dtype.type(self.weight(part.staleness)), out=out)


@register("dcasgd")
@dataclass(frozen=True)
class DCASGD(Rule):
    """Delay compensation: ``g + lam g g (w - w_bak[m])``, w_bak[m] being what worker m last read.

    Zheng et al., ICML 2017 (arXiv:1609.08326). The servers keep one copy of the weights for each worker. Adaptive:
    ``lam / sqrt(MS + eps)`` for lam, with ``MS = m MS + (1 - m) g g``, one more copy.

    Args:
        lam: strength of the compensation; the paper's adaptive variant uses 2.
        adaptive: scale it by the size of recent gradients.
        m: factor of their moving average.
        eps: keeps the division finite.
    """

    lam: float = 0.04
    adaptive: bool = False
    m: float = 0.95
    eps: float = 1e-7

    def __post_init__(self) -> None:
        if not (self.lam >= 0.0 and 0.0 <= self.m < 1.0 and self.eps > 0.0):
            raise ConfigError(
                f"rule 'dcasgd': expected lam >= 0, 0 <= m < 1 and eps > 0, got lam={self.lam}, m={self.m}, "
                f"eps={self.eps}"
            )

    def was_read(self, cell: CellView, rank: int) -> None:
        kept = cell.state.get(rank)
        if kept is None:
            cell.state[rank] = cell.value.copy()
        else:
            np.copyto(kept, cell.value)

    def correct(self, cell: CellView, part: Part, out: Array) -> None:
        g, dtype = part.value, out.dtype
        kept = cell.state.get(part.rank)
        if kept is None:  # it has never read: there is nothing to compensate for
            np.copyto(out, g)
            return
        np.multiply(g, g, out=out, dtype=dtype)
        strength: Array | float = self.lam
        if self.adaptive:
            square = cell.state.setdefault("ms", np.zeros(out.shape, dtype))
            square *= dtype.type(self.m)
            square += out * dtype.type(1.0 - self.m)
            strength = dtype.type(self.lam) / np.sqrt(square + dtype.type(self.eps))
        out *= np.asarray(strength, dtype)
        out *= np.subtract(cell.value, kept, dtype=dtype)
        out += g
