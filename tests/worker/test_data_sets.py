"""Data sets: Gluon's operations, the digits that come along, and files that are missing or damaged."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError, DataError
from shoal.worker.data import ArrayDataset, SimpleDataset, digits, fashion, fashion_mnist, read_idx, synthetic

TEN = SimpleDataset(list(range(10)))


def contents(data: Any) -> list[Any]:
    return [data[i] for i in range(len(data))]


def test_arrays_give_tuples_and_one_array_gives_its_elements() -> None:
    assert ArrayDataset([1, 2], "ab")[1] == (2, "b")
    assert ArrayDataset([1, 2])[1] == 2


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match=r"equal length, got \[2, 3\]"):
        ArrayDataset([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="at least one array"):
        ArrayDataset()


def test_transform_gets_the_parts_of_a_sample() -> None:
    assert contents(TEN.transform(lambda x: x + 1).take(2)) == [1, 2]
    assert ArrayDataset([1, 2], [3, 4]).transform(lambda a, b: a * b)[1] == 8


def test_transform_first_leaves_the_label() -> None:
    assert ArrayDataset([1, 2], [3, 4]).transform_first(lambda a: a * 10)[1] == (20, 4)
    assert TEN.transform_first(lambda a: a * 10)[3] == 30


def test_a_transform_can_be_done_once_in_advance() -> None:
    calls: list[int] = []
    data = TEN.take(3).transform(lambda x: calls.append(x) or -x, lazy=False)  # type: ignore[func-returns-value]
    assert contents(data) == contents(data) == [0, -1, -2]
    assert calls == [0, 1, 2]


def test_filter_and_take_keep_the_order() -> None:
    assert contents(TEN.filter(lambda x: x % 3 == 0)) == [0, 3, 6, 9]
    assert contents(TEN.filter(lambda x: x > 20)) == []
    assert contents(TEN.take(3)) == [0, 1, 2]
    assert len(TEN.take(None)) == len(TEN.take(99)) == 10


@pytest.mark.parametrize("count", [1, 3, 4, 10, 12])
def test_shards_are_contiguous_and_differ_by_one_at_most(count: int) -> None:
    shards = [contents(TEN.shard(count, i)) for i in range(count)]
    assert [x for shard in shards for x in shard] == list(range(10))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("count", "index"), [(2, 2), (2, -1), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(count: int, index: int) -> None:
    with pytest.raises(ConfigError, match="expected 0 <= index < num_shards"):
        TEN.shard(count, index)


def test_a_negative_number_of_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="take"):
        TEN.take(-1)


def test_the_digits_are_images_and_labels() -> None:
    image, label = digits("train")[0]
    assert (image.shape, image.dtype, label.dtype) == ((1, 8, 8), np.float32, np.int64)
    images = digits("all").gather(np.arange(1797))[0]
    assert (images.min(), images.max()) == (0.0, 1.0)


def test_the_digits_splits_are_disjoint_complete_and_balanced() -> None:
    parts = [digits(s) for s in ("train", "test", "all")]
    images, labels = zip(*[p.gather(np.arange(len(p))) for p in parts], strict=True)
    train, test, everything = [
        {(x.tobytes(), int(y)) for x, y in zip(*p, strict=True)} for p in zip(images, labels, strict=True)
    ]
    assert train.isdisjoint(test)
    assert train | test == everything
    assert np.abs(5 * np.bincount(labels[1]) - np.bincount(labels[2])).max() < 5


def test_the_first_digit_is_the_one_in_every_textbook() -> None:
    image, label = digits("all")[0]
    assert label == 0
    assert (image[0, :2] * 16).tolist() == [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]


def test_the_digits_can_be_told_apart() -> None:
    (x, y), (u, v) = [(d.gather(np.arange(len(d)))) for d in (digits("train"), digits("test"))]
    x, u = x.reshape(len(x), -1), u.reshape(len(u), -1)
    distance = (u**2).sum(1)[:, None] - 2 * u @ x.T + (x**2).sum(1)
    assert np.mean(y[distance.argmin(axis=1)] == v) > 0.97


def test_a_split_that_does_not_exist_is_refused() -> None:
    for data in (digits, fashion_mnist):
        with pytest.raises(ConfigError, match="has no split 'valid'; known: train, test"):
            data("valid")


def idx(array: Any, code: int = 8) -> bytes:
    values: bytes = array.tobytes()
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + values


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, "u1"), (0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_of_every_type_are_read(code: int, dtype: str, suffix: str, tmp_path: Path) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    content = idx(array, code)
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    found = read_idx(tmp_path / f"a{suffix}")
    assert np.array_equal(found, array)
    assert found.dtype.isnative


GOOD = idx(np.zeros((4, 5), "u1"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: it begins with , expected"),
        (b"\x89PNG....", "not an IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x07\1\0\0\0\0", "not an IDX file"),
        (GOOD[:9], "ends within its header of 2 sizes"),
        (GOOD[:-1], r"\(4, 5\) of 1 bytes, 20 bytes in all, but the file has only 19"),
        (GOOD + b"!", "but the file has more"),
        (struct.pack(">HBBII", 0, 14, 2, 2**31, 2**31), "the limit is"),
    ],
)
def test_files_that_are_not_idx_are_refused_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    for name, stored in (("a", content), ("a.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(DataError, match=f"{name}.*{message}"):
            read_idx(tmp_path / name)


@pytest.mark.parametrize(
    "stored",
    [b"", b"plain text", gzip.compress(GOOD)[:-12], gzip.compress(GOOD)[:20]],
    ids=["empty", "text", "without its end", "its beginning"],
)
def test_damaged_compression_is_refused_by_name(stored: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(stored)
    with pytest.raises(DataError, match=r"a\.gz"):
        read_idx(tmp_path / "a.gz")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Fashion-MNIST with 6 images for testing, and no other copy in sight."""
    monkeypatch.setattr(fashion, "_PREFIX", {"train": ("train", 60000), "test": ("t10k", 6)})
    monkeypatch.setattr(fashion, "SYSTEM", tmp_path / "nowhere")
    monkeypatch.setenv("SHOAL_DATA", str(tmp_path))
    return tmp_path


