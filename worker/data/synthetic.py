"""Data sets that are made, not measured: for tests and for problems whose answer is known. Determined by their seed."""

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.random import stream
from shoal.worker.data.dataset import ArrayDataset

__all__ = ["blobs", "linear_regression"]


def blobs(
    num_samples: int = 1000, num_features: int = 2, num_classes: int = 3, *, spread: float = 1.0, seed: int = 0
) -> ArrayDataset:
    """Normally distributed clouds around one random centre for each class; the classes are of equal size, up to one.

    Args:
        spread: standard deviation of a cloud; that of the centres is 5 in each direction.
    Returns:
        Tuples of a point, float32 of shape (num_features,), and its class, int64.
    Raises:
        ConfigError: a number is less than 1.
    """
    _positive(num_samples=num_samples, num_features=num_features, num_classes=num_classes)
    rng = stream(seed, "blobs")
    centres = 5.0 * rng.standard_normal((num_classes, num_features))
    labels = np.arange(num_samples) % num_classes
    points = centres[labels] + spread * rng.standard_normal((num_samples, num_features))
    return ArrayDataset(points.astype(np.float32), labels.astype(np.int64))


def linear_regression(
    num_samples: int = 1000, num_features: int = 2, *, noise: float = 0.1, seed: int = 0
) -> tuple[ArrayDataset, "np.ndarray[tuple[int], np.dtype[np.float32]]", float]:
    """Points ``x`` and ``y = x @ weight + bias`` plus normally distributed noise.

    Args:
        noise: standard deviation of what is added to ``y``.
    Returns:
        The data set, of tuples of ``x``, float32 of shape (num_features,), and ``y``, float32 of shape (1,); and what
        is to be found: the weight, float32 of shape (num_features,), and the bias.
    Raises:
        ConfigError: a number is less than 1.
    """
    _positive(num_samples=num_samples, num_features=num_features)
    rng = stream(seed, "linear regression")
    weight, bias = rng.standard_normal(num_features).astype(np.float32), float(np.float32(rng.standard_normal()))
    x = rng.standard_normal((num_samples, num_features)).astype(np.float32)
    y = x @ weight + bias + noise * rng.standard_normal(num_samples)
    return ArrayDataset(x, y.astype(np.float32)[:, None]), weight, bias


def _positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}, expected at least 1")
