"""What a launcher needs of the machines of a run: this one, or others.

`shoal.scheduler.run` watches over a run; who implements `Machines` only starts processes and says how they fare.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from shoal.kvstore.wire.messages import NodeStatus, Snapshot

__all__ = ["Hands", "Machines", "Process", "Where", "is_node"]


class Where(NamedTuple):
    """What each process of a run is told of its place.

    Args:
        host: address on which it listens; "" for the one that faces the scheduler.
        keys: file or directory of the cluster's key, there.
        insecure: it may do without.
        kept: directory for what processes keep of a run that has no directory; it goes when the run is over.
    """

    host: str
    keys: str
    insecure: bool = False
    kept: str = ""


class Process(Protocol):
    """A process of a run, wherever it is; on this machine a `shoal.scheduler.child.Child`."""

    name: str
    """Such as "worker 1"; a replica that has become the server is called so."""

    slot: str
    """Where it was started; another one may be started there when it has ended."""

    @property
    def pid(self) -> int:
        """On its host; 0 while it is not known."""

    @property
    def host(self) -> str:
        """As its machine calls itself."""

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it runs, or has not begun."""

    def how(self) -> str:
        """In words, how it has ended."""

    def ready(self, stopped: Callable[[], bool]) -> str | None:
        """Of a scheduler, where it listens, host:port, as soon as it does; None if it ended, or ``stopped``."""

    def signal(self, number: int) -> None:
        """Send a signal to it and its descendants, if they are there."""

    def reap(self) -> int:
        """End it, and what is left of its descendants; its exit code."""


class Hands(Protocol):
    """What machines that come and go may do to a run."""

    children: "list[Process]"

    def snapshot(self) -> Snapshot | None:
        """The last that the scheduler said."""

    def say(self, text: str) -> None:
        """Tell the user."""

    def hire(self, rank: int) -> None:
        """Start one more worker: it joins while the others go on."""

    def add_server(self, slot: str) -> None:
        """Start one more server, which slices move to."""

    def forget(self, process: Process) -> None:
        """The run goes on without it: it was told to leave, or nobody waits for it."""


class Machines(Protocol):
    """Where the processes of one run are."""

    def prepare(self, wake: Callable[[], None], stopped: Callable[[], bool]) -> Sequence[int]:
        """Make room for the servers and workers.

        Args:
            wake: to be called when a process has ended; from any thread.
            stopped: whether the launcher has been told to stop.
        Returns:
            Ranks of the workers that the run begins with; none if ``stopped``.
        Raises:
            ConfigError: there is no room.
        """

    def start(self, name: str, args: list[str], *, slot: str, ready: bool = False) -> Process:
        """Start ``shoal *args``.

        Args:
            ready: it says where it listens; see `Process.ready`.
        """

    def where(self) -> Where:
        """Where its processes listen, and what they have; known when there is room."""

    def turn(self, run: Hands) -> None:
        """Time has passed, during the run."""

    def close(self) -> None:
        """Every process has ended."""


def is_node(process: Process, node: NodeStatus | None) -> bool:
    """Whether that is what the scheduler says of this process: ids of processes mean something on one host only."""
    return node is not None and bool(process.pid) and (node.pid, node.host) == (process.pid, process.host)
