"""Dropout: elements, channels, and the kind that keeps the mean and variance of self-normalizing networks."""

import math
from collections.abc import Sequence
from typing import Any

from shoal.errors import ConfigError
from shoal.ops import random, tape
from shoal.ops.activation import SELU_ALPHA, SELU_SCALE
from shoal.ops.registry import Traced
from shoal.ops.tensor import Tensor

__all__ = ["alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout"]


def _mask(who: str, data: Any, p: float, mode: str, axes: Sequence[int]) -> Any:
    """0 with probability p, else 1 / (1 - p), with length 1 along ``axes``; None where nothing is dropped.

    Raises:
        ConfigError: p is not from 0 to 1.
    """
    if not 0.0 <= p <= 1.0:
        raise ConfigError(f"{who}: p={p} is not a probability")
    if p == 0.0 or (mode != "always" and not tape.state.training):
        return None
    together = {a % data.ndim for a in axes}
    shape = tuple(1 if i in together else n for i, n in enumerate(data.shape))
    key = data._random_key("dropout") if isinstance(data, Traced) else random.key("dropout")
    key = key if isinstance(key, Traced) else Tensor(key)
    return random.dropout_mask(key, shape=shape, p=p, dtype=data.dtype.name)


def dropout(data: Any, p: float = 0.5, mode: str = "training", axes: Sequence[int] = ()) -> Any:
    """In training mode, zero each element with probability ``p`` and divide the others by 1 - p.

    Args:
        mode: "always" drops in prediction too.
        axes: along these, elements are dropped together.
    Raises:
        ConfigError: p is not from 0 to 1.
    """
    mask = _mask("dropout", data, p, mode, axes)
    return data if mask is None else data * mask


def feature_dropout(data: Any, p: float = 0.5, mode: str = "training") -> Any:
    """`dropout` of whole channels (batch, channels, ...): PyTorch's dropout1d to dropout3d."""
    return dropout(data, p, mode, tuple(range(2, data.ndim)))


def alpha_dropout(data: Any, p: float = 0.5, mode: str = "training", axes: Sequence[int] = ()) -> Any:
    """Dropout for `selu`: dropped elements take its lowest value, and a scale and a shift keep mean 0 and variance 1.

    Klambauer et al., arXiv:1706.02515. Arguments as for `dropout`.
    """
    mask = _mask("alpha_dropout", data, p, mode, axes)
    if mask is None:
        return data
    if p == 1.0:
        return data * 0.0
    lowest = SELU_ALPHA * SELU_SCALE
    scale = 1.0 / math.sqrt((lowest * lowest * p + 1.0) * (1.0 - p))
    kept = (mask > 0.0).astype(data.dtype)
    return data * kept * scale + ((kept - 1.0) * (lowest * scale) + lowest * scale * p)


def feature_alpha_dropout(data: Any, p: float = 0.5, mode: str = "training") -> Any:
    """`alpha_dropout` of whole channels (batch, channels, ...)."""
    return alpha_dropout(data, p, mode, tuple(range(2, data.ndim)))
