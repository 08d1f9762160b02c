"""What every rule is: a correction of contributions that were computed from weights that have since moved."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shoal.kvstore.arrays import Array

__all__ = ["CellView", "Part", "Rule"]


@dataclass(frozen=True, slots=True)
class Part:
    """One contribution: whose it is, how many versions old, and its values (not to be written, nor kept: the worker may
    use that memory again)."""

    rank: int
    staleness: int
    value: Array


@dataclass(slots=True)
class CellView:
    """A slice as a rule sees it.

    Args:
        value: the present values; rules read them only.
        state: what the rule keeps of this slice, by any names it likes; empty at first.
    """

    value: Array
    state: dict[Any, Array] = field(default_factory=dict)


class Rule(ABC):
    """Corrects each contribution before contributions are reduced and the optimizer makes its step.

    Hyper-parameters are dataclass fields with defaults; `spec` is how a rule travels. Servers call it under no lock and
    from one thread.
    """

    name: ClassVar[str] = ""

    @abstractmethod
    def correct(self, cell: CellView, part: Part, out: Array) -> None:
        """Write the corrected contribution into ``out``: the value's shape, the reduction's dtype."""

    def was_read(self, cell: CellView, rank: int) -> None:  # noqa: B027  # most rules need not know
        """Worker ``rank`` is being sent the present value."""

    def spec(self) -> str:
        """The text that `parse` makes this rule from."""
        given = [
            f"{f.name}={str(v).lower() if isinstance(v, bool) else v}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]  # every registered rule is a dataclass
            if (v := getattr(self, f.name)) != f.default
        ]
        return f"{self.name}:{','.join(given)}" if given else self.name
