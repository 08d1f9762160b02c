"""Batches of a data set: of the whole of it, or of one worker's share."""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from shoal.errors import ConfigError, DataError
from shoal.ops import random
from shoal.ops.tensor import Tensor
from shoal.worker import cluster
from shoal.worker.data.dataset import Indices
from shoal.worker.data.prefetch import read_ahead
from shoal.worker.data.sharding import Sharding

__all__ = ["DataLoader", "stack"]


class DataLoader:
    """Gives the batches of one epoch each time it is iterated over; Gluon's names where it has one.

    Which samples are in which batch depends on the arguments and the epoch alone (see `Sharding`): not on the
    process, on how often or how far one has iterated before, or on ``prefetch``. Each iteration begins the epoch after
    the one before, from 0, unless `set_epoch` or `restore` say otherwise.

    By default, workers of a cluster divide shuffled passes among them, because those train, and each sees the whole of
    an unshuffled pass, because that evaluates. In a script that runs by itself both are the whole.

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
    ) -> None:
        if (num_shards is None) != (shard_index is None):
            raise ConfigError(f"num_shards={num_shards} and shard_index={shard_index}: give both or neither")
        if prefetch < 0:
            raise ConfigError(f"prefetch is {prefetch}, expected a number of batches >= 0")
        place = cluster.current()
        if seed is None:  # in a cluster never what one worker's script may have set: all must have the same
            seed = place.seed if place.joined else random.current_seed()
        divided = (place.num_workers, place.rank) if shuffle else (1, 0)
        self.dataset = dataset
        self.sharding = Sharding(
            num_samples=len(dataset),
            batch_size=batch_size,
            rank=divided[1] if shard_index is None else shard_index,
            num_workers=divided[0] if num_shards is None else num_shards,
            seed=seed,
            shuffle=shuffle,
            last_batch=last_batch or ("discard" if shuffle else "keep"),
        )
        self._batchify, self._prefetch = batchify_fn, prefetch
        self._next = self._reached = (0, 0)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.sharding.steps

    def __repr__(self) -> str:
        s = self.sharding
        return (
            f"DataLoader({s.num_samples} samples, {s.steps} batches of {s.batch_size} an epoch, "
            f"shard {s.rank} of {s.num_workers}, seed {s.seed}, {'shuffled' if s.shuffle else 'in order'})"
        )

    def __iter__(self) -> Generator[Any, None, None]:
        """The batches of the next epoch, as tensors."""
        epoch, first = self._next
        self._next, self._reached = (epoch + 1, 0), (epoch, first)
        return self._batches(epoch, first)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``, from its beginning, or from the step that `restore` set for it.

        Raises:
            ConfigError: ``epoch`` is negative.
        """
        if epoch < 0:
            raise ConfigError(f"set_epoch({epoch}): epochs are counted from 0")
        if epoch != self._next[0]:
            self._next = self._reached = (epoch, 0)

    def state(self) -> dict[str, int]:
        """Where the latest iteration stands: epoch and step of the batch that comes next, as plain numbers."""
        epoch, step = self._reached
        return {"epoch": epoch, "step": step}

    def restore(self, state: Mapping[str, int]) -> None:
        """Let the next iteration go on where `state` was taken.

        Raises:
            ConfigError: this loader has no such step; it was taken from one with other arguments.
        """
        epoch, step = int(state["epoch"]), int(state["step"])
        if epoch < 0 or not 0 <= step < len(self):
            raise ConfigError(
                f"cannot restore epoch {epoch}, step {step}: {self!r} has steps 0 to {len(self) - 1}. "
                "Use the batch size, the number of workers and the data set of the saved run."
            )
        self._next = self._reached = (epoch, step)

    def _batches(self, epoch: int, first: int) -> Generator[Any, None, None]:
        made = (self._batch(self.sharding.indices(epoch, step)) for step in range(first, len(self)))
        batches: Generator[Any, None, None] = read_ahead(made, self._prefetch) if self._prefetch else made
        with closing(batches):
            for step, batch in enumerate(batches, first + 1):
                self._reached = (epoch, step) if step < len(self) else (epoch + 1, 0)
                yield _tensors(batch)

    def _batch(self, indices: Indices) -> Any:
        """The batch of ``indices``, of NumPy arrays unless ``batchify_fn`` makes something else."""
        if self._batchify is None and hasattr(self.dataset, "gather"):
            gathered = self.dataset.gather(indices)
            if gathered is not None:
                return gathered
        samples = [self.dataset[i] for i in indices.tolist()]
        return (self._batchify or stack)(samples)


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
    arrays = [np.asarray(s.asnumpy() if hasattr(s, "asnumpy") else s) for s in samples]
    shapes = sorted({a.shape for a in arrays})
    if len(shapes) > 1:
        raise DataError(f"samples of one batch have different shapes: {shapes}; make them equal, or pass batchify_fn")
    batch = np.stack(arrays)
    return batch.astype(np.float32) if type(first) is float else batch


def _tensors(batch: Any) -> Any:
    """Every NumPy array of a batch as a tensor, sequences as tuples; what else there is stays as it is."""
    if isinstance(batch, tuple | list):
        return tuple(_tensors(part) for part in batch)
    return Tensor(batch) if isinstance(batch, np.ndarray) else batch
