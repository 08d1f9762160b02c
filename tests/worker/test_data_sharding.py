"""Who sees which samples when: complete, disjoint, equal for every number of workers, and the same everywhere."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.worker.data import Sharding
from shoal.worker.data.sharding import LAST_BATCH, permutation

sizes = st.integers(1, 300)
shapes = {
    "num_samples": sizes, "batch_size": st.integers(1, 20), "num_workers": st.integers(1, 5),
    "seed": st.integers(0, 2**64 - 1), "shuffle": st.booleans(),
}  # fmt: skip


def workers(last_batch: str, **params: Any) -> list[Sharding]:
    """One sharding for each worker, or none if the samples make no batch."""
    try:
        return [Sharding(rank=r, last_batch=last_batch, **params) for r in range(params["num_workers"])]
    except ConfigError:
        return []


@settings(max_examples=60)
@given(last_batch=st.sampled_from(LAST_BATCH), epoch=st.integers(0, 5), params=st.fixed_dictionaries(shapes))
def test_the_workers_parts_make_the_global_batch_in_order_of_rank(
    last_batch: str, epoch: int, params: dict[str, Any]
) -> None:
    shards = workers(last_batch, **params)
    for step in range(shards[0].steps if shards else 0):
        parts = [s.indices(epoch, step) for s in shards]
        assert len({len(p) for p in parts}) == 1
        assert np.array_equal(np.concatenate(parts), shards[0].global_indices(epoch, step))


@settings(max_examples=60)
@given(last_batch=st.sampled_from(["discard", "keep"]), epoch=st.integers(0, 5), params=st.fixed_dictionaries(shapes))
def test_no_sample_occurs_twice_and_only_the_stated_ones_are_left_out(
    last_batch: str, epoch: int, params: dict[str, Any]
) -> None:
    shards = workers(last_batch, **params)
    if not shards:
        return
    seen = np.concatenate([s.indices(epoch, step) for s in shards for step in range(s.steps)])
    assert len(set(seen.tolist())) == len(seen)
    unit = shards[0].global_batch_size if last_batch == "discard" else params["num_workers"]
    assert len(seen) == params["num_samples"] - params["num_samples"] % unit


@settings(max_examples=40)
@given(params=st.fixed_dictionaries(shapes))
def test_padding_sees_every_sample_in_full_batches(params: dict[str, Any]) -> None:
    shards = workers("pad", **params)
    batches = [s.indices(0, step) for s in shards for step in range(s.steps)]
    assert {len(b) for b in batches} == {params["batch_size"]}
    assert set(np.concatenate(batches).tolist()) == set(range(params["num_samples"]))
    assert sum(map(len, batches)) - params["num_samples"] < shards[0].global_batch_size


@settings(max_examples=40)
@given(num_samples=st.integers(4, 300), quarter=st.integers(1, 10), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_one_two_and_four_workers_see_the_same_global_batches(
    num_samples: int, quarter: int, seed: int, epoch: int
) -> None:
    total = 4 * quarter
    if num_samples < total:
        return
    alone = Sharding(num_samples=num_samples, batch_size=total, seed=seed)
    for count in (2, 4):
        many = Sharding(num_samples=num_samples, batch_size=total // count, num_workers=count, seed=seed)
        assert many.steps == alone.steps
        for step in range(alone.steps):
            assert np.array_equal(many.global_indices(epoch, step), alone.indices(epoch, step))


@settings(max_examples=30)
@given(num_samples=st.integers(1, 300), seed=st.integers(0, 99), epochs=st.lists(st.integers(0, 50), min_size=1))
def test_indices_depend_on_nothing_but_the_arguments(num_samples: int, seed: int, epochs: list[int]) -> None:
    shard = Sharding(num_samples=num_samples, batch_size=1, seed=seed)
    found = [shard.indices(epoch, num_samples - 1).tolist() for epoch in epochs]
    permutation.cache_clear()
    fresh = Sharding(num_samples=num_samples, batch_size=1, seed=seed)
    assert [fresh.indices(e, num_samples - 1).tolist() for e in reversed(epochs)] == found[::-1]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(permutation(50, seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert permutation(12, 7, 0).tolist() == [5, 1, 7, 2, 0, 10, 6, 9, 11, 8, 3, 4]
    assert permutation(12, 7, 1).tolist() == [10, 2, 6, 4, 5, 8, 7, 1, 11, 0, 3, 9]


def test_every_sample_comes_early_about_equally_often() -> None:
    first = np.bincount([permutation(4, seed, 0)[0] for seed in range(400)], minlength=4)
    assert first.min() > 70


def test_without_shuffling_the_order_is_that_of_the_data_set() -> None:
    shard = Sharding(num_samples=10, batch_size=2, rank=1, num_workers=2, shuffle=False)
    assert [shard.indices(epoch, 1).tolist() for epoch in (0, 7)] == [[6, 7], [6, 7]]


@pytest.mark.parametrize(
    ("last_batch", "steps", "last"), [("discard", 2, [6, 7]), ("keep", 3, [9]), ("pad", 3, [0, 1])]
)
def test_what_becomes_of_the_last_samples(last_batch: str, steps: int, last: list[int]) -> None:
    shard = Sharding(
        num_samples=10, batch_size=2, rank=1, num_workers=2, shuffle=False, last_batch=last_batch
    )  # fmt: skip
    assert shard.steps == steps
    assert shard.indices(0, steps - 1).tolist() == last


def test_padding_a_tiny_data_set_goes_around_more_than_once() -> None:
    shard = Sharding(num_samples=3, batch_size=8, shuffle=False, last_batch="pad")
    assert shard.indices(0, 0).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected a whole number, at least 1"),
        ({"batch_size": 16.0}, "batch_size is 16.0, expected a whole number"),
        ({"rank": 2, "num_workers": 2}, "worker 2 of 2: expected 0 <= rank < num_workers"),
        ({"rank": -1}, "worker -1 of 1"),
        ({"num_workers": 0}, "worker 0 of 0"),
        ({"last_batch": "rollover"}, "last_batch is 'rollover', expected one of discard, keep, pad"),
        ({"num_samples": 3}, "3 samples make no batch with batch_size=4, num_workers=1 and last_batch='discard'"),
        ({"num_samples": 0, "last_batch": "pad"}, "0 samples make no batch"),
        (
            {"num_samples": 2, "num_workers": 3, "last_batch": "keep"},
            "2 samples make no batch with batch_size=4, num_workers=3",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Sharding(**{"num_samples": 100, "batch_size": 4, **params})
    assert message in str(caught.value)


@pytest.mark.parametrize(("epoch", "step"), [(0, 5), (0, -1), (-1, 0)])
def test_a_step_that_does_not_exist_is_refused(epoch: int, step: int) -> None:
    with pytest.raises(ConfigError, match="steps are 0 to 4"):
        Sharding(num_samples=10, batch_size=2).indices(epoch, step)
