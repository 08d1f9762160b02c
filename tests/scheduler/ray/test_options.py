"""The command line of a run on Ray."""

import argparse
import sys
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.commands import values


@pytest.mark.parametrize(("text", "least", "most"), [("4", 4, 4), ("2..16", 2, 16), ("2+", 2, values.MOST)])
def test_how_many_workers(text: str, least: int, most: int) -> None:
    number = values.workers(text)
    assert (number, number.most) == (least, most)


@pytest.mark.parametrize("text", ["0", "x", "4..2", "..3", "2..x", "+", ""])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number of processes, at least 1"):
        values.workers(text)


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = main(["run", *args])
    return code, capsys.readouterr().err


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train.py").write_text("")
    return str(tmp_path / "train.py")


def test_without_ray_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, err = said(capsys, "--on", "ray", script)
    assert (code, err) == (2, "shoal run: Ray is not installed here: pip install 'shoal[ray]'\n")


def test_on_this_machine_the_number_of_workers_is_known(capsys: pytest.CaptureFixture[str], script: str) -> None:
    code, err = said(capsys, "-n", "2..4", script)
    assert code == 2 and "2 to 4 workers" in err and "--on ray" in err


@pytest.mark.parametrize("amounts", ["CPU", "CPU=x", "GPU=-1", "=1"])
def test_resources_that_are_none(capsys: pytest.CaptureFixture[str], script: str, amounts: str) -> None:
    code, err = said(capsys, "--on", "ray", "--worker-resources", amounts, script)
    assert code == 2 and "expected " in err
