"""How much momentum asynchrony leaves to choose.

N workers that push to an asynchronous store without momentum move the weights, in the mean, like one worker with
momentum 1 - 1/N: a gradient takes effect late, at a delay that is geometric with mean N - 1 if the workers' times are
exponential (Mitliagkas et al., arXiv:1605.09774). An explicit momentum mu adds a mean delay of mu / (1 - mu). What the
user wants is the delay of both together.
"""

from shoal.errors import ConfigError

__all__ = ["lag_matched_momentum"]


def lag_matched_momentum(target: float, workers: int) -> float:
    """The explicit momentum with which ``workers`` asynchronous workers have the mean delay that momentum ``target``
    has in a synchronous run: mu with ``mu / (1 - mu) = target / (1 - target) - (workers - 1)``, not below 0.

    >>> [round(lag_matched_momentum(0.9, n), 3) for n in (1, 4, 8, 16)]
    [0.9, 0.857, 0.667, 0.0]

    Raises:
        ConfigError: ``target`` is no momentum.
    """
    if not 0.0 <= target < 1.0:
        raise ConfigError(f"a momentum is a number with 0 <= momentum < 1, got {target!r}")
    lag = max(0.0, target / (1.0 - target) - (workers - 1))
    return lag / (1.0 + lag)
