"""Where faults can be put in on purpose. Nothing is put in unless a run is asked to disturb itself (`shoal.lab.chaos`),
and then before the first transport is made.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.kvstore.wire.transport import Transport

__all__ = ["Faults", "faults"]


@dataclass(slots=True)
class Faults:
    """What a process does otherwise than it should.

    Args:
        transport: called with each transport that has been made; may put itself between it and its callers.
        clock: of loops, in seconds; must not go back.
        writing: called with a path before state is written there; raises OSError as a disk would.
    """

    transport: "Callable[[Transport], None] | None" = None
    clock: Callable[[], float] = time.monotonic
    writing: Callable[[str], None] | None = None


faults = Faults()
"""Of this process."""
