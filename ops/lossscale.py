"""The factor on a loss in float16, as a state machine: halved when gradients overflow, doubled when long they have not.

float16 holds nothing between 0 and 6e-8: a loss is multiplied by a large power of two, so that small gradients survive,
and gradients are divided by it before they are used. Micikevicius et al., arXiv:1710.03740.
"""

from dataclasses import dataclass, replace

from shoal.errors import ConfigError

__all__ = ["LossScale"]

LEAST, MOST = 2.0**-14, 2.0**24
"""Where the factor stops shrinking and growing."""


@dataclass(frozen=True)
class LossScale:
    """The factor, and how many steps in sequence were without overflow. Numbers and defaults are PyTorch's and MXNet's.

    Attributes:
        scale: what the loss is multiplied by.
        growth_factor: what the factor is multiplied by after ``growth_interval`` good steps in sequence.
        backoff_factor: what it is multiplied by after an overflow.
        good_steps: in sequence, since the factor changed or a step was skipped.
        skipped: steps with an overflow, in all.
    """

    scale: float = 65536.0
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    good_steps: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.growth_factor >= 1 and 0 < self.backoff_factor <= 1):
            raise ConfigError(
                f"loss scale: expected scale > 0, growth_factor >= 1, 0 < backoff_factor <= 1; got {self.scale}, "
                f"{self.growth_factor}, {self.backoff_factor}"
            )
        if self.growth_interval < 1:
            raise ConfigError(
                f"loss scale: growth_interval is a number of steps, at least 1; got {self.growth_interval}"
            )

    def after(self, overflow: bool) -> "LossScale":
        """The state after a step that had, or had not, a gradient which is not finite."""
        if overflow:
            smaller = max(self.scale * self.backoff_factor, min(LEAST, self.scale))
            return replace(self, scale=smaller, good_steps=0, skipped=self.skipped + 1)
        if self.good_steps + 1 < self.growth_interval:
            return replace(self, good_steps=self.good_steps + 1)
        return replace(self, scale=min(self.scale * self.growth_factor, max(MOST, self.scale)), good_steps=0)