def put(folder: Path, images: Any, labels: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


IMAGES, CLASSES = np.full((6, 28, 28), 255, "u1"), np.arange(6, dtype="u1")


@pytest.mark.parametrize("folder", [".", "fashion-mnist", "usr/share/datasets/fashion-mnist"])
def test_fashion_mnist_is_found_below_the_data_folder(folder: str, small: Path) -> None:
    put(small / folder, IMAGES, CLASSES)
    data = fashion_mnist("test")
    image, label = data[5]
    assert (len(data), image.shape, image.dtype, image.max(), label) == (6, (1, 28, 28), np.float32, 1.0, 5)


def test_fashion_mnist_is_found_where_debian_puts_it(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SHOAL_DATA")
    put(tmp_path / "nowhere", IMAGES, CLASSES)
    assert len(fashion_mnist("test")) == 6


def test_fashion_mnist_that_is_missing_names_the_command_that_gets_it(small: Path) -> None:
    with pytest.raises(
        DataError, match=r"no t10k-images.*nowhere.*apt-get download dataset-fashion-mnist && dpkg-deb -x"
    ):
        fashion_mnist("test")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:5], CLASSES, r"images.*shape \(5, 28, 28\), expected uint8 of shape \(6, 28, 28\)"),
        (IMAGES, CLASSES[:5], r"labels.*shape \(5,\), expected uint8 of shape \(6,\)"),
        (IMAGES, CLASSES + np.uint8(5), "has a label 10, expected 0 to 9"),
    ],
)
def test_fashion_mnist_of_another_shape_is_refused(images: Any, labels: Any, message: str, small: Path) -> None:
    put(small, images, labels)
    with pytest.raises(DataError, match=message):
        fashion_mnist("test")


def test_blobs_are_balanced_and_determined_by_their_seed() -> None:
    data, same, other = (synthetic.blobs(30, 4, 3, seed=s) for s in (1, 1, 2))
    x, y = data.gather(np.arange(30))
    assert (x.shape, x.dtype, np.bincount(y).tolist()) == ((30, 4), np.float32, [10, 10, 10])
    assert np.array_equal(x, same.gather(np.arange(30))[0])
    assert not np.array_equal(x, other.gather(np.arange(30))[0])


def test_linear_regression_tells_its_solution() -> None:
    data, weight, bias = synthetic.linear_regression(200, 3, noise=0.0)
    x, y = data.gather(np.arange(200))
    assert y.shape == (200, 1)
    np.testing.assert_allclose(x @ weight + bias, y[:, 0], rtol=1e-5, atol=1e-6)


def test_empty_synthetic_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_classes is 0, expected at least 1"):
        synthetic.blobs(num_classes=0)
