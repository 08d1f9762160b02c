"""Data sets, deterministic sharding and batches."""

from shoal.worker.data import synthetic
from shoal.worker.data.dataset import ArrayDataset, Dataset, SimpleDataset
from shoal.worker.data.fashion import fashion_mnist
from shoal.worker.data.handwritten import digits
from shoal.worker.data.idx import read_idx
from shoal.worker.data.loader import DataLoader, stack
from shoal.worker.data.sharding import Sharding

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
]
