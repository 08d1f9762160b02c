"""A coordinator without a scheduler: for stores whose workers are threads of one process."""

import threading
from collections.abc import Sequence
from typing import Any, ClassVar

from shoal.kvstore.placement import SLICE_BYTES, Placement
from shoal.kvstore.wire.messages import Change, KeyLayout, KeySpec
from tests.patience import PATIENCE_S


class Meeting:
    """What the workers of one cluster share: where keys are, and the barrier."""

    def __init__(self, workers: int, servers: int = 1, mode: str = "", slice_bytes: int = SLICE_BYTES) -> None:
        self.workers, self.mode = workers, mode
        self.placement, self.lock = Placement(servers, slice_bytes), threading.Lock()
        self.gate = threading.Barrier(workers)


class FakeMembership:
    """One worker's coordinator."""

    changes: ClassVar[list[Change]] = []
    chief = 0

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.num_workers, self.mode, self._meeting = rank, meeting.workers, meeting.mode, meeting

    def barrier(self, name: str, timeout_s: float) -> None:
        self._meeting.gate.wait(PATIENCE_S)

    def passed(self, name: str) -> bool:
        return False

    def settle(self, store: int, optimizer: str, params: Any, gradients: bool, timeout_s: float) -> None:
        """There is no scheduler to take note."""

    def control(self, store: int, settings: dict[str, Any], at_clock: int, timeout_s: float) -> Change:
        raise AssertionError("changes need a scheduler")

    def declare(
        self,
        gate: str,
        reduce: str,
        specs: Sequence[KeySpec],
        timeout_s: float,
        *,
        store: int = 1,
        private: bool = False,
    ) -> tuple[KeyLayout, ...]:
        with self._meeting.lock:
            known = self._meeting.placement.layouts
            self._meeting.placement.add([s for s in specs if s.key not in known])
            return tuple(known[s.key] for s in specs)

    def layouts(self, gate: str, reduce: str, store: int, timeout_s: float) -> tuple[KeyLayout, ...]:
        with self._meeting.lock:
            return tuple(self._meeting.placement.layouts.values())
