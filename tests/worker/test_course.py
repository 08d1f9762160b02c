"""A worker's way through its data: loaders follow the changes of the set of workers, in the middle of a pass."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.worker.data import ArrayDataset, DataLoader
from shoal.worker.data.sharding import Sharding, permutation
from tests.worker.crowd import Crowd, Worker, on

SAMPLES = 24


class Reader:
    """A worker that iterates over a training loader, batch by batch, as far as it is told."""

    def __init__(self, crowd: Crowd, rank: int, *, passes: int = 2, **options: Any) -> None:
        given = {k: options.pop(k) for k in ("counted", "late", "ratio") if k in options}
        self.worker, self.passes, self.batches = Worker(crowd, rank, **given), passes, []
        with on(self.worker.course):
            self.loader = DataLoader(ArrayDataset(np.arange(SAMPLES)), options.pop("size", 2), shuffle=True, **options)
        self._all = self._run()

    def _run(self) -> Iterator[list[int]]:
        for number in range(self.passes):
            for batch in self.loader:
                self.batches.append((number, batch.asnumpy().tolist()))
                yield self.batches[-1][1]
                self.worker.pushes += 1

    def take(self, count: int = 10**6) -> "Reader":
        """Train on so many batches more, and come to the next boundary."""
        with on(self.worker.course):
            for _ in range(count):
                if next(self._all, None) is None:
                    break
        return self

    def shown(self) -> tuple[int, str]:
        """Length and text of the loader."""
        with on(self.worker.course):
            return len(self.loader), repr(self.loader)

    @property
    def samples(self) -> list[int]:
        return [s for _, batch in self.batches for s in batch]

    def change(self) -> None:
        self.worker.seat.changing = True


def once_each(*readers: Reader, passes: int = 2) -> bool:
    """Whether every sample has come once in each pass."""
    return Counter(s for r in readers for s in r.samples) == Counter(dict.fromkeys(range(SAMPLES), passes))


def test_without_a_change_batches_are_those_of_the_sharding() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0).take(), Reader(crowd, 1).take()
    assert once_each(one, other)
    for reader in (one, other):
        sharding = Sharding(num_samples=SAMPLES, batch_size=2, rank=reader.worker.course.rank, num_workers=2, seed=5)
        wanted = [(e, sharding.indices(e, s).tolist()) for e in range(2) for s in range(sharding.steps)]
        assert reader.batches == wanted


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_worker_that_joins_in_the_middle_of_a_pass_takes_its_part_of_the_rest(prefetch: int) -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0, prefetch=prefetch).take(3), Reader(crowd, 1, prefetch=prefetch).take(2)
    for reader in (one, other):  # both come to the boundary; the second one's arrival settles it
        reader.change()
    other.worker.seat.arrives = lambda: crowd.share((0, 1, 2))
    one.worker.course.come()
    other.worker.course.come()
    new = Reader(crowd, 2, late=True, prefetch=prefetch)
    assert new.shown()[0] == SAMPLES // 2 // 3
    for _ in range(20):
        for reader in (new, one, other):
            reader.take(1)
    # 14 samples were left, 2 of which fill no global batch of 3 workers
    first = Counter(s for r in (one, other, new) for n, batch in r.batches for s in batch if n == 0)
    assert set(first.values()) == {1} and len(first) == SAMPLES - 2
    second = Counter(s for r in (one, other, new) for n, batch in r.batches for s in batch if n == 1)
    assert second == Counter(range(SAMPLES))
    assert "shard 0 of 3" in one.shown()[1]


def test_a_newcomer_passes_over_nothing_until_the_pass_it_enters() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0, passes=3).take(8), Reader(crowd, 1, passes=3).take(8)
    for reader in (one, other):
        reader.change()
        reader.worker.course.come()
    new = Reader(crowd, 2, late=True, passes=3)
    new.worker.seat.arrives = lambda: crowd.share((0, 1, 2))
    new.take(1)
    assert new.batches[0][0] == 1 and new.worker.adopted == 2 and new.worker.resumed == 8


def test_a_worker_that_replaces_another_goes_on_behind_what_is_counted() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0).take(), Reader(crowd, 1).take(8)
    again = Reader(crowd, 1, counted=7).take()  # the last batch of the one before was not counted
    other.batches.pop()
    assert once_each(one, other, again)
    assert [n for n, _ in again.batches] == [1] * 5
    assert (again.worker.adopted, again.worker.resumed) == (1, 7)


def test_a_worker_that_replaces_another_after_a_change_knows_its_place_in_the_new_deal() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0, last_batch="keep").take(3), Reader(crowd, 1, last_batch="keep").take(2)
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=2)
    one.take(4)
    cut = len(one.batches) - 1  # of the last one the push is not counted
    one.batches.pop()
    again = Reader(crowd, 0, counted=cut, last_batch="keep").take()
    assert once_each(one, other, again)


def test_local_steps_of_a_worker_that_died_between_two_pushes_are_made_again() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0, ratio=4).take(4), Reader(crowd, 1, ratio=4).take(6)
    other.batches = other.batches[:4]  # one push of four steps is counted, two more steps were not
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=1)
    assert once_each(one.take(), other)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_who_is_left_does_what_a_dead_worker_left(prefetch: int) -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0, prefetch=prefetch).take(2), Reader(crowd, 1, prefetch=prefetch).take(4)
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=4)
    assert once_each(one.take(), other)
    assert one.shown()[0] == SAMPLES // 2


def test_the_last_worker_is_not_sent_home_while_something_is_left() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0, passes=1).take(6), Reader(crowd, 1, passes=1).take(3)
    one.change()  # comes when worker 0 has had its last batch, and not yet left the loop
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=3)
    assert once_each(one.take(), other, passes=1)


def test_where_somebody_waits_elsewhere_the_worker_goes_on_and_comes_again() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0).take(2), Reader(crowd, 1).take(1)
    one.change()
    one.take(1)
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=1)
    one.take(1)
    assert [c["at"] for c in one.worker.seat.seen] == [2, 3]
    assert once_each(one.take(), other)


def test_a_pass_that_is_left_early_stays_left() -> None:
    crowd = Crowd(1)
    reader = Reader(crowd, 0)
    with on(reader.worker.course):
        batches = iter(reader.loader)
        next(batches)
        batches.close()
    reader.change()
    reader.worker.seat.arrives = lambda: crowd.share((0,))
    reader.take(1)
    assert reader.worker.seat.seen[0]["at"] == 12 and reader.batches[0][1] == [*permutation(SAMPLES, 5, 1)[:2].tolist()]


def test_gradients_may_be_accumulated_over_several_batches() -> None:
    crowd = Crowd(2)
    one = Reader(crowd, 0, batches_per_step=3).take(2)
    one.change()
    one.take(1)
    assert not one.worker.seat.seen  # in the middle of a step nobody meets
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=1)
    other = Reader(crowd, 1, batches_per_step=3).take(3)
    one.take(1)
    assert one.worker.seat.seen[0]["at"] == 3
    assert once_each(one.take(), other)
    again = Reader(crowd, 0, batches_per_step=3, counted=1)
    assert again.worker.course.steps == 1


def test_a_state_in_the_middle_of_a_pass_that_was_dealt_anew_says_what_was_left() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0, passes=1).take(2), Reader(crowd, 1, passes=1).take(1)
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=1)
    one.take(3)
    state = one.loader.state()
    assert state["epoch"] == 0 and state["step"] == 3 and len(state["left"]) > 1
    loader = DataLoader(ArrayDataset(np.arange(SAMPLES)), 2, shuffle=True, seed=5)
    loader.restore(state)
    rest = [b.asnumpy().tolist() for b in loader]
    assert rest == [b for _, b in one.take().batches[5:]]
    assert loader.state() == {"epoch": 1, "step": 0}
    assert once_each(one, other, passes=1)


def test_a_run_that_goes_on_from_a_state_deals_the_rest_of_that_epoch() -> None:
    crowd = Crowd(2)
    readers = [Reader(crowd, r, passes=1) for r in range(2)]
    for r in readers:
        r.loader.restore({"epoch": 4, "step": 5})
        r.take()
    order = permutation(SAMPLES, 5, 4)
    assert [r.samples for r in readers] == [order[20:22].tolist(), order[22:24].tolist()]


def test_loaders_before_there_is_a_trainer_and_all_but_the_first_are_not_followed() -> None:
    crowd = Crowd(1)
    reader = Reader(crowd, 0)
    course = reader.worker.course
    course._works.clear()
    with on(course):
        next(iter(reader.loader))
        assert course.cursor()["at"] == 0
        course.opened = True
        assert len(list(reader.loader)) == 12 and course.cursor()["at"] == 12
        assert len(list(DataLoader(ArrayDataset(np.arange(SAMPLES)), 2, shuffle=True))) == 12
        assert course.cursor()["at"] == 12


def test_a_loader_made_anew_for_each_pass_is_the_same_loader() -> None:
    crowd = Crowd(1)
    worker = Worker(crowd, 0, counted=14)
    with on(worker.course):
        found = []
        for _ in range(2):
            for batch in DataLoader(ArrayDataset(np.arange(SAMPLES)), 2, shuffle=True):
                found.append(batch.asnumpy().tolist())
    assert found == permutation(SAMPLES, 5, 0)[4:].reshape(-1, 2).tolist()


def test_more_workers_than_the_data_can_be_divided_among_are_refused() -> None:
    crowd = Crowd(2)
    one = Reader(crowd, 0, size=12).take(1)
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0, 1, 2), w1=0)
    with pytest.raises(ConfigError, match="24 samples make no batch of 12 for each of 3 workers"):
        one.take(1)


def test_a_cursor_of_another_version_is_refused() -> None:
    crowd = Crowd(2)
    one = Reader(crowd, 0).take(1)
    one.change()
    crowd.cursors["1"] = "here"
    one.worker.seat.arrives = lambda: crowd.share((0, 1))
    with pytest.raises(ConfigError, match="worker 1 says of itself 'here'"):
        one.take(1)


def test_a_newcomer_under_a_rank_of_one_that_is_gone_counts_from_where_that_one_ended() -> None:
    crowd = Crowd(2)
    one, other = Reader(crowd, 0).take(3), Reader(crowd, 1).take(4)
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=3)
    other.batches.pop()
    one.take(2)
    again = Reader(crowd, 1, late=True)
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0, 1))
    one.take(1)
    again.take(2)
    assert again.worker.course.cursor()["pushes"] == 3 + 1 and again.worker.resumed == 5
    one.change()
    one.worker.seat.arrives = lambda: crowd.share((0,), w1=3 + 1)
    again.batches.pop()
    assert once_each(one.take(), other, again)
