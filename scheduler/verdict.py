"""How a scheduler's process ends, and why it must."""

from dataclasses import dataclass

__all__ = ["Ended", "Interrupted"]


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over and everybody who can know does: the scheduler may exit."""

    failed: bool
    text: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The scheduler's own process must end, for ``reason``."""

    reason: str
