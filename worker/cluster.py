"""This process's place among the workers: what scripts ask for rank, size and seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.kvstore.wire.messages import Shared
from shoal.kvstore.wire.schema import Plain

__all__ = ["Elastic", "Place", "current", "join", "leave", "num_workers", "rank"]


class Elastic(Protocol):
    """How a worker takes part in changes of the set of workers."""

    @property
    def shares(self) -> Sequence[Shared]:
        """Who took part, oldest first; the first is the set with which the run began."""
        ...

    @property
    def changing(self) -> bool:
        """Whether this worker is waited for at the end of a batch."""
        ...

    @property
    def leaving(self) -> str:
        """Why this worker is to leave at the end of its batch; "" if it stays."""
        ...

    @property
    def chief(self) -> int:
        """The smallest rank that takes part."""
        ...

    def meet(self, cursor: Plain, timeout_s: float) -> Shared:
        """Come to the end of a batch: returns when the set has changed, or, unchanged, if it does so later."""
        ...

    def enter(self, timeout_s: float) -> Shared:
        """The first such point of a worker that joined late: it takes part from then on."""
        ...


def _none(store: int) -> int:
    return 0


@dataclass(frozen=True)
class Place:
    """Rank among ``num_workers`` workers, and the run's seed; ``joined`` is False for a script run by itself.

    ``algo`` is what the run was started with (`shoal.worker.algo`), "" where it leaves everything to the script.

    Args:
        incarnation: how many processes have been this rank.
        late: it joined while the run was under way, and takes part from `Elastic.enter` on.
        counted: by store, how many pushes of earlier incarnations are counted by every slice; 0 of a late worker.
        elastic: how it takes part in changes of the set of workers; None where there are none.
    """

    rank: int = 0
    num_workers: int = 1
    seed: int = 0
    joined: bool = False
    algo: str = ""
    incarnation: int = 1
    late: bool = False
    counted: Callable[[int], int] = _none
    elastic: Elastic | None = None


_place = Place()


def current() -> Place:
    """Where this process stands."""
    return _place


def join(
    rank: int,
    num_workers: int,
    seed: int,
    algo: str = "",
    incarnation: int = 1,
    late: bool = False,
    counted: Callable[[int], int] = _none,
    elastic: Elastic | None = None,
) -> None:
    """This process has become a worker; see `Place`."""
    global _place
    _place = Place(rank, num_workers, seed, True, algo, incarnation, late, counted, elastic)


def leave() -> None:
    """This process is on its own again."""
    global _place
    _place = Place()


def rank() -> int:
    """Number of this worker, from 0; 0 in a script that runs by itself."""
    return _place.rank


def num_workers() -> int:
    """How many workers the run has; 1 in a script that runs by itself."""
    return _place.num_workers
