"""1797 handwritten digits that come with the package: enough to see a network learn, without a download."""

from importlib import resources

import numpy as np

from shoal.errors import ConfigError
from shoal.worker.data.dataset import ArrayDataset

__all__ = ["digits"]

HELD_OUT = 5
"""Of the images of each digit, in the order of the file, every fifth is for testing."""


def digits(split: str = "train") -> ArrayDataset:
    """Handwritten digits (Alpaydin and Kaynak 1998, UCI; CC BY 4.0): 8 x 8 grey values, 10 classes.

    The held-out fifth is fixed: of each class the 5th, 10th, 15th, ... image in the order of the file. As the file goes
    from writer to writer, both splits have images of all of them; this measures learning, not how well a network does
    with people that it has never seen.

    Args:
        split: "train" (1442 images), "test" (355), or "all" (1797, in the order of the file).
    Returns:
        Tuples of an image, float32 of shape (1, 8, 8) with values from 0 to 1, and its label, int64 from 0 to 9.
    Raises:
        ConfigError: no such split.

    >>> len(digits("train")), len(digits("test"))
    (1442, 355)
    """
    data = resources.files("shoal.worker.data").joinpath("files/digits.npz")
    with data.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        held_out[np.flatnonzero(labels == digit)[HELD_OUT - 1 :: HELD_OUT]] = True
    splits = {"train": ~held_out, "test": held_out, "all": np.ones(len(labels), bool)}
    if split not in splits:
        raise ConfigError(f"digits has no split {split!r}; known: {', '.join(splits)}")
    chosen = splits[split]
    return ArrayDataset(images[chosen, None].astype(np.float32) / 16.0, labels[chosen].astype(np.int64))
