"""A late worker takes part from the set on that was written down after it had come."""

from typing import Any

from shoal.kvstore.wire.messages import Met, Recalled, Shared
from shoal.worker.meeting import Meeting, Past


def shared(number: int, *ranks: int) -> Shared:
    return Shared(generation=number, number=number, ranks=ranks, cursors={}, counted={})


class Cluster:
    """Membership and client of a late worker of rank 1; ``sets`` are settled one after the other, as it comes."""

    rank, incarnation, late = 1, 2, True

    def __init__(self, *sets: Shared) -> None:
        self.shares, self.sets, self.levelled = [shared(0, 0, 1)], list(sets), -1

    def come(self, cursor: Any, counted: Any, timeout_s: float) -> Met:
        self.shares.append(self.sets.pop(0))
        return Met(number=len(self.shares) - 1, missing=())

    def recall(self, rank: int, timeout_s: float = 0.0) -> list[Recalled]:
        return []

    def remember(self, memory: Any) -> None:
        """Nothing to go on from."""

    def level(self, number: int) -> None:
        self.levelled = number


def test_a_set_in_which_somebody_else_had_the_rank_is_not_its_own() -> None:
    cluster: Any = Cluster(shared(1, 0), shared(2, 0, 1))
    found = Meeting(cluster, cluster, Past(cluster, cluster)).enter(1.0)
    assert found.number == 2 and cluster.levelled == 2
