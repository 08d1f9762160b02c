"""A report that cannot be written is found out before the run, not after it."""

from pathlib import Path

import pytest

from shoal import cli
from shoal.errors import ConfigError
from shoal.lab.report import check_place


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
