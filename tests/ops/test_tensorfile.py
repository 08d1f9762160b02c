"""Named arrays in a file: what is saved comes back, and what is damaged is refused by name."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from shoal.errors import CheckpointError
from shoal.ops.tensorfile import load_tensors, save_tensors

GRID = np.arange(12.0).reshape(3, 4)

LAYOUTS = {
    "C order": GRID,
    "transposed": GRID.T,
    "Fortran order": np.asfortranarray(GRID),
    "sliced": GRID[::2, 1:3],
    "reversed": GRID[::-1, ::-1],
    "broadcast": np.broadcast_to(GRID[0], (5, 4)),
    "big endian": GRID.astype(">f4"),
    "zero-dimensional": np.array(3.5),
    "a NumPy scalar": np.float32(2.5),
    "empty": np.zeros((0, 3)),
    "one row of a wide array": GRID[1:2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_comes_back_equal(layout: str, tmp_path: Path) -> None:
    value = np.asarray(LAYOUTS[layout])
    save_tensors(tmp_path / "a.safetensors", {"a": LAYOUTS[layout]})
    loaded = load_tensors(tmp_path / "a.safetensors")[0]["a"]
    assert loaded.shape == value.shape
    assert loaded.dtype == value.dtype.newbyteorder("=")
    assert np.array_equal(loaded, value)


dtypes = st.sampled_from(["bool", "uint8", "int16", "int64", "float16", "float32", "float64", "complex64"])


some_arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)))


@settings(max_examples=30)
@given(tensors=st.dictionaries(st.text(min_size=1, max_size=8), some_arrays), transpose=st.booleans())
def test_a_round_trip_keeps_every_bit(tmp_path_factory: Any, tensors: dict[str, Any], transpose: bool) -> None:
    path = tmp_path_factory.mktemp("round") / "a.params"
    tensors = {name: value.T if transpose else value for name, value in tensors.items()}
    save_tensors(path, tensors)
    loaded, _ = load_tensors(path)
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].tobytes() == np.asarray(value, order="C").tobytes()
        assert loaded[name].shape == value.shape


def test_metadata_comes_back_without_the_checksum(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", {"a": GRID}, {"epoch": "3", "note": "größer"})
    assert load_tensors(tmp_path / "a")[1] == {"epoch": "3", "note": "größer"}


def test_no_tensors_at_all_is_a_file_too(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", {})
    assert load_tensors(tmp_path / "a") == ({}, {})


def test_loaded_arrays_belong_to_the_caller(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", {"a": GRID})
    first = load_tensors(tmp_path / "a")[0]["a"]
    first[:] = 0
    assert np.array_equal(load_tensors(tmp_path / "a")[0]["a"], GRID)


def test_objects_with_asnumpy_are_saved_as_their_value(tmp_path: Path) -> None:
    class Wrapped:
        def asnumpy(self) -> Any:
            return GRID.T

    save_tensors(tmp_path / "a", {"a": Wrapped()})
    assert np.array_equal(load_tensors(tmp_path / "a")[0]["a"], GRID.T)


def test_other_readers_and_writers_of_the_format_agree(tmp_path: Path) -> None:
    save_tensors(tmp_path / "ours", {"a": GRID})
    assert np.array_equal(load_file(tmp_path / "ours")["a"], GRID)
    save_file({"a": GRID}, tmp_path / "theirs", metadata={"format": "np"})
    tensors, metadata = load_tensors(tmp_path / "theirs")
    assert np.array_equal(tensors["a"], GRID)
    assert metadata == {"format": "np"}


def test_missing_folders_are_created(tmp_path: Path) -> None:
    save_tensors(tmp_path / "runs" / "1" / "a", {"a": GRID})
    assert (tmp_path / "runs" / "1" / "a").is_file()


def test_a_save_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", {"a": GRID})
    save_tensors(tmp_path / "a", {"b": GRID})
    assert list(load_tensors(tmp_path / "a")[0]) == ["b"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors(tmp_path / "a", {"a": GRID})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot save 1 tensors to .*No space left"):
        save_tensors(tmp_path / "a", {"b": GRID})
    assert list(load_tensors(tmp_path / "a")[0]) == ["a"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "a", {"a": GRID})
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_file_is_named_with_what_lies_beside_it(tmp_path: Path) -> None:
    save_tensors(tmp_path / "epoch-1.params", {"a": GRID})
    with pytest.raises(CheckpointError, match=r"epoch-2\.params.*epoch-1\.params"):
        load_tensors(tmp_path / "epoch-2.params")
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_tensors(tmp_path / "nowhere" / "a")


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_truncated_file_is_refused_by_name(keep: int, tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.params", {"a": GRID})
    content = (tmp_path / "a.params").read_bytes()
    (tmp_path / "a.params").write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match=r"a\.params.*damaged"):
        load_tensors(tmp_path / "a.params")


def test_a_flipped_bit_is_refused_by_name(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.params", {"a": GRID})
    content = bytearray((tmp_path / "a.params").read_bytes())
    content[-3] ^= 1
    (tmp_path / "a.params").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.params.*is damaged"):
        load_tensors(tmp_path / "a.params")


def test_a_file_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=GRID)
    with pytest.raises(CheckpointError, match=r"a\.npz.*not a readable safetensors file"):
        load_tensors(tmp_path / "a.npz")


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([object()]), np.zeros(2, "datetime64[s]")])
def test_a_dtype_without_numbers_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot save 'a'.*expected one of"):
        save_tensors(tmp_path / "a", {"a": value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metadata", [{"epoch": 3}, {3: "epoch"}, {"shoal.crc32": "00000000"}])
def test_metadata_that_is_not_text_or_is_reserved_is_refused(metadata: dict[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must map text to text"):
        save_tensors(tmp_path / "a", {"a": GRID}, metadata)
