"""The comparison table."""

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from shoal.lab.compare import compare, run, show


def report(**changes: Any) -> dict[str, Any]:
    ledger = {"sent": 8, "acknowledged": 8, "applied": 8, "rejected": 0, "duplicate": 1, "balanced": True}
    base = {
        "mode": "sync",
        "workers": 2,
        "servers": 1,
        "accuracy": 0.98765,
        "target": "accuracy=0.97",
        "seconds_to_target": 1.234,
        "seconds": 5.0,
        "samples_per_s": 12345.6,
        "staleness_mean": 0.0,
        "staleness_p95": 0,
        "bytes_pushed": 1_234_567,
        "bytes_pulled": 999,
        "ledger": ledger,
        "weights_sha256": "abcdef0123456789",
    }
    return {**base, **changes}


def shown(*reports: dict[str, Any]) -> str:
    out = io.StringIO()
    show(reports, Console(file=out, width=160))
    return out.getvalue()


def test_each_run_is_a_column_and_each_question_a_row() -> None:
    text = shown(report(), report(mode="async", staleness_mean=0.9, seconds_to_target=None))
    for part in (
        "sync",
        "async",
        "0.9877",
        "accuracy=0.97",
        "1.23 s",
        "never",
        "12,346",
        "1.2 MB",
        "999 B",
        "abcdef012345",
    ):
        assert part in text
    assert "balanced: 8" in text


def test_a_ledger_that_does_not_balance_is_shouted() -> None:
    bad = {"sent": 8, "acknowledged": 8, "applied": 6, "rejected": 1, "duplicate": 0, "balanced": False}
    text = shown(report(ledger=bad))
    assert "DOES NOT BALANCE: 8 sent, 8 acknowledged, 6 applied, 1 rejected" in text
    assert "lost or counted twice" in text


def test_what_is_not_known_is_a_dash() -> None:
    assert " - " in shown(report(accuracy=None, staleness_mean=None))


@pytest.mark.net
def test_a_run_that_fails_ends_the_comparison_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        run("-n", "1", "no such script.py")
    assert e.value.code == 2
    out, err = capfd.readouterr()
    assert out == "\n$ shoal run -n 1 'no such script.py'\n" and "no script 'no such script.py'" in err


def test_algorithms_are_looked_at_before_the_first_run(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare(["sync", "nope"], [], ["train.py"])
    out, err = capfd.readouterr()
    assert ended.value.code == 2 and "--algo 'nope': " in err and "$ shoal run" not in out


def test_what_has_finished_is_shown_when_a_later_run_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def one(*words: str) -> dict[str, Any]:
        return report() if "sync" in words else sys.exit(7)

    monkeypatch.setattr("shoal.lab.compare.run", one)
    with pytest.raises(SystemExit) as ended:
        compare(["sync", "async"], [], ["train.py"])
    assert ended.value.code == 7 and "0.9877" in capfd.readouterr().out
