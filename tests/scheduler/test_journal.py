"""The scheduler's log on disk: what a crash may leave, and what is damage."""

import errno
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, MembershipError
from shoal.kvstore.wire.messages import Change, KeySpec, Member
from shoal.scheduler import journal as module
from shoal.scheduler.config import SchedulerConfig, founding
from shoal.scheduler.journal import Journal
from shoal.scheduler.log import (
    Aborted,
    Altered,
    Answered,
    Configured,
    Declared,
    Departed,
    Dropped,
    Finished,
    Joined,
    Opened,
    Record,
    Ruled,
    Started,
)
from shoal.scheduler.records import read_log, write_line

MEMBER = Member(role="worker", rank=0, incarnation=1, address="h:1", host="hôst\n", pid=7)
EVERY: list[Record] = [
    founding(SchedulerConfig(2, 1, version="1", seed=3)),
    Ruled(1),
    Joined(MEMBER, "t", "worker-t"),
    Dropped("t"),
    Started(),
    Declared("w", "bsp", "mean", (KeySpec(key="k", dtype="<f4", shape=(2, 3)),), 2, True),
    Configured("w", 1, 1, "sgd", {"lr": 0.1, "steps": [1, None, True]}, False),
    Altered(Change(number=1, store=1, settings={"lr": 1e-9}, at_clock=-1, by="w"), "t", 4),
    Answered("u", 5, 1),
    Opened("default", 12),
    Departed("t", "done", {"metrics": {"loss": float("inf")}}),
    Aborted("worker 1", "boom", ("t",), "failed", None, "Traceback\n ..."),
    Finished(),
]


def written(*steps: list[Record]) -> bytes:
    return b"".join(write_line(i, step) for i, step in enumerate(steps))


def test_every_kind_of_record_is_read_as_it_was_written() -> None:
    log = read_log(written(EVERY[:1], EVERY[1:]), "log")
    assert log.records == EVERY
    assert (log.lines, log.torn) == (2, 0)


def test_an_empty_file_is_a_log_that_has_not_begun() -> None:
    assert read_log(b"", "log").records == []


@given(st.data())
@settings(max_examples=60)
def test_a_torn_end_costs_the_last_step_and_nothing_before_it(data: Any) -> None:
    whole, last = written(EVERY[:3], EVERY[3:5]), write_line(2, EVERY[5:])
    cut = data.draw(st.integers(1, len(last) - 2))
    zeros = data.draw(st.sampled_from([b"", b"\0\0\0"]))
    log = read_log(whole + last[:cut] + zeros, "log")
    assert log.records == EVERY[:5]
    assert (log.nbytes, log.torn) == (len(whole), cut + len(zeros))


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_first_line_is_an_empty_log(cut: int) -> None:
    assert read_log(write_line(0, EVERY)[:cut], "log").records == []


@given(st.data())
@settings(max_examples=150)
def test_a_changed_byte_is_refused_wherever_it_is(data: Any) -> None:
    whole = bytearray(written(EVERY[:3], EVERY[3:5], EVERY[5:]))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(1, 255).filter(lambda b: b != whole[at]))
    with pytest.raises(MembershipError, match=r"log log is damaged: in line \d"):
        read_log(bytes(whole), "log")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (written(EVERY[:3], EVERY[3:5]) + write_line(3, EVERY[5:]), "in line 3, .* it has the number 3"),
        (write_line(1, EVERY), "in line 1, at byte 0, it has the number 1"),
        (b"a file of somebody else", "in line 1"),
        (b'9b3c4b6e [0,["Joined"]]\n', "in line 1"),
    ],
)
def test_what_is_no_log_of_this_format_says_where(data: bytes, says: str) -> None:
    with pytest.raises(MembershipError, match=says):
        read_log(data, "log")


def test_a_record_of_a_later_version_is_refused_by_name() -> None:
    body = write_line(0, [Ruled(1)]).replace(b"Ruled", b"Drove")[9:-1]
    with pytest.raises(MembershipError, match="this version of shoal"):
        read_log(b"%08x %s\n" % (zlib.crc32(body), body), "log")


# --- the directory ----------------------------------------------------------------------------------------------------


