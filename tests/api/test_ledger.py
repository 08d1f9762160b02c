"""``shoal ledger``: the account of every push, and where it does not balance."""

import json
from pathlib import Path
from typing import Any

import pytest

from shoal import cli
from shoal.ledger import COLUMNS, difference


def row(rank: int = 0, **counts: int) -> dict[str, Any]:
    found = dict.fromkeys(COLUMNS, 0) | {"sent": 10, "acknowledged": 10, "applied": 10}
    return {"rank": rank, **found, **counts}


def run(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = cli.main(["ledger", str(path), *options])
    return (code, *capsys.readouterr())


def save(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"per_worker": rows}))
    return path


def test_a_balanced_ledger_has_a_line_for_each_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = save(tmp_path / "report.json", row(0, duplicate=3), row(1, applied=6, lost=4))
    code, out, _ = run(report, capsys)
    assert code == 0 and out.splitlines()[-1] == "balanced"
    assert [line.split()[0] for line in out.splitlines()[:4]] == ["worker", "0", "1", "all"]
    assert out.splitlines()[2].split() == ["1", "10", "10", "6", "0", "0", "0", "4", "balanced"]


def test_a_run_directory_has_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "report.json", row())
    assert run(tmp_path, capsys)[0] == 0


def test_a_ledger_that_does_not_balance_says_by_how_much_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = save(tmp_path / "r", row(0), row(1, applied=8))
    code, out, _ = run(report, capsys)
    assert code == 1 and "2 acknowledged are not accounted for" in out and "DOES NOT BALANCE" in out


def test_json_is_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(save(tmp_path / "r", row(0), row(1, lost=1)), capsys, "--json")
    found = json.loads(out)
    assert code == 1 and found["balanced"] is False and [w["balanced"] for w in found["workers"]] == [True, False]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"per_worker": [1]}'])
def test_what_is_no_report_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r").write_text(text)
    code, _, err = run(tmp_path / "r", capsys)
    assert code == 2 and "is no report of shoal run" in err


def test_a_missing_report_says_how_to_get_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(tmp_path, capsys)
    assert code == 2 and "--run-dir" in err


def test_what_was_counted_twice_and_what_was_not_acknowledged_are_named() -> None:
    assert difference(row(applied=11)) == "1 more is accounted for than was acknowledged"
    assert difference(row(sent=12)) == "2 of 12 sent are not acknowledged"
