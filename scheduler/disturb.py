"""What may be done to the processes of a local run while it goes on: the launcher's side of faults on purpose."""

from typing import Protocol

from shoal.kvstore.wire.messages import Snapshot
from shoal.scheduler.machines import Process

__all__ = ["Calm", "Disturber"]


class Disturber(Protocol):
    """Told by the launcher, on its thread, of every process and of time passing."""

    def equip(self, name: str) -> tuple[dict[str, str], tuple[int, ...]]:
        """Variables and file descriptors for a process that is about to be started."""
        ...

    def born(self, child: Process) -> None:
        """The process has been started, or goes by another name now; the one before of that name is gone."""
        ...

    def turn(self, snapshot: Snapshot | None) -> float:
        """Time has passed; after how many seconds to be called again, at the latest."""
        ...

    def end(self) -> None:
        """The run is over: nothing is to be left stopped."""
        ...

    def close(self) -> None:
        """Every process has ended."""
        ...


class Calm:
    """Does nothing."""

    def equip(self, name: str) -> tuple[dict[str, str], tuple[int, ...]]:
        """Nothing."""
        return {}, ()

    def born(self, child: Process) -> None:
        """Nothing."""

    def turn(self, snapshot: Snapshot | None) -> float:
        """Nothing, for as long as you like."""
        return float("inf")

    def end(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
