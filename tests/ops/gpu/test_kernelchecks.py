"""The steps of gpu-check for kernels can be carried out: on a GPU that runs its kernels on the CPU."""

import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shoal import npx
from shoal.ops.gpu import checks, device, dnn, emulate, kernelchecks, trials
from shoal.ops.gpu.check import Check, Result
from shoal.ops.gpu.kernels import table
from shoal.ops.gpu.plans import PlanFolder
from tests.ops.gpu import fake_cudnn
from tests.ops.gpu.running import needs_compiler

assert npx  # imported for the operators


def emulated(index: int) -> Any:
    return SimpleNamespace(xp=emulate.NAMESPACE, use=nullcontext, synchronize=lambda: None)


def checked(step: Any, out: Path) -> Result:
    result = Result()
    with device.installed(emulated):
        step(Check(result, out, time.monotonic() + 60.0))
    return result


@needs_compiler
def test_kernels_pass_and_what_the_array_namespace_did_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {n: trials.CASES[n] for n in ("softmax", "fully_connected")}
    monkeypatch.setattr(trials, "CASES", few)
    monkeypatch.setattr(trials, "TYPES", (np.dtype(np.float32),))
    result = checked(kernelchecks.kernels, tmp_path)
    assert (result.passed, result.failed, result.skipped) == (4, 0, 1) and "kernel seed" in result.notes


def test_a_wrong_kernel_fails_its_case_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = trials.Trial("wrong", lambda: trials.Verdict(0.5, 1e-3, True))
    right = trials.Trial("right", lambda: trials.Verdict(0.0, 1e-3, True))
    monkeypatch.setattr(kernelchecks, "trials", lambda xp, seed: [wrong, right])
    result = checked(kernelchecks.kernels, tmp_path)
    assert result.passed == 1 and "error 0.5, allowed 0.001" in result.failures["wrong"]


def test_plans_are_built_and_then_read_back_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []

    def engine(xp: Any, index: int, folder: str) -> dnn.Dnn:
        folders.append(folder)
        return dnn.Dnn(fake_cudnn, lambda size: SimpleNamespace(ptr=size), PlanFolder(Path(folder), ("a GPU",)))

    monkeypatch.setattr(dnn, "engine_of", engine)
    table._bound.clear()
    result = checked(kernelchecks.plans, tmp_path)
    table._bound.clear()
    assert (result.passed, result.failures) == (2, {}) and len(folders) == 4 and len(set(folders)) == 1


def test_plans_that_are_not_read_back_fail_their_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        dnn, "engine_of", lambda xp, index, folder: dnn.Dnn(fake_cudnn, lambda size: SimpleNamespace(ptr=size))
    )
    table._bound.clear()
    result = checked(kernelchecks.plans, tmp_path)
    table._bound.clear()
    assert "0 plans were read back" in result.failures["a convolution"] and len(result.failures) == 2


def test_without_cudnn_plans_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnn, "engine_of", lambda xp, index, folder: None)
    assert checked(kernelchecks.plans, tmp_path).skipped == 2


def test_what_has_no_kernel_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelchecks, "PRODUCTS", {"small": (8, 8)})
    monkeypatch.setattr(kernelchecks, "IMAGES", {"small": ((1, 2, 4, 4), (2, 2, 3, 3), {})})
    monkeypatch.setattr(kernelchecks, "ROWS", 4)
    assert checked(kernelchecks.speeds, tmp_path).numbers == {}


def test_what_has_one_is_timed_with_its_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelchecks, "PRODUCTS", {"small": (8, 16)})
    monkeypatch.setattr(kernelchecks, "IMAGES", {"small": ((1, 2, 4, 4), (3, 2, 3, 3), {"pad": 1})})
    monkeypatch.setattr(kernelchecks, "ROWS", 4)
    monkeypatch.setattr(kernelchecks, "_there", lambda *given, **attrs: True)
    found = {name: operations for name, _, operations in kernelchecks._timed(emulate.NAMESPACE)}
    assert found["product small"] == 2 * 4 * 8 * 16 and found["convolution small"] == 2 * 16 * 3 * 2 * 9
    assert checks.seconds_of(emulated(0), lambda: None, 1) >= 0.0
