"""Data sets: anything with a length and samples by number. Names and arguments are Gluon's (``mxnet.gluon.data``)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import ConfigError, DataError
from shoal.ops.backend import asnumpy

__all__ = ["ArrayDataset", "Dataset", "Indices", "SimpleDataset"]

Indices: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
"""Numbers of samples, one-dimensional."""


class Dataset(ABC):
    """Samples by number, from 0. A sample with several parts, such as input and label, is a tuple."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """Sample ``index``. Reading the same one twice gives the same, also from several threads."""

    def gather(self, indices: Indices) -> Any:
        """The samples of ``indices`` stacked as one batch, or None if they must be read one by one.

        A short cut for data sets whose samples lie in arrays already.
        """
        return None

    def transform(self, fn: Callable[..., Any], lazy: bool = True) -> "Dataset":
        """Samples changed by ``fn``, which gets the parts of a sample as its arguments.

        Args:
            lazy: apply ``fn`` at each reading; False applies it now and keeps the results.
        """
        changed = _Transformed(self, fn)
        return changed if lazy else SimpleDataset([changed[i] for i in range(len(changed))])

    def transform_first(self, fn: Callable[[Any], Any], lazy: bool = True) -> "Dataset":
        """Samples whose first part (the input, usually) is changed by ``fn``; the label stays."""
        return self.transform(_First(fn), lazy)

    def filter(self, fn: Callable[[Any], bool]) -> "Dataset":
        """The samples for which ``fn(sample)`` is true, in their order; every sample is read once, now."""
        return _Subset(self, np.array([i for i in range(len(self)) if fn(self[i])], dtype=np.int64))

    def take(self, count: int | None) -> "Dataset":
        """The first ``count`` samples; all if there are fewer or ``count`` is None.

        Raises:
            ConfigError: ``count`` is negative.
        """
        if count is not None and count < 0:
            raise ConfigError(f"take(count={count}): expected a number of samples >= 0, or None for all")
        return _Subset(self, np.arange(len(self) if count is None else min(count, len(self))))

    def shard(self, num_shards: int, index: int) -> "Dataset":
        """Part ``index`` of ``num_shards`` contiguous parts; the first ``len(self) % num_shards`` have one sample more.

        This divides the data set itself, for good. For training, give the whole data set to a `DataLoader` and let
        its ``num_shards`` divide every epoch's shuffled order instead: all workers then have the same number of steps.

        Raises:
            ConfigError: not ``0 <= index < num_shards``.
        """
        if not 0 <= index < num_shards:
            raise ConfigError(f"shard(num_shards={num_shards}, index={index}): expected 0 <= index < num_shards")
        size, longer = divmod(len(self), num_shards)
        start = size * index + min(index, longer)
        return _Subset(self, np.arange(start, start + size + (index < longer)))


class SimpleDataset(Dataset):
    """A sequence of samples.

    >>> SimpleDataset([1, 2, 3]).transform(lambda x: x * 10)[2]
    30
    """

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


class ArrayDataset(Dataset):
    """Arrays of equal length, such as inputs and labels; sample ``i`` is the tuple of their elements ``i``.

    With one array the samples are its elements themselves.

    Args:
        arrays: NumPy arrays, tensors, or other sequences.
    Raises:
        DataError: no array, or arrays of different length.
    """

    def __init__(self, *arrays: Any) -> None:
        if not arrays:
            raise DataError("ArrayDataset() needs at least one array")
        self._arrays = [asnumpy(a) if hasattr(a, "asnumpy") else a for a in arrays]
        lengths = [len(a) for a in self._arrays]
        if len(set(lengths)) > 1:
            raise DataError(f"ArrayDataset: arrays must have equal length, got {lengths}")

    def __len__(self) -> int:
        return len(self._arrays[0])

    def __getitem__(self, index: int) -> Any:
        parts = tuple(a[index] for a in self._arrays)
        return parts[0] if len(parts) == 1 else parts

    def gather(self, indices: Indices) -> Any:
        """One indexing operation for each array; None if one is no array, or if a subclass reads in its own way."""
        reads = type(self).__getitem__ is ArrayDataset.__getitem__
        if not reads or not all(isinstance(a, np.ndarray) for a in self._arrays):
            return None
        parts = tuple(a[indices] for a in self._arrays)
        return parts[0] if len(parts) == 1 else parts


class _Subset(Dataset):
    def __init__(self, dataset: Dataset, indices: Indices) -> None:
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._indices[index])]

    def gather(self, indices: Indices) -> Any:
        return self._dataset.gather(self._indices[indices])


class _Transformed(Dataset):
    def __init__(self, dataset: Dataset, fn: Callable[..., Any]) -> None:
        self._dataset, self._fn = dataset, fn

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self._dataset[index]
        return self._fn(*sample) if isinstance(sample, tuple) else self._fn(sample)


class _First:
    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self._fn = fn

    def __call__(self, first: Any, *others: Any) -> Any:
        return (self._fn(first), *others) if others else self._fn(first)
