"""The data plan: whatever joins, leaves and dies, every sample of a pass is in exactly one batch of one worker."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.worker.data import Sharding
from shoal.worker.data.plan import Left, Plan, Turn, as_ranges, from_ranges

PASSES = 3


def batch(plan: Plan, rank: int, place: int) -> tuple[int, list[int]]:
    """Pass and places of the batch at ``place`` of a worker's queue in the last segment."""
    at = len(plan.segments) - 1
    turn = plan.turn(at, rank, place)
    assert turn is not None
    return turn.number, plan.places(at, rank, turn).tolist()


def rest(plan: Plan, rank: int, place: int, passes: int) -> list[tuple[int, list[int]]]:
    """What a worker still gets of the first ``passes`` passes."""
    at = len(plan.segments) - 1
    return [(t.number, plan.places(at, rank, t).tolist()) for t in plan.upcoming(at, rank, place, passes - 1)]


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5), st.sampled_from(["discard", "keep", "pad"]))
def test_without_a_change_the_plan_is_the_sharding(samples: int, size: int, workers: int, last: str) -> None:
    plan = Plan(samples, size, last, range(workers))
    if not plan.steps(0, 0, 0):
        return
    for rank in range(workers):
        sharding = Sharding(
            num_samples=samples,
            batch_size=size,
            rank=rank,
            num_workers=workers,
            shuffle=False,
            last_batch=last,
        )
        wanted = [(p, sharding.indices(p, s).tolist()) for p in range(2) for s in range(sharding.steps)]
        assert rest(plan, rank, 0, 2) == wanted


class World:
    """Workers that follow one plan, at any speed, while the set of them changes."""

    def __init__(self, samples: int, size: int, workers: int, last: str) -> None:
        self.plan = Plan(samples, size, last, range(workers))
        self.ranks, self.done = set(range(workers)), dict.fromkeys(range(workers), 0)
        self.idle: set[int] = set()
        self.counted: list[tuple[int, int, list[int]]] = []  # pass, rank, places

    def work(self, rank: int, batches: int) -> None:
        for _ in range(batches):
            at = len(self.plan.segments) - 1
            if rank in self.idle or self.done[rank] >= self.plan.end(at, rank, PASSES - 1):
                return
            number, places = batch(self.plan, rank, self.done[rank])
            self.counted.append((number, rank, places))
            self.done[rank] += 1

    def change(self, gone: set[int], joined: set[int]) -> None:
        self.ranks = (self.ranks - gone) | joined
        at = len(self.plan.segments) - 1
        ended = {r for r, n in self.done.items() if n >= self.plan.end(at, r, PASSES - 1)}
        self.idle = (self.ranks - joined) & ended
        self.plan.share(sorted(self.ranks), self.done, gone, self.idle)
        self.done = dict.fromkeys(self.ranks, 0)

    def finish(self) -> None:
        for rank in sorted(self.ranks):
            self.work(rank, 10**6)


@st.composite
def histories(draw: Callable[[Any], Any]) -> World:
    workers = draw(st.integers(1, 4))
    world = World(
        draw(st.integers(1, 50)), draw(st.integers(1, 3)), workers, draw(st.sampled_from(["discard", "keep"]))
    )
    for _ in range(draw(st.integers(0, 4))):
        for rank in sorted(world.ranks):
            world.work(rank, draw(st.integers(0, 12)))
        at = len(world.plan.segments) - 1
        busy = {r for r, n in world.done.items() if n < world.plan.end(at, r, PASSES - 1)}
        gone = draw(st.sets(st.sampled_from(sorted(world.ranks)), max_size=len(world.ranks)))
        joined = draw(st.sets(st.integers(0, 6), max_size=2)) - (world.ranks - gone)
        if busy and (world.ranks - gone - (world.ranks - busy)) | joined:  # somebody is there who still trains
            world.change(gone, joined)
    world.finish()
    return world


@settings(max_examples=300)
@given(histories())
def test_no_sample_comes_twice_in_a_pass_and_less_than_a_global_batch_is_left_out(world: World) -> None:
    plan = world.plan
    for number in range(PASSES):
        seen = Counter(place for n, _, places in world.counted if n == number for place in places)
        assert all(count == 1 for count in seen.values())
        most = max(len(s.ranks) for s in plan.segments)
        allowed = most * plan.batch_size - 1 if plan.last_batch == "discard" else most - 1
        assert plan.num_samples - len(seen) <= allowed


