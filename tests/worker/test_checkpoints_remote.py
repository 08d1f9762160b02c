"""Checkpoints in directories, at ``file://`` and in fsspec's memory: published whole, never taken for whole if torn."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import nn
from shoal.checkpoint import Checkpoints, fetch, load_checkpoint, load_parameters, save_parameters
from shoal.errors import CheckpointError, ConfigError
from shoal.ops import remote

fsspec = pytest.importorskip("fsspec")

WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.float32(0.5)}


@pytest.fixture(params=["directory", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for checkpoints, of each kind that needs no network."""
    if request.param == "memory":
        yield "memory://bucket/run"
        fsspec.filesystem("memory").store.clear()
    else:
        yield str(tmp_path / "run") if request.param == "directory" else f"file://{tmp_path}/run"


def raw(path: str) -> bytes:
    """What is stored."""
    if path.startswith("memory://"):
        return bytes(fsspec.filesystem("memory").cat_file(path))
    return Path(path.removeprefix("file://")).read_bytes()


def overwrite(path: str, data: bytes) -> None:
    """What an interrupted upload would leave if the store let it be seen."""
    if path.startswith("memory://"):
        fsspec.filesystem("memory").pipe_file(path, data)
    else:
        Path(path.removeprefix("file://")).write_bytes(data)


def test_weights_come_back_as_they_were(place: str) -> None:
    path = Checkpoints(place).save(3, WEIGHTS, {"note": "ü"})
    found = load_checkpoint(path)
    assert found.meta == {"epoch": 3, "note": "ü"}
    assert all(np.array_equal(found.params[name], value) for name, value in WEIGHTS.items())


def test_the_newest_ones_are_kept(place: str) -> None:
    kept = Checkpoints(place, keep=2)
    for epoch in range(1, 5):
        kept.save(epoch, WEIGHTS)
    assert kept.epochs() == [3, 4] and kept.newest() == kept.path(4)


def test_where_there_is_none_there_is_no_newest(place: str) -> None:
    assert Checkpoints(place).newest() == "" and Checkpoints(place).epochs() == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_part_of_an_upload_is_never_taken_for_the_whole(
    place: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints(place)
    kept.save(1, WEIGHTS)
    whole = raw(kept.save(2, WEIGHTS))
    overwrite(kept.path(2), whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="epoch-000002"):
        load_checkpoint(kept.path(2))
    assert kept.newest() == kept.path(1) and "the checkpoint before it is tried" in caplog.text


def test_a_flipped_bit_is_found(place: str) -> None:
    path = Checkpoints(place).save(1, WEIGHTS)
    data = bytearray(raw(path))
    data[-1] ^= 1
    overwrite(path, bytes(data))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_a_save_that_fails_leaves_what_was_there(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(place)
    before = raw(kept.save(1, WEIGHTS))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        kept.save(1, {"w": np.zeros(1)})
    assert raw(kept.path(1)) == before and kept.epochs() == [1]


def test_nothing_else_lies_about(place: str, tmp_path: Path) -> None:
    Checkpoints(place).save(1, WEIGHTS)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and p.name != "epoch-000001.safetensors"] == []


def test_parameters_of_a_model_can_be_at_a_url(place: str) -> None:
    path = remote.join(place, "net.params")
    save_parameters(path, WEIGHTS)
    assert sorted(load_parameters(path)) == ["b", "w"]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["s3://bucket/a", "gs://bucket/a", "abfs://bucket/a"])
def test_a_protocol_whose_package_is_not_installed_says_which(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(protocol: str) -> None:
        raise ImportError(f"Install {protocol}")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    package = remote.PACKAGES[url.partition("://")[0]]
    with pytest.raises(ConfigError, match=rf"pip install {package}, or 'shoal\[cloud\]'"):
        save_parameters(url, WEIGHTS)


def test_an_unknown_protocol_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="unknown protocol 's4'; known are s3"):
        load_parameters("s4://bucket/a")


def test_an_object_that_is_not_there_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"memory://bucket/none.*no such object"):
        load_parameters("memory://bucket/none")


def test_the_error_of_a_store_is_told_with_what_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("AccessDenied")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", refuse)
    with pytest.raises(CheckpointError, match=r"cannot write 'memory://b/a': PermissionError: AccessDenied"):
        save_parameters("memory://b/a", WEIGHTS)


def test_every_protocol_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    memory = fsspec.filesystem("memory")
    monkeypatch.setattr(fsspec, "filesystem", lambda protocol: asked.append(protocol) or memory)
    for protocol in ("s3", "gs", "abfs"):
        kept = Checkpoints(f"{protocol}://bucket/{protocol}")
        kept.save(1, WEIGHTS)
        assert load_checkpoint(kept.newest()).meta == {"epoch": 1}
    assert set(asked) == {"s3", "gs", "abfs"}


# --- data -------------------------------------------------------------------------------------------------------------


def test_data_are_fetched_once_and_kept(tmp_path: Path) -> None:
    url = "memory://data/train.bin"
    fsspec.filesystem("memory").pipe_file(url, b"12345")
    got = fetch(url, tmp_path)
    fsspec.filesystem("memory").store.clear()
    assert got.read_bytes() == b"12345" and fetch(url, tmp_path) == got and fetch("a/b") == Path("a/b")


def test_less_than_the_store_has_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://data/torn.bin"
    memory = fsspec.filesystem("memory")
    memory.pipe_file(url, b"12345")
    monkeypatch.setattr(type(memory), "get_file", lambda self, a, b, **k: Path(b).write_bytes(b"123"))
    with pytest.raises(CheckpointError, match="3 bytes of 5 came"):
        fetch(url, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


# --- a training -------------------------------------------------------------------------------------------------------


def train(epochs: int) -> tuple[Any, shoal.Trainer, Any]:
    net = nn.Dense(10, in_units=64)
    net.initialize(shoal.init.Xavier())
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.05})
    x, y = np.random.default_rng(0).random((64, 64), np.float32), np.arange(64) % 10
    data = shoal.data.DataLoader(shoal.data.ArrayDataset(x, y), 16)
    history = shoal.fit(net, data, loss=nn.SoftmaxCrossEntropyLoss(), trainer=trainer, epochs=epochs)
    return net, trainer, history


def test_a_training_that_goes_on_from_its_checkpoint_ends_where_a_whole_one_does(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {k: p.data().asnumpy() for k, p in train(4)[0].collect_params().items()}
    monkeypatch.setenv("SHOAL_CHECKPOINT", place)
    train(2)
    monkeypatch.setenv("SHOAL_RESUME", Checkpoints(place).newest())
    net, _, history = train(4)
    assert len(history.epochs) == 2 and Checkpoints(place).epochs() == [2, 3, 4]
    assert all(np.array_equal(p.data().asnumpy(), whole[k]) for k, p in net.collect_params().items())


def test_a_checkpoint_of_another_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints("memory://other/run")
    monkeypatch.setenv("SHOAL_RESUME", kept.save(1, {"nonsense": np.zeros(1)}))
    with pytest.raises(CheckpointError, match="nonsense"):
        train(2)


def test_a_place_that_cannot_be_written_costs_a_warning_not_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHOAL_CHECKPOINT", str(tmp_path / "file" / "below"))
    assert len(train(1)[2].epochs) == 1 and "no checkpoint after epoch 1" in caplog.text
