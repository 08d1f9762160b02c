"""What the records of changes say: how far every worker was, and how much of its queue it had done.

The scheduler's log has one record for each set of workers, which every worker is told (`Shared`). A worker that was
there when the set changed said itself how far it was, by its cursor; of one that was gone the servers know how many of
its pushes are counted. Everything here is a function of these records, so that all come to the same result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from shoal.errors import ConfigError

__all__ = ["Moves", "Record", "Standing", "cursor_of", "moves", "standings"]


class Record(Protocol):
    """Who takes part from one change to the next; `shoal.kvstore.wire.messages.Shared` is one."""

    @property
    def ranks(self) -> tuple[int, ...]: ...  # of the workers from now on
    @property
    def cursors(self) -> Mapping[str, Any]: ...  # by rank, of the set before: what each said of itself
    @property
    def counted(self) -> Mapping[str, Sequence[int]]: ...  # by rank, of who is gone: fewest and most pushes to a slice


@dataclass(frozen=True)
class Standing:
    """How far a worker is when a set begins: its pushes that are counted, and the training steps behind it.

    Of a newcomer the steps are those of the worker that is farthest: so are its random numbers and its schedules. Its
    pushes are what is counted of whoever had its rank before: servers count by rank.
    """

    pushes: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Moves:
    """What happened between two records.

    Args:
        done: by rank, how much of its queue a worker has done; None for one that has done all that there was.
        gone: who is not there any more; its rank may be another's by now.
        idle: who trains no more, and is there.
    """

    done: dict[int, int | None]
    gone: frozenset[int]
    idle: frozenset[int]


def cursor_of(record: Record, before: Record, rank: int) -> Mapping[str, Any] | None:
    """What a worker of the set before said of itself; None of one that was gone, or was not in that set.

    Raises:
        ConfigError: it is no cursor; the workers run different versions.
    """
    cursor = record.cursors.get(str(rank))
    if cursor is None or rank not in before.ranks or str(rank) in record.counted:
        return None
    if not isinstance(cursor, Mapping) or not all(isinstance(cursor.get(k), int) for k in ("at", "pushes", "total")):
        raise ConfigError(
            f"worker {rank} says of itself {cursor!r}, expected how far it is with its data: run the same version of "
            "shoal on every worker"
        )
    return cursor


def standings(records: Sequence[Record]) -> list[dict[int, Standing]]:
    """By rank, how far the workers of each set were when it began."""
    found = [{r: Standing() for r in records[0].ranks}]
    left: dict[int, int] = {}  # by rank, what is counted of those that are gone
    for before, record in pairwise(records):
        cursors = {r: c for r in before.ranks if (c := cursor_of(record, before, r)) is not None}
        newest = max([int(c["total"]) for c in cursors.values()], default=0)
        here = {r: Standing(int(c["pushes"]), int(c["total"])) for r, c in cursors.items() if r in record.ranks}
        left |= {int(r): max(pushes) for r, pushes in record.counted.items() if pushes}
        found.append({r: here.get(r, Standing(left.get(r, 0), newest)) for r in record.ranks})
    return found


def moves(records: Sequence[Record], batches_of: Callable[[int], int]) -> list[Moves]:
    """What happened up to each record but the first.

    Args:
        batches_of: how many batches so many pushes are.
    """
    begun, found = standings(records), []
    for (before, record), was in zip(pairwise(records), begun, strict=False):
        done: dict[int, int | None] = {}
        idle, gone = set(), set()
        for rank in before.ranks:
            cursor = cursor_of(record, before, rank)
            if cursor is not None:
                done[rank] = int(cursor["at"])
                idle |= {rank} if cursor.get("over") else set()
                continue
            gone.add(rank)
            pushes = record.counted.get(str(rank))  # a push that only some slices have counts as done
            done[rank] = None if not pushes else max(0, batches_of(max(0, max(pushes) - was[rank].pushes)))
        found.append(Moves(done, frozenset(gone), frozenset(idle)))
    return found
