"""Batches of a data set: of the whole of it, or of one worker's share."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DataError
from shoal.ops import random
from shoal.ops.backend import asnumpy
from shoal.ops.creation import here
from shoal.worker import cluster
from shoal.worker.data.course import Course, current_course
from shoal.worker.data.dataset import Indices
from shoal.worker.data.deal import Deal
from shoal.worker.data.plan import Left, Plan, as_ranges, from_ranges
from shoal.worker.data.prefetch import read_ahead
from shoal.worker.data.sharding import Sharding, permutation

__all__ = ["DataLoader", "stack"]


class DataLoader:
    """Gives the batches of one epoch each time it is iterated over; Gluon's names where it has one.

    Which samples are in which batch depends on the arguments and the epoch alone (see `Sharding`): not on the
    process, on how often or how far one has iterated before, or on ``prefetch``. Each iteration begins the epoch after
    the one before, from 0, unless `set_epoch` or `restore` say otherwise.

    By default, workers of a cluster divide shuffled passes among them, because those train, and each sees the whole of
    an unshuffled pass, because that evaluates. In a script that runs by itself both are the whole.

    When workers join, leave or die, what is left of the epoch is dealt anew to those that are there, in the middle of
    an iteration; a worker that comes later iterates over nothing until the epoch in which it takes part
    (``docs/data.md``).

    Args:
        dataset: has ``len(dataset)`` and ``dataset[i]``, such as a `Dataset` or a list.
        batch_size: samples in a batch; of one worker, if several divide the data.
        shuffle: in an order that is another in each epoch.
        last_batch: "keep", "discard" or "pad", see `Sharding`; None discards when shuffling and keeps otherwise.
        batchify_fn: makes a batch of a list of samples; None for `stack`.
        num_shards: how many workers divide the data; None for all of the cluster when shuffling, else 1.
        shard_index: which of them this is; None for the worker's rank when shuffling, else 0.
        seed: determines all shuffling; None for the run's seed, or in a script that runs by itself
            what `shoal.random.seed` has set.
        prefetch: how many batches a thread prepares in advance; 0 for none, and no thread.
        batches_per_step: how many batches make one `Trainer.step` (or one push), where gradients are accumulated.
    Raises:
        ConfigError: a number is out of its range, or no batch can be made of the samples.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool = False,
        last_batch: str | None = None,
        batchify_fn: Callable[[list[Any]], Any] | None = None,
        *,
        num_shards: int | None = None,
        shard_index: int | None = None,
        seed: int | None = None,
        prefetch: int = 0,
        batches_per_step: int = 1,
    ) -> None:
        if (num_shards is None) != (shard_index is None):
            raise ConfigError(f"num_shards={num_shards} and shard_index={shard_index}: give both or neither")
        if prefetch < 0:
            raise ConfigError(f"prefetch is {prefetch}, expected a number of batches >= 0")
        if batches_per_step < 1:
            raise ConfigError(f"batches_per_step is {batches_per_step}, expected a number of batches >= 1")
        place = cluster.current()
        if seed is None:  # in a cluster never what one worker's script may have set: all must have the same
            seed = place.seed if place.joined else random.current_seed()
        workers, rank, divides = _whose(place, shuffle, num_shards, shard_index)
        self._divides = divides and place.joined
        self.dataset = dataset
        self._sharding = Sharding(
            num_samples=len(dataset),
            batch_size=batch_size,
            rank=rank,
            num_workers=workers,
            seed=seed,
            shuffle=shuffle,
            last_batch=last_batch or ("discard" if shuffle else "keep"),
        )
        self._batchify, self._prefetch, self._per_step = batchify_fn, prefetch, batches_per_step
        self._next = self._reached = (0, 0)
        self._left: Left | None = None  # of the next iteration, if that is not what its step says
        self._reached_left: Left | None = None
        self._course: Course | None = None  # while it is being followed

    @property
    def sharding(self) -> Sharding:
        """Which samples this worker takes of an epoch that nobody has begun."""
        ranks = current_course().ranks if self._divides else None
        if ranks is None:
            return self._sharding
        rank = cluster.rank()
        return replace(self._sharding, num_workers=len(ranks), rank=ranks.index(rank) if rank in ranks else 0)

    def __len__(self) -> int:
        """Batches in an epoch that nobody has begun, with the workers that are there now."""
        return self.sharding.steps

    def __repr__(self) -> str:
        s = self.sharding
        return (
            f"DataLoader({s.num_samples} samples, {s.steps} batches of {s.batch_size} an epoch, "
            f"shard {s.rank} of {s.num_workers}, seed {s.seed}, {'shuffled' if s.shuffle else 'in order'})"
        )

    def __iter__(self) -> Generator[Any, None, None]:
        """The batches of the next epoch, as tensors."""
        (epoch, first), left = self._next, self._left
        self._next, self._left = (epoch + 1, 0), None
        self._reached, self._reached_left = (epoch, first), left
        course = current_course()
        if self._divides and course.follows(self, replace(self._sharding, rank=0)):
            if left is None and first:
                left = Left(np.arange(self._sharding.num_samples), first)
            return self._followed(course, epoch, left)
        return self._batches(epoch, first) if left is None else self._what_is_left(epoch, left)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``, from its beginning, or from the step that `restore` set for it.

        Raises:
            ConfigError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ConfigError(f"set_epoch({epoch}): epochs are counted from 0")
        if epoch != self._next[0]:
            self._next = self._reached = (epoch, 0)
            self._left = self._reached_left = None

    def state(self) -> dict[str, Any]:
        """Where the latest iteration stands: epoch and step of the batch that comes next, as plain numbers.

        Where workers have come or gone in this epoch, also what was left of it then, as ranges of places in its order.
        """
        if self._course is not None:
            self._stand(self._course)
        (epoch, step), left = self._reached, self._reached_left
        return {"epoch": epoch, "step": step, **({} if left is None else {"left": as_ranges(left.order)})}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on where `state` was taken.

        Raises:
            ConfigError: this loader has no such step; it was taken from one with other arguments.
        """
        epoch, step = int(state["epoch"]), int(state["step"])
        left = Left(from_ranges(state["left"]), step) if "left" in state else None
        steps = len(self) if left is None else self._deal(left).steps
        if epoch < 0 or not 0 <= step < steps:
            raise ConfigError(
                f"cannot restore epoch {epoch}, step {step}: {self!r} has steps 0 to {steps - 1}. "
                "Use the batch size, the number of workers and the data set of the saved run."
            )
        self._next = self._reached = (epoch, step)
        self._left = self._reached_left = left

    def _deal(self, left: Left) -> Deal:
        s = self._sharding
        return Deal(size=len(left.order), batch_size=s.batch_size, parts=s.num_workers, last_batch=s.last_batch)

    def _batches(self, epoch: int, first: int) -> Generator[Any, None, None]:
        sharding = self.sharding
        made = (self._batch(sharding.indices(epoch, step)) for step in range(first, sharding.steps))
        with closing(self._ahead(made)) as batches:
            for step, batch in enumerate(batches, first + 1):
                self._reached = (epoch, step) if step < sharding.steps else (epoch + 1, 0)
                yield _tensors(batch)

    def _what_is_left(self, epoch: int, left: Left) -> Generator[Any, None, None]:
        """As `_batches`, of an epoch in the middle of which workers had come or gone when its state was saved."""
        s = self._sharding
        plan = Plan(s.num_samples, s.batch_size, s.last_batch, range(s.num_workers), left)
        order = permutation(s.num_samples, s.seed, epoch) if s.shuffle else np.arange(s.num_samples)
        turns = list(plan.upcoming(0, s.rank, 0, 0))
        made = (self._batch(order[plan.places(0, s.rank, turn)]) for turn in turns)
        with closing(self._ahead(made)) as batches:
            for turn, batch in zip(turns, batches, strict=True):
                more = turn is not turns[-1]
                self._reached, self._reached_left = ((epoch, turn.step + 1), left) if more else ((epoch + 1, 0), None)
                yield _tensors(batch)

    def _followed(self, course: Course, epoch: int, left: Left | None) -> Generator[Any, None, None]:
        """As `_batches`, with a boundary before each batch, at which what is left may be dealt anew."""
        course.begin(replace(self._sharding, rank=0), epoch, left, self._per_step)
        try:
            while True:
                if course.between:
                    course.come()
                self._course = course
                at, turns = course.at, course.upcoming()
                with closing(self._ahead(self._batch(course.samples(t, at)) for t in turns)) as batches:
                    for batch in batches:
                        course.took()
                        yield _tensors(batch)
                        if course.between:
                            course.come()
                        if course.at != at:
                            break
                    else:
                        return
        finally:
            if self._course is not None:
                self._stand(course)
                self._course = None
            course.end()

    def _stand(self, course: Course) -> None:
        epoch, step, self._reached_left = course.stand()
        self._reached = epoch, step

    def _ahead(self, made: Generator[Any, None, None]) -> Generator[Any, None, None]:
        return read_ahead(made, self._prefetch) if self._prefetch else made

    def _batch(self, indices: Indices) -> Any:
        """The batch of ``indices``, of NumPy arrays unless ``batchify_fn`` makes something else."""
        if self._batchify is None and hasattr(self.dataset, "gather"):
            gathered = self.dataset.gather(indices)
            if gathered is not None:
                return gathered
        samples = [self.dataset[i] for i in indices.tolist()]
        return (self._batchify or stack)(samples)


def _whose(
    place: cluster.Place, shuffle: bool, num_shards: int | None, shard_index: int | None
) -> tuple[int, int, bool]:
    """How many divide the samples, which of them this is, and whether they are the run's workers."""
    here = min(place.rank, place.num_workers - 1)  # who comes late may have a higher rank
    if num_shards is None or shard_index is None:
        return (place.num_workers, here, True) if shuffle else (1, 0, False)
    divides = place.num_workers > 1 and (num_shards, shard_index) == (place.num_workers, place.rank)
    return (num_shards, here, True) if divides else (num_shards, shard_index, False)


def stack(samples: list[Any]) -> Any:
    """One array of many samples along a new first axis; of tuples, a tuple of arrays, one for each part.

    Arrays keep their dtype; Python floats become float32.

    Raises:
        DataError: samples of different shape or number of parts.
    """
    first = samples[0]
    if isinstance(first, tuple | list):
        if len({len(s) for s in samples}) > 1:
            raise DataError(
                f"samples of one batch have different numbers of parts: {sorted({len(s) for s in samples})}"
            )
        return tuple(stack(list(part)) for part in zip(*samples, strict=True))
    arrays = [asnumpy(s) for s in samples]
    shapes = sorted({a.shape for a in arrays})
    if len(shapes) > 1:
        raise DataError(f"samples of one batch have different shapes: {shapes}; make them equal, or pass batchify_fn")
    batch = np.stack(arrays)
    return batch.astype(np.float32) if type(first) is float else batch


def _tensors(batch: Any) -> Any:
    """Every NumPy array of a batch as a tensor, sequences as tuples; what else there is stays as it is."""
    if isinstance(batch, tuple | list):
        return tuple(_tensors(part) for part in batch)
    return here(batch) if isinstance(batch, np.ndarray) else batch
