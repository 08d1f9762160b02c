"""Dropout of whole channels and for self-normalizing networks."""

from typing import Any

from shoal.ops import dropout
from shoal.ops.nn.basic import Dropout

__all__ = ["AlphaDropout", "Dropout1D", "Dropout2D", "Dropout3D", "FeatureAlphaDropout"]


class Dropout2D(Dropout):
    """While training, sets whole channels of images to zero at random and scales the others up.

    Args:
        rate: probability of zero, 0 <= rate < 1.
    """

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__(rate)

    def forward(self, x: Any) -> Any:
        """Apply the layer; each call draws anew."""
        return dropout.feature_dropout(x, self.rate)


class Dropout1D(Dropout2D):
    """`Dropout2D` for sequences."""


class Dropout3D(Dropout2D):
    """`Dropout2D` for volumes."""


class AlphaDropout(Dropout):
    """Dropout for networks of `SELU`, which keeps their mean and variance (Klambauer et al., arXiv:1706.02515).

    Args:
        rate: probability that an element is dropped, 0 <= rate < 1.
    """

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__(rate)

    def forward(self, x: Any) -> Any:
        """Apply the layer; each call draws anew."""
        return dropout.alpha_dropout(x, self.rate)


class FeatureAlphaDropout(AlphaDropout):
    """`AlphaDropout` of whole channels."""

    def forward(self, x: Any) -> Any:
        """Apply the layer; each call draws anew."""
        return dropout.feature_alpha_dropout(x, self.rate)
