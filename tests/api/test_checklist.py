"""The loop of `make slurm-check` and `make ray-check`: each check is told of, and one that fails does not end it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "deploy" / "checklist.py"


@pytest.fixture(scope="module")
def carry_out() -> Callable[..., int]:
    spec = importlib.util.spec_from_file_location("checklist", FILE)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[..., int] = module.carry_out
    return made


def good() -> str:
    return "as it should be"


def bad() -> str:
    raise AssertionError("no more fish")


def test_a_check_that_fails_is_told_of_mended_and_does_not_end_the_others(
    carry_out: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    mended: list[int] = []
    assert carry_out([bad, good], mend=lambda: mended.append(1)) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("NO  bad ") and first.endswith("AssertionError: no more fish")
    assert second.startswith("ok  good") and second.endswith("as it should be")
    assert mended == [1]


def test_only_what_is_named_is_checked(carry_out: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert carry_out([bad, good], ["good"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_name_that_no_check_has_is_refused(carry_out: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        carry_out([good], ["god"])
    assert "there is no check god; there are good" in capsys.readouterr().out