@settings(max_examples=200)
@given(histories())
def test_all_workers_of_a_segment_have_equally_many_batches_of_equal_size(world: World) -> None:
    for at, segment in enumerate(world.plan.segments):
        for number in range(PASSES):
            takers = segment.takers(number)
            assert len({world.plan.steps(at, r, number) for r in takers}) <= 1
            for place in range(world.plan.steps(at, takers[0], number) if takers else 0):
                turns = [Turn(number, place)] * len(takers)
                sizes = {len(world.plan.places(at, r, t)) for r, t in zip(takers, turns, strict=True)}
                assert len(sizes) == 1 and 0 not in sizes


def test_what_a_dead_worker_had_been_dealt_comes_first() -> None:
    plan = Plan(12, 2, "discard", [0, 1])
    plan.share([0], {0: 1, 1: 0}, gone=[1])  # worker 0 has done places 0 and 1, worker 1 nothing
    assert rest(plan, 0, 0, 1) == [(0, [2, 3]), (0, [6, 7]), (0, [10, 11]), (0, [4, 5]), (0, [8, 9])]


def test_a_newcomer_begins_in_the_first_pass_that_is_not_over() -> None:
    plan = Plan(8, 2, "discard", [0])
    plan.share([0, 1], {0: 6})  # worker 0 is half through its second pass
    assert plan.steps(1, 1, 0) == 0
    assert rest(plan, 1, 0, 3) == [(1, [6, 7]), (2, [2, 3]), (2, [6, 7])]


def test_a_worker_that_is_ahead_takes_its_part_of_what_the_dead_left_in_an_earlier_pass() -> None:
    plan = Plan(8, 2, "discard", [0, 1])
    plan.share([0], {0: 3, 1: 1}, gone=[1])
    assert rest(plan, 0, 0, 2) == [(0, [6, 7]), (1, [2, 3]), (1, [6, 7]), (1, [4, 5])]


def test_a_pass_that_everybody_has_done_is_over_whatever_was_left_out() -> None:
    plan = Plan(7, 2, "discard", [0, 1])  # places 4, 5 and 6 fill no global batch
    plan.share([0], {0: 1, 1: 1}, gone=[1])
    assert rest(plan, 0, 0, 1) == []
    assert len(rest(plan, 0, 0, 2)) == 3


def test_who_trains_no_more_is_dealt_nothing_of_what_was_begun() -> None:
    plan = Plan(8, 2, "discard", [0, 1])
    plan.share([0, 1, 2], {0: 2, 1: 1}, idle=[0])
    assert [plan.steps(1, r, 0) for r in (0, 1, 2)] == [0, 0, 0]  # two places, two workers: no global batch
    assert [plan.steps(1, r, 1) for r in (0, 1, 2)] == [1, 1, 1]


def test_a_rank_that_was_given_up_may_come_back_with_the_same_change() -> None:
    plan = Plan(12, 2, "discard", [0, 1])
    plan.share([0, 1], {0: 2, 1: 1}, gone=[1])
    assert rest(plan, 0, 0, 1) == [(0, [6, 7])]
    assert rest(plan, 1, 0, 1) == [(0, [10, 11])]


def test_a_run_may_go_on_in_the_middle_of_a_pass() -> None:
    plan = Plan(12, 2, "discard", [0, 1], Left(np.arange(12), first=2))
    assert rest(plan, 0, 0, 1) == [(0, [8, 9])]
    plan.share([0], {0: 1, 1: 0}, gone=[1])
    assert rest(plan, 0, 0, 1) == [(0, [10, 11])]


def test_padding_begins_again_with_the_pass() -> None:
    plan = Plan(7, 2, "pad", [0, 1])
    plan.share([0, 1], {0: 1, 1: 0})
    assert [rest(plan, r, 0, 1) for r in (0, 1)] == [[(0, [2, 3]), (0, [6, 0])], [(0, [4, 5]), (0, [1, 2])]]


@given(st.lists(st.integers(0, 30), unique=True))
def test_places_are_written_down_as_runs(places: list[int]) -> None:
    assert from_ranges(as_ranges(np.array(places, dtype=np.int64))).tolist() == places
