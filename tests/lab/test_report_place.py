"""A report that cannot be written is found out before the run, not after it."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from shoal import cli
from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import Snapshot
from shoal.lab.report import check_place, put_aside, save
from shoal.scheduler.job import Outcome


def test_a_place_that_can_be_written_is_fine(tmp_path: Path) -> None:
    check_place("")
    check_place(str(tmp_path / "report.json"))


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        check_place(str(tmp_path / "nowhere" / "report.json"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a folder"):
        check_place(str(tmp_path))


@pytest.mark.parametrize("command", [["run", "train.py"], ["scheduler", "-n", "1", "-s", "1"]])
def test_both_commands_that_report_look_first(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command[0], "--report", "/nowhere/report.json", *command[1:]]) == 2
    assert "the report cannot be written to '/nowhere/report.json'" in capsys.readouterr().err


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path: Path) -> None:
    """Such as /dev/null, by root."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"the trace cannot be written to '.*pipe': it is no ordinary file"):
        check_place(str(tmp_path / "pipe"), "trace")


def test_a_report_goes_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    save({"a": 1}, tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "real.json").read_text()) == {"a": 1}


def test_what_an_earlier_run_has_reported_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    put_aside(str(path))
    path.write_text("old")
    put_aside(str(path))
    assert not path.exists() and (tmp_path / "report.json.before").read_text() == "old"


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end well at once."""
    snapshot = Snapshot(phase="finished", cluster="c", mode="bsp", reason="", culprit="", missing=(), nodes=())
    launch = lambda self, job: Outcome(0, "", snapshot)  # noqa: E731
    monkeypatch.setattr("shoal.scheduler.local.LocalLauncher.launch", launch)


@pytest.mark.usefixtures("finished")
def test_a_run_that_ended_well_is_shown_if_its_report_cannot_be_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.py").write_text("")
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space")))
    code = cli.main(["run", "--no-progress", "--report", str(tmp_path / "r.json"), str(tmp_path / "train.py")])
    out, err = capfd.readouterr()
    assert code == 1 and "ledger" in out + err and "r.json': No space" in err


@pytest.mark.usefixtures("finished")
def test_a_target_that_nobody_has_reported_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.py").write_text("")
    assert cli.main(["run", "--no-progress", "--target", "acuracy=0.5", str(tmp_path / "train.py")]) == 0
    assert "no metric 'acuracy' was reported; reported: none" in capfd.readouterr().err
