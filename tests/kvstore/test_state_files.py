"""Snapshots of a server on disk: consistent though training goes on, incremental, and never half a file."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import CheckpointError, ConfigError
from shoal.kvstore.server import statefiles
from shoal.kvstore.server.calls import Calls
from shoal.kvstore.server.freeze import freeze
from shoal.kvstore.server.image import draw
from shoal.kvstore.server.saver import Saver, parse_every
from shoal.kvstore.server.statefiles import MAX_FILES, StateFiles
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Done, Push
from shoal.ops import optim
from shoal.ops.tensorfile import load_tensors
from tests.kvstore.simnet import SimNet, SimServer
from tests.kvstore.test_server_core import payload


class Kept:
    """A server of three slices with its snapshots, without a network and without waiting."""

    def __init__(self, folder: Path, gate: str = "asp", workers: int = 2) -> None:
        net = SimNet(workers, 1, gate)
        for key in range(3):
            net.init(key, np.full(4, key, np.float32))
        self.server: SimServer = net.servers[0]
        self.server.table.configure(optim.SGD(learning_rate=0.5, momentum=0.9), {}, {})
        self.folder, self.now, self.clocks = folder, 0.0, dict.fromkeys(((r, k) for r in range(9) for k in range(3)), 0)
        self.files = StateFiles(folder)
        self.saver = self.saved_by(self.files, self.server.table)
        self.turn()  # time begins

    @staticmethod
    def saved_by(files: StateFiles, table: Table) -> Saver:
        return Saver(files, table, Calls(table), (1.0, 0), lambda: None)

    def push(self, key: int, rank: int = 0) -> None:
        clock = self.clocks[rank, key]
        self.clocks[rank, key] += 1
        data = np.full(4, 1 + rank + clock, np.float32)
        value = payload(4).__class__(dtype="<f4", shape=(4,), data=data.data)
        m = Push(worker=rank, incarnation=1, seq=1, slice=key, clock=clock, pulled=0, want=False, value=value)
        self.server.handle(f"w{rank}", m, self.now)

    def turn(self) -> list[Any]:
        ready = self.saver.turn(self.server.core, self.now)
        self.saver.close()
        return ready

    def save(self) -> None:
        """One whole snapshot."""
        self.now += 1.0
        before = self.saver.counts["snapshots"]
        self.turn()
        for _ in range(8):
            self.turn()
        assert self.saver.counts["snapshots"] == before + 1

    def state(self) -> Any:
        cells = self.server.table.cells
        images = {i: draw(c, c.parts) for i, c in cells.items()}
        arrays = {i: {n: a.tobytes() for n, a in m.arrays.items()} for i, m in images.items()}
        return json.dumps([freeze(self.server.core), {i: m.meta for i, m in images.items()}]), arrays

    def read(self, cluster: str = "run") -> Any:
        """What another process finds, in the form of `state`."""
        table = Table()
        saver = self.saved_by(StateFiles(self.folder), table)
        core = saver.restore(0, 2, cluster)
        if not core.entries:
            return None
        for entry in core.entries.values():
            entry.early = None
        images = {i: draw(c, c.parts) for i, c in sorted(table.cells.items())}
        arrays = {i: {n: a.tobytes() for n, a in m.arrays.items()} for i, m in images.items()}
        return json.dumps([freeze(core), {i: m.meta for i, m in images.items()}]), arrays

    def names(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir())


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "bsp")
    kept.push(0, 0)
    kept.push(0, 1)
    kept.push(1, 1)  # it waits for worker 0
    kept.save()
    assert kept.read() == kept.state()


@settings(max_examples=40)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=12), gate=st.sampled_from(["asp", "bsp"])
)
def test_a_snapshot_is_the_state_at_its_cut_whatever_comes_before_it_is_copied(
    steps: list[tuple[int, int]], gate: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = Kept(tmp_path_factory.mktemp("state"), gate)
    kept.push(1)
    kept.save()
    kept.push(2)
    kept.now += 1.0
    cut = kept.state()
    kept.turn()  # one slice is copied
    for key, rank in steps:
        if gate == "asp" or kept.clocks[rank, key] <= kept.clocks[1 - rank, key]:
            kept.push(key, rank)
    for _ in range(6):
        kept.turn()
    assert kept.read() == cut
    kept.save()
    assert kept.read() == kept.state()


def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save()
    kept.push(1)
    kept.save()
    tensors, _ = load_tensors(tmp_path / kept.names()[-1])
    assert {name.partition("/")[0] for name in tensors} == {"1"}
    assert kept.read() == kept.state()


def test_old_files_go_and_all_is_written_anew_now_and_then(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    for i in range(5 * MAX_FILES):
        kept.push(i % 3)
        kept.save()
        assert len(kept.names()) <= 2 * MAX_FILES
        assert kept.read() == kept.state()


def test_a_function_of_time_and_one_of_updates(tmp_path: Path) -> None:
    assert parse_every("30s") == (30.0, 0) and parse_every("100u") == (0.0, 100) and parse_every("0.5") == (0.5, 0)
    for text in ("", "0s", "-1s", "x", "1.5u", "1e10s", "5m"):
        with pytest.raises(ConfigError, match="30s"):
            parse_every(text)
    kept = Kept(tmp_path)
    kept.saver = Saver(kept.files, kept.server.table, Calls(kept.server.table), (0.0, 3), lambda: None)
    for n in range(1, 4):
        kept.push(0)
        kept.turn()
        assert kept.saver.busy == (n == 3)


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "of another kind"])
def test_a_damaged_file_is_passed_over_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path)
    kept.save()
    good = kept.state()
    kept.push(0)
    kept.save()
    newest = tmp_path / kept.names()[-1]
    data = bytearray(newest.read_bytes())
    if damage == "flipped":
        data[-3] ^= 1
    newest.write_bytes({"torn": data[:-20], "empty": b"", "flipped": data}.get(damage, b"hello " * 20))
    with caplog.at_level(logging.WARNING, "shoal.server"):
        assert kept.read() == good
    assert "the snapshot before it is tried" in caplog.text and newest.name in caplog.text


def test_a_flipped_bit_in_the_state_is_noticed(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save()
    path = tmp_path / kept.names()[-1]
    path.write_bytes(path.read_bytes().replace(b'\\"cluster\\":\\"run\\"', b'\\"cluster\\":\\"ron\\"'))
    assert kept.read("ron") is None and kept.read() is None


def test_a_file_that_is_missing_is_like_a_damaged_one(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save()
    kept.push(0)
    kept.save()
    (tmp_path / kept.names()[0]).unlink()
    assert kept.read() is None


def test_the_snapshots_of_another_run_are_not_ours(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.save()
    assert kept.read("another") is None


def test_on_a_full_disk_training_goes_on_and_nothing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path)
    kept.save()
    before = kept.state()
    kept.push(1)
    with monkeypatch.context() as m, caplog.at_level(logging.WARNING, "shoal.server"):

        def full(*_: Any) -> None:
            raise CheckpointError("cannot save: No space left on device")

        m.setattr(statefiles, "save_tensors", full)
        for _ in range(12):
            kept.now += 0.5
            kept.turn()
        assert kept.saver.counts["failed"] > 1 and caplog.text.count("No space left") == 1
    assert kept.read() == before
    for _ in range(8):
        kept.turn()
    kept.save()
    assert kept.read() == kept.state()


def test_an_answer_is_held_until_what_it_says_is_on_the_disk(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    done = ("w0", Done(seq=3))
    kept.saver.hold(*done)
    found = []
    while not found:
        assert not kept.names() or kept.saver.counts["snapshots"] <= 1
        found = kept.turn()
    assert found == [done] and kept.read() == kept.state()
