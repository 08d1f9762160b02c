"""This process's place among the workers: what scripts ask for rank, size and seed."""

from dataclasses import dataclass

__all__ = ["Place", "current", "join", "leave", "num_workers", "rank"]


@dataclass(frozen=True)
class Place:
    """Rank among ``num_workers`` workers, and the run's seed; ``joined`` is False for a script run by itself.

    ``algo`` is what the run was started with (`shoal.worker.algo`), "" where it leaves everything to the script.
    """

    rank: int = 0
    num_workers: int = 1
    seed: int = 0
    joined: bool = False
    algo: str = ""


_place = Place()


def current() -> Place:
    """Where this process stands."""
    return _place


def join(rank: int, num_workers: int, seed: int, algo: str = "") -> None:
    """This process has become a worker."""
    global _place
    _place = Place(rank, num_workers, seed, True, algo)


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
