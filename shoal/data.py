"""Data sets and batches: ``shoal.data.DataLoader(shoal.data.digits(), 32, shuffle=True)``; see `shoal.worker.data`."""

from shoal import transforms
from shoal.worker.data import (
    ArrayDataset,
    DataLoader,
    Dataset,
    Sharding,
    SimpleDataset,
    digits,
    fashion_mnist,
    read_idx,
    stack,
    synthetic,
)

__all__ = [
    "ArrayDataset",
    "DataLoader",
    "Dataset",
    "Sharding",
    "SimpleDataset",
    "digits",
    "fashion_mnist",
    "read_idx",
    "stack",
    "synthetic",
    "transforms",
]
