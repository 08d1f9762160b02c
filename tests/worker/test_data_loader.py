"""Loaders: batches as tensors, epochs that advance, positions that can be saved, and reading ahead."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, DataError
from shoal.ops import random
from shoal.ops.tensor import Tensor
from shoal.worker import cluster
from shoal.worker.data import ArrayDataset, DataLoader, SimpleDataset, stack
from shoal.worker.data.prefetch import read_ahead
from tests.patience import PATIENCE_S

NUMBERS = np.arange(10.0, dtype="float32")


def batches(loader: Any) -> list[list[float]]:
    """One epoch, as plain numbers."""
    return [batch.asnumpy().tolist() for batch in loader]


@pytest.fixture
def second_of_two() -> Iterator[None]:
    """This process as worker 1 of 2, in a run with seed 5."""
    cluster.join(1, 2, 5)
    yield
    cluster.leave()


def test_batches_are_tensors_of_each_part() -> None:
    data = ArrayDataset(np.ones((5, 1, 8, 8), "float32"), np.arange(5))
    x, y = next(iter(DataLoader(data, 2)))
    assert isinstance(x, Tensor)
    assert (x.shape, y.shape) == ((2, 1, 8, 8), (2,))
    assert (x.dtype.name, y.dtype.name) == ("float32", "int64")


def test_without_shuffling_every_sample_comes_once_in_order() -> None:
    loader = DataLoader(ArrayDataset(NUMBERS), 4)
    assert batches(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader) == 3


def test_shuffling_leaves_out_what_does_not_fill_a_batch() -> None:
    loader = DataLoader(ArrayDataset(NUMBERS), 4, shuffle=True)
    found = batches(loader)
    assert len(loader) == len(found) == 2
    assert len({x for batch in found for x in batch}) == 8


@pytest.mark.parametrize(("last_batch", "sizes"), [("keep", [4, 4, 2]), ("discard", [4, 4]), ("pad", [4, 4, 4])])
def test_last_batch_may_be_chosen(last_batch: str, sizes: list[int]) -> None:
    for shuffle in (False, True):
        assert [len(b) for b in batches(DataLoader(ArrayDataset(NUMBERS), 4, shuffle, last_batch))] == sizes


def test_each_pass_is_the_next_epoch_and_loaders_agree() -> None:
    one, other = (DataLoader(ArrayDataset(NUMBERS), 5, shuffle=True) for _ in range(2))
    epochs = [batches(one) for _ in range(3)]
    assert len({str(e) for e in epochs}) == 3
    other.set_epoch(2)
    assert batches(other) == epochs[2]
    other.set_epoch(0)
    assert batches(other) == epochs[0]
    assert batches(other) == epochs[1]


def test_a_pass_that_was_left_early_does_not_change_the_next() -> None:
    one, other = (DataLoader(ArrayDataset(NUMBERS), 2, shuffle=True) for _ in range(2))
    next(iter(one))
    batches(other)
    assert batches(one) == batches(other)


@settings(max_examples=25)
@given(epochs=st.integers(0, 2), steps=st.integers(0, 5), prefetch=st.integers(0, 3))
def test_a_restored_loader_goes_on_where_the_other_stood(epochs: int, steps: int, prefetch: int) -> None:
    one, other = (DataLoader(ArrayDataset(NUMBERS), 2, shuffle=True, prefetch=prefetch) for _ in range(2))
    for _ in range(epochs):
        batches(one)
    running = iter(one)
    for _ in range(steps):
        next(running)
    other.restore(one.state())
    rest = batches(running) or batches(one)
    assert batches(other) == rest
    assert other.state() == one.state()


def test_a_restored_step_survives_setting_its_own_epoch() -> None:
    loader = DataLoader(ArrayDataset(NUMBERS), 2)
    loader.restore({"epoch": 3, "step": 4})
    loader.set_epoch(3)
    assert batches(loader) == [[8, 9]]
    assert loader.state() == {"epoch": 4, "step": 0}
    loader.set_epoch(3)
    assert len(batches(loader)) == 5


def test_a_position_of_another_loader_is_refused() -> None:
    loader = DataLoader(ArrayDataset(NUMBERS), 5)
    with pytest.raises(ConfigError, match=r"cannot restore epoch 0, step 4: DataLoader\(10 samples, 2 batches of 5"):
        loader.restore({"epoch": 0, "step": 4})


def test_shards_divide_every_global_batch() -> None:
    alone = batches(DataLoader(ArrayDataset(NUMBERS), 4, shuffle=True, seed=3))
    parts = [
        batches(DataLoader(ArrayDataset(NUMBERS), 2, shuffle=True, seed=3, num_shards=2, shard_index=r)) for r in (0, 1)
    ]
    assert [a + b for a, b in zip(*parts, strict=True)] == alone


@pytest.mark.usefixtures("second_of_two")
def test_in_a_cluster_shuffled_passes_are_divided_and_others_are_whole() -> None:
    training, testing = DataLoader(ArrayDataset(NUMBERS), 2, shuffle=True), DataLoader(ArrayDataset(NUMBERS), 5)
    assert (training.sharding.rank, training.sharding.num_workers, training.sharding.seed) == (1, 2, 5)
    assert (testing.sharding.rank, testing.sharding.num_workers) == (0, 1)
    assert repr(training) == "DataLoader(10 samples, 2 batches of 2 an epoch, shard 1 of 2, seed 5, shuffled)"


@pytest.mark.usefixtures("second_of_two")
def test_in_a_cluster_the_shards_may_be_chosen() -> None:
    loader = DataLoader(ArrayDataset(NUMBERS), 2, shuffle=True, num_shards=1, shard_index=0, seed=9)
    assert (loader.sharding.rank, loader.sharding.num_workers, loader.sharding.seed) == (0, 1, 9)


@pytest.mark.parametrize("params", [{"num_shards": 2}, {"shard_index": 0}, {"prefetch": -1}, {"batch_size": 0}])
def test_arguments_that_do_not_fit_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DataLoader(ArrayDataset(NUMBERS), **{"batch_size": 2, **params})


def test_in_a_script_by_itself_the_seed_is_the_one_that_was_set() -> None:
    random.seed(11)
    try:
        assert DataLoader(ArrayDataset(NUMBERS), 2, shuffle=True).sharding.seed == 11
    finally:
        random.seed(0)


def test_any_sequence_of_samples_can_be_loaded() -> None:
    found = list(DataLoader([(i / 4, i) for i in range(3)], 2))
    assert [type(part) for part in found[0]] == [Tensor, Tensor]
    assert found[0][0].dtype == np.float32
    assert found[0][0].asnumpy().tolist() == [0.0, 0.25]
    assert found[1][1].asnumpy().tolist() == [2]


def test_transforms_reach_the_batch() -> None:
    data = ArrayDataset(NUMBERS, NUMBERS).transform_first(lambda x: -x)
    x, y = next(iter(DataLoader(data, 3)))
    assert x.asnumpy().tolist() == [0, -1, -2]
    assert y.asnumpy().tolist() == [0, 1, 2]


def test_subsets_of_arrays_are_read_at_once_and_right() -> None:
    data = ArrayDataset(NUMBERS).filter(lambda x: x % 2 == 1).take(4).shard(2, 1)
    assert data.gather(np.array([1, 0])).tolist() == [7, 5]
    assert batches(DataLoader(data, 2)) == [[5, 7]]


def test_a_data_set_that_reads_arrays_in_its_own_way_is_asked_for_each_sample() -> None:
    class Negated(ArrayDataset):
        def __getitem__(self, index: int) -> Any:
            return -super().__getitem__(index)

    assert batches(DataLoader(Negated(NUMBERS), 3))[0] == [0, -1, -2]


def test_a_batch_may_be_made_in_ones_own_way() -> None:
    def padded(samples: list[list[int]]) -> Any:
        return np.array([s + [0] * (3 - len(s)) for s in samples]), [len(s) for s in samples]

    values, lengths = next(iter(DataLoader(SimpleDataset([[1], [1, 2, 3]]), 2, batchify_fn=padded)))
    assert values.asnumpy().tolist() == [[1, 0, 0], [1, 2, 3]]
    assert lengths == (1, 3)


@pytest.mark.parametrize(
    ("samples", "dtype"),
    [
        ([1.5, 2.5], "float32"),
        ([np.float64(1.5), np.float64(2.5)], "float64"),
        ([1, 2], "int64"),
        ([True, False], "bool"),
        ([np.zeros(2, "uint8")] * 2, "uint8"),
        ([Tensor(np.zeros(2, "float16"))] * 2, "float16"),
    ],
)
def test_arrays_keep_their_dtype_and_plain_floats_are_single(samples: list[Any], dtype: str) -> None:
    assert stack(samples).dtype == dtype


def test_nested_parts_are_stacked_each() -> None:
    (a, (b, c)) = stack([(1, (2, 3)), (4, (5, 6))])
    assert (a.tolist(), b.tolist(), c.tolist()) == ([1, 4], [2, 5], [3, 6])


@pytest.mark.parametrize("samples", [[np.zeros(2), np.zeros(3)], [(1, 2), (1, 2, 3)]])
def test_samples_that_do_not_stack_are_refused(samples: list[Any]) -> None:
    with pytest.raises(DataError, match="samples of one batch have different"):
        stack(samples)


@pytest.mark.parametrize("prefetch", [1, 3, 100])
def test_reading_ahead_changes_nothing(prefetch: int) -> None:
    plain, ahead = (DataLoader(ArrayDataset(NUMBERS), 3, shuffle=True, prefetch=p) for p in (0, prefetch))
    assert [batches(plain) for _ in range(2)] == [batches(ahead) for _ in range(2)]


def test_the_position_counts_what_was_given_not_what_was_read_ahead() -> None:
    loader = DataLoader(ArrayDataset(NUMBERS), 2, prefetch=5)
    running = iter(loader)
    next(running)
    next(running)
    assert loader.state() == {"epoch": 0, "step": 2}
    running.close()


def test_what_fails_while_reading_ahead_is_raised_after_the_batches_before_it() -> None:
    class Broken(SimpleDataset):
        def __getitem__(self, index: int) -> Any:
            if index == 5:
                raise OSError("sector not found")
            return super().__getitem__(index)

    running = iter(DataLoader(Broken(list(range(10))), 2, prefetch=2))
    assert [next(running).asnumpy().tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(OSError, match="sector not found"):
        next(running)
    assert not readers()


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "shoal-read-ahead"]


def test_leaving_a_loop_early_ends_the_thread() -> None:
    for _ in DataLoader(ArrayDataset(NUMBERS), 2, prefetch=2):
        assert readers()
        break
    assert not readers()


def test_no_more_is_read_ahead_than_asked_for() -> None:
    taken: list[int] = []
    third = threading.Event()

    def numbers() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            if i == 2:
                third.set()
            yield i

    ahead = read_ahead(numbers(), 2)
    assert next(ahead) == 0
    assert next(ahead) == 1  # frees the place of 0
    assert third.wait(PATIENCE_S)
    ahead.close()
    assert len(taken) <= 4


def test_reading_ahead_of_nothing_gives_nothing() -> None:
    assert list(read_ahead(iter(()), 3)) == []
