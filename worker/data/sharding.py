"""Which worker sees which samples at which step: a pure function, the same on every node.

The samples of an epoch are put in an order that depends on (seed, epoch) alone, and cut into global batches of
``batch_size * num_workers``; worker r takes the r-th part of each. So with the same global batch size, 1, 2 or 4
workers see the same global batches, and a resumed, replaced or replayed worker finds its place without stored state.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from shoal.errors import ConfigError
from shoal.ops.random import stream
from shoal.worker.data.dataset import Indices
from shoal.worker.data.deal import LAST_BATCH, Deal

__all__ = ["LAST_BATCH", "Sharding", "permutation"]


@lru_cache(maxsize=4)
def permutation(num_samples: int, seed: int, epoch: int) -> Indices:
    """The order of the samples in ``epoch``; read-only.

    Sorting raw words of the generator, instead of asking NumPy for a permutation, gives the same order in every version
    of NumPy: the words are specified, the algorithms of its ``Generator`` may change.
    """
    words = stream(seed, "shuffle", step=epoch).bit_generator.random_raw(num_samples)
    order = np.argsort(words, kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """The batches of one worker.

    All workers have the same number of steps in every epoch, and batches of the same size at every step: synchronous
    training needs the first, and the mean over workers is the mean over the global batch because of the second. No
    sample occurs twice in an epoch (except with "pad"), and with "discard" or "keep" only the samples named below
    are left out.

    Args:
        num_samples: size of the data set.
        batch_size: samples in a batch of one worker.
        rank: which worker, from 0.
        num_workers: how many workers.
        seed: of the run; with ``epoch`` it determines the order.
        shuffle: False keeps the order of the data set in every epoch.
        last_batch: what becomes of the samples that are left when no more global batch can be filled. "discard" leaves
            them out; with shuffling they are others in every epoch. "keep" makes a last, smaller batch of them, in
            equal parts for all workers, and leaves out only what cannot be divided: fewer samples than workers, none
            for one worker. "pad" fills the last global batch with the samples from the beginning of the epoch.
    Raises:
        ConfigError: a number is out of its range, or no batch can be made of the samples.
    """

    num_samples: int
    batch_size: int
    rank: int = 0
    num_workers: int = 1
    seed: int = 0
    shuffle: bool = True
    last_batch: str = "discard"

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, int | np.integer) or self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size!r}, expected a whole number, at least 1")
        if not 0 <= self.rank < self.num_workers:
            raise ConfigError(f"worker {self.rank} of {self.num_workers}: expected 0 <= rank < num_workers")
        if self.last_batch not in LAST_BATCH:
            raise ConfigError(f"last_batch is {self.last_batch!r}, expected one of {', '.join(LAST_BATCH)}")
        if self.steps == 0:
            raise ConfigError(
                f"{self.num_samples} samples make no batch with batch_size={self.batch_size}, "
                f"num_workers={self.num_workers} and last_batch={self.last_batch!r}: use smaller batches or fewer "
                "workers, or last_batch='pad'"
            )

    @property
    def global_batch_size(self) -> int:
        """Samples in a full batch of all workers together."""
        return self.batch_size * self.num_workers

    @property
    def steps(self) -> int:
        """Batches in an epoch; the same for all workers."""
        return self._deal.steps

    @cached_property
    def _deal(self) -> Deal:
        parts, last_batch = self.num_workers, self.last_batch
        return Deal(size=self.num_samples, batch_size=self.batch_size, parts=parts, last_batch=last_batch)

    def indices(self, epoch: int, step: int) -> Indices:
        """The samples of this worker at ``step`` of ``epoch``, both counted from 0."""
        part = self.global_indices(epoch, step)
        size = len(part) // self.num_workers
        return part[self.rank * size : (self.rank + 1) * size]

    def global_indices(self, epoch: int, step: int) -> Indices:
        """The samples of all workers at ``step`` of ``epoch``: worker 0's first, then worker 1's, and so on.

        Raises:
            ConfigError: there is no such step.
        """
        if not 0 <= step < self.steps or epoch < 0:
            raise ConfigError(
                f"epoch {epoch} has no step {step}: epochs begin at 0, and steps are 0 to {self.steps - 1}"
            )
        start, end = self._deal.whole(step)
        places = np.arange(start, end) % self.num_samples
        return permutation(self.num_samples, self.seed, epoch)[places] if self.shuffle else places