def test_what_was_appended_is_there_when_the_directory_is_opened_again(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    journal = Journal(state)
    for record in EVERY:
        journal.append([record])
    journal.close()
    again = Journal(state)
    assert again.records == EVERY
    again.append([Ruled(2)])
    again.close()
    assert read_log((tmp_path / "state/log").read_bytes(), "log").records == [*EVERY, Ruled(2)]


def test_a_launcher_begins_anew_and_keeps_what_was_cut_off(tmp_path: Path) -> None:
    first = Journal(str(tmp_path))
    first.append(EVERY)
    first.close()
    again = Journal(str(tmp_path), anew=True)
    assert again.records == []
    again.close()
    assert read_log((tmp_path / "log.ended").read_bytes(), "log").records == EVERY


def test_the_directory_is_its_owners_alone(tmp_path: Path) -> None:
    Journal(str(tmp_path / "state")).close()
    modes = [os.stat(tmp_path / name).st_mode & 0o777 for name in ("state", "state/log", "state/lock")]
    assert [m & 0o077 for m in modes] == [0, 0, 0]


def test_a_directory_is_held_by_one_scheduler(tmp_path: Path) -> None:
    first = Journal(str(tmp_path))
    with pytest.raises(ConfigError, match=rf"a scheduler that is running \(host .*, pid {os.getpid()}\)"):
        Journal(str(tmp_path))
    first.close()
    Journal(str(tmp_path)).close()


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep its state in"):
        Journal(str(tmp_path / "file" / "state"))


def test_a_torn_line_is_cut_off_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "log").write_bytes(written(EVERY[:3]) + write_line(1, EVERY[3:])[:40])
    journal = Journal(str(tmp_path))
    assert journal.records == EVERY[:3]
    assert "torn by a crash: 40 bytes are cut off" in caplog.text
    journal.append(EVERY[3:])
    journal.close()
    assert (tmp_path / "log").read_bytes() == written(EVERY[:3], EVERY[3:])


def test_a_damaged_log_is_left_as_it_is(tmp_path: Path) -> None:
    data = written(EVERY[:3], EVERY[3:]).replace(b"worker", b"wurker", 1)
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(MembershipError, match="damaged"):
        Journal(str(tmp_path))
    assert (tmp_path / "log").read_bytes() == data


def test_a_full_disk_is_said_and_costs_nothing_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(str(tmp_path))
    journal.append(EVERY[:3])
    pwrite, room = os.pwrite, [20]

    def full(fd: int, data: bytes, at: int) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, bytes(data)[: room.pop()], at)

    with monkeypatch.context() as m:
        m.setattr(os, "pwrite", full)
        with pytest.raises(MembershipError, match=r"No space left on device\. Nothing that was acknowledged is lost"):
            journal.append(EVERY[3:])
    assert (tmp_path / "log").read_bytes() == written(EVERY[:3])
    journal.append(EVERY[3:])
    journal.close()
    assert (tmp_path / "log").read_bytes() == written(EVERY[:3], EVERY[3:])


def test_a_log_is_rewritten_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_LINES", 4)
    journal = Journal(str(tmp_path))
    for i in range(4):
        assert not journal.long
        journal.append([Ruled(i + 1)])
    assert journal.long
    with monkeypatch.context() as m:
        m.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        journal.rewrite([Ruled(4)])
    assert not journal.long and sorted(os.listdir(tmp_path)) == ["lock", "log"]
    journal.rewrite([Ruled(4)])
    journal.append([Started()])
    journal.close()
    again = Journal(str(tmp_path))
    again.close()
    assert again.records == [Ruled(4), Started()]


@pytest.mark.parametrize("sync", [True, False])
def test_an_append_waits_for_the_disk_unless_the_log_need_not_outlive_the_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    journal = Journal(str(tmp_path), sync)
    waits: list[int] = []
    monkeypatch.setattr(journal, "_sync", waits.append if sync else journal._sync)
    for record in EVERY[:3]:
        journal.append([record])
    journal.close()
    assert len(waits) == 3 * sync
    assert len(read_log((tmp_path / "log").read_bytes(), "log").records) == 3


def test_the_log_of_a_run_that_is_over_is_kept_beside_that_of_the_next(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.append(EVERY)
    journal.retire()
    journal.close()
    again = Journal(str(tmp_path))
    again.close()
    assert again.records == []
    assert read_log((tmp_path / "log.ended").read_bytes(), "log").records == EVERY
