"""Fashion-MNIST (Xiao, Rasul, Vollgraf: arXiv:1708.07747; MIT): 70,000 images of clothes, read from where they lie."""

import os
from pathlib import Path

import numpy as np

from shoal.errors import ConfigError, DataError
from shoal.worker.data.dataset import ArrayDataset
from shoal.worker.data.idx import read_idx

__all__ = ["fashion_mnist"]

DEBIAN = Path("usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts the files, below the root."""

SYSTEM = Path("/") / DEBIAN
"""Where they are if the package is installed."""

_PREFIX = {"train": ("train", 60000), "test": ("t10k", 10000)}


def fashion_mnist(split: str = "train") -> ArrayDataset:
    """28 x 28 grey images of clothes in 10 classes: a drop-in for MNIST that is not solved by a linear model.

    The files are looked for in ``$SHOAL_DATA`` (itself, its ``fashion-mnist``, or a Debian package unpacked there),
    then where Debian's package ``dataset-fashion-mnist`` puts them. Nothing is downloaded.

    Args:
        split: "train" (60,000 images) or "test" (10,000).
    Returns:
        Tuples of an image, float32 of shape (1, 28, 28) with values from 0 to 1, and its label, int64 from 0 to 9.
    Raises:
        ConfigError: no such split.
        DataError: the files are not there, with the command that gets them; or they are damaged.
    """
    if split not in _PREFIX:
        raise ConfigError(f"fashion_mnist has no split {split!r}; known: {', '.join(_PREFIX)}")
    prefix, count = _PREFIX[split]
    images_file, labels_file = _found(f"{prefix}-images-idx3-ubyte"), _found(f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_file), read_idx(labels_file)
    for path, array, shape in ((images_file, images, (count, 28, 28)), (labels_file, labels, (count,))):
        if array.shape != shape or array.dtype != np.uint8:
            raise DataError(f"{path} has {array.dtype} of shape {array.shape}, expected uint8 of shape {shape}")
    if labels.max() > 9:
        raise DataError(f"{labels_file} has a label {labels.max()}, expected 0 to 9")
    return ArrayDataset(np.divide(images[:, None], 255.0, dtype=np.float32), labels.astype(np.int64))


def _folders() -> list[Path]:
    root = os.environ.get("SHOAL_DATA")
    own = [Path(root), Path(root) / "fashion-mnist", Path(root) / DEBIAN] if root else []
    return [*own, SYSTEM]


def _found(name: str) -> Path:
    for folder in _folders():
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    looked = ", ".join(str(folder) for folder in _folders())
    raise DataError(
        f"Fashion-MNIST: no {name}.gz in {looked}. On Debian or Ubuntu: sudo apt-get install dataset-fashion-mnist; "
        "or, without root: export SHOAL_DATA=$HOME/shoal-data && mkdir -p $SHOAL_DATA && "
        'apt-get download dataset-fashion-mnist && dpkg-deb -x dataset-fashion-mnist_*.deb "$SHOAL_DATA"'
    )
