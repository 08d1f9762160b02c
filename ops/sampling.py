"""Random tensors, drawn at the thread's address: see `shoal.ops.random`.

Parameters of distributions may be numbers or tensors; `uniform` and `normal` are differentiable with respect to
theirs. Without ``size`` the result has the shape to which the parameters broadcast.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import random
from shoal.ops.creation import here
from shoal.ops.registry import Shape, Traced
from shoal.ops.tensor import Tensor, raw

__all__ = [
    "bernoulli",
    "beta",
    "categorical",
    "chisquare",
    "choice",
    "exponential",
    "gamma",
    "gumbel",
    "laplace",
    "multinomial",
    "normal",
    "permutation",
    "poisson",
    "rand",
    "randint",
    "randn",
    "shuffle",
    "uniform",
]

Size = int | Sequence[int] | None


def _shape(size: Size, *parameters: Any) -> Shape:
    if size is None:
        return np.broadcast_shapes(*(tuple(getattr(p, "shape", ())) for p in parameters))
    return (size,) if isinstance(size, int) else tuple(size)


def _key(purpose: str) -> Any:
    key = random.key(purpose)
    return key if isinstance(key, Traced) else here(key)


def uniform(low: Any = 0.0, high: Any = 1.0, size: Size = None, dtype: Any = np.float32) -> Any:
    """Numbers from ``low`` up to, but without, ``high``."""
    drawn = random.random_uniform(_key("uniform"), shape=_shape(size, low, high), dtype=np.dtype(dtype).name)
    if isinstance(low, float) and isinstance(high, float) and (low, high) == (0.0, 1.0):
        return drawn
    return low + (high - low) * drawn


def normal(loc: Any = 0.0, scale: Any = 1.0, size: Size = None, dtype: Any = np.float32) -> Any:
    """Numbers of the normal distribution with mean ``loc`` and standard deviation ``scale``."""
    drawn = random.random_normal(_key("normal"), shape=_shape(size, loc, scale), dtype=np.dtype(dtype).name)
    if isinstance(loc, float) and isinstance(scale, float) and (loc, scale) == (0.0, 1.0):
        return drawn
    return loc + scale * drawn


def bernoulli(prob: Any, size: Size = None, dtype: Any = np.float32) -> Any:
    """1 with probability ``prob``, else 0."""
    drawn = random.random_uniform(_key("bernoulli"), shape=_shape(size, prob))
    return (drawn < prob).astype(dtype)


def rand(*shape: int) -> Any:
    """Numbers from 0 up to 1, in the given shape."""
    return uniform(size=shape)


def randn(*shape: int) -> Any:
    """Numbers of the standard normal distribution, in the given shape."""
    return normal(size=shape)


def randint(low: int, high: int | None = None, size: Size = None, dtype: Any = np.int64) -> Tensor:
    """Integers from ``low`` up to, but without, ``high``; from 0 up to ``low`` if only one is given."""
    return here(random.generator("randint").integers(low, high, _shape(size), dtype=dtype))


def choice(a: Any, size: Size = None, replace: bool = True, p: Any = None) -> Tensor:
    """Elements of ``a``, or of arange(a) for a number, chosen with probabilities ``p`` (equal ones if None)."""
    chances = None if p is None else np.asarray(raw(p), np.float64)
    if chances is not None:
        chances = chances / chances.sum()
    return here(random.generator("choice").choice(raw(a), _shape(size), replace, chances))


def permutation(x: Any) -> Tensor:
    """A copy of ``x`` in random order along its first axis; of arange(x) for a number."""
    return here(random.generator("permutation").permutation(raw(x)))


def shuffle(x: Any) -> None:
    """Put ``x`` in random order along its first axis, in place."""
    order = random.generator("shuffle").permutation(len(x))
    x[:] = x[order]


def exponential(scale: Any = 1.0, size: Size = None, dtype: Any = np.float32) -> Tensor:
    """Numbers of the exponential distribution with mean ``scale``."""
    drawn = random.generator("exponential").exponential(raw(scale), _shape(size, scale))
    return here(np.asarray(drawn, dtype))


def gamma(shape: Any, scale: Any = 1.0, size: Size = None, dtype: Any = np.float32) -> Tensor:
    """Numbers of the gamma distribution with mean ``shape`` * ``scale``."""
    drawn = random.generator("gamma").gamma(raw(shape), raw(scale), _shape(size, shape, scale))
    return here(np.asarray(drawn, dtype))


def beta(a: Any, b: Any, size: Size = None, dtype: Any = np.float32) -> Tensor:
    """Numbers of the beta distribution, whose mean is a / (a + b)."""
    return here(np.asarray(random.generator("beta").beta(raw(a), raw(b), _shape(size, a, b)), dtype))


def chisquare(df: Any, size: Size = None, dtype: Any = np.float32) -> Tensor:
    """Sums of the squares of ``df`` standard normal numbers."""
    return here(np.asarray(random.generator("chisquare").chisquare(raw(df), _shape(size, df)), dtype))


def laplace(loc: Any = 0.0, scale: Any = 1.0, size: Size = None, dtype: Any = np.float32) -> Tensor:
    """Numbers of the Laplace distribution around ``loc``."""
    drawn = random.generator("laplace").laplace(raw(loc), raw(scale), _shape(size, loc, scale))
    return here(np.asarray(drawn, dtype))


def gumbel(loc: Any = 0.0, scale: Any = 1.0, size: Size = None, dtype: Any = np.float32) -> Tensor:
    """Numbers of the Gumbel distribution, that of the largest of many exponential ones."""
    drawn = random.generator("gumbel").gumbel(raw(loc), raw(scale), _shape(size, loc, scale))
    return here(np.asarray(drawn, dtype))


def poisson(lam: Any = 1.0, size: Size = None, dtype: Any = np.float32) -> Tensor:
    """Counts with mean ``lam``."""
    return here(np.asarray(random.generator("poisson").poisson(raw(lam), _shape(size, lam)), dtype))


def multinomial(n: int, pvals: Any, size: Size = None) -> Tensor:
    """How often each of the outcomes with probabilities ``pvals`` occurs in ``n`` trials; int64."""
    chances = np.asarray(raw(pvals), np.float64)
    drawn = random.generator("multinomial").multinomial(n, chances / chances.sum(), _shape(size) or None)
    return here(np.asarray(drawn))


def categorical(probabilities: Any, size: Size = None) -> Tensor:
    """For each row of probabilities (last axis) the number of an outcome, drawn independently; int64.

    Args:
        probabilities: (..., outcomes), not negative; rows are divided by their sums.
        size: shape in front of the rows' shape.
    Raises:
        ShapeError: there is no axis of outcomes.
    """
    p = np.asarray(raw(probabilities), np.float64)
    if not p.ndim or not p.shape[-1]:
        raise ShapeError(f"categorical: probabilities of shape {p.shape} have no axis of outcomes")
    edges = np.cumsum(p, axis=-1)
    drawn = random.generator("categorical").random((*_shape(size), *p.shape[:-1], 1)) * edges[..., -1:]
    return here((drawn >= edges).sum(axis=-1))
