"""What a store on servers asks of whoever knows who is in the run."""

from collections.abc import Sequence
from typing import Any, Protocol

from shoal.kvstore.wire.messages import Change, KeyLayout, KeySpec

__all__ = ["Coordinator"]


class Coordinator(Protocol):
    """What the store asks of the cluster's membership."""

    @property
    def rank(self) -> int: ...
    @property
    def num_workers(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def changes(self) -> Sequence[Change]: ...  # of settings, so far; only ever grows
    @property
    def chief(self) -> int: ...  # the rank that does what one worker does for all
    def barrier(self, name: str, timeout_s: float) -> None: ...
    def layouts(self, gate: str, reduce: str, store: int, timeout_s: float) -> Sequence[KeyLayout]: ...  # of all stores
    def passed(self, name: str) -> bool: ...  # whether the next occurrence had opened before this process joined
    def settle(self, store: int, optimizer: str, params: Any, gradients: bool, timeout_s: float) -> None: ...
    def control(self, store: int, settings: dict[str, Any], at_clock: int, timeout_s: float) -> Change: ...
    def declare(
        self,
        gate: str,
        reduce: str,
        specs: Sequence[KeySpec],
        timeout_s: float,
        *,
        store: int = 1,
        private: bool = False,
    ) -> tuple[KeyLayout, ...]: ...
