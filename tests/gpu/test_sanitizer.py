"""The step of gpu-check with compute-sanitizer, by a stand-in for that."""

from pathlib import Path

import pytest

from shoal.ops.gpu import sanitizer
from shoal.ops.gpu.check import Result, chosen, run

assert sanitizer  # imported for its step


def outcome(tmp_path: Path) -> Result:
    return run(chosen("sanitizer"), tmp_path / "out", 60.0, 1, lambda text: None)["sanitizer"]


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{text}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")


def test_without_it_the_step_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = outcome(tmp_path)
    assert (found.passed, found.failed, found.skipped) == (0, 0, 1)
    assert "comes with the CUDA toolkit" in next(iter(found.reasons))


def test_kernels_run_under_both_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "exit 0")
    assert outcome(tmp_path).passed == 2
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[0] for line in asked] == ["--tool=memcheck", "--tool=racecheck"]
    assert all("-m shoal.ops.gpucheck --only kernels" in line for line in asked)


@pytest.mark.parametrize(("text", "why"), [("echo bad; exit 9", "not theirs: bad"), ("exit 3", "it ended with 3")])
def test_what_it_finds_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str) -> None:
    stand_in(tmp_path, monkeypatch, text)
    found = outcome(tmp_path)
    assert found.failed == 2 and why in found.failures["memcheck"]
