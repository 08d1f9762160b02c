"""The training steps that gpu-check times, with small numbers on the CPU: the same code, and PyTorch beside it."""

import time
from pathlib import Path
from typing import Any

import pytest

from shoal.ops.gpu import benchchecks
from shoal.ops.gpu.benchmodels import GPT2, RESNET50, Work, small, step_of
from shoal.ops.gpu.check import Check, Result, Step, chosen, run, table
from shoal.ops.gpu.fake import fake_gpus


def nothing() -> None:
    """Wait for nobody."""


@pytest.mark.parametrize("work", [GPT2[0], RESNET50[0]], ids=lambda w: w.name)
def test_a_dry_run_on_the_cpu_gives_times_rates_and_shares(work: Work, tmp_path: Path) -> None:
    result = Result()
    c = Check(result, tmp_path, time.monotonic() + 60.0)
    tiny, makers = benchchecks.dry(work)
    pytest.importorskip("torch")
    benchchecks.measured(c, tiny, makers, 30.0, nothing, rounds=2)
    assert not result.failures and result.passed == 2
    for name in ("shoal", "eager"):
        ms, unit = result.numbers[f"{work.name} {name}"]
        assert ms > 0 and unit == "ms"
        rate, unit = result.numbers[f"{work.name} {name} rate"]
        assert rate == pytest.approx(tiny.items / ms * 1e3) and unit == tiny.unit
        assert f"{work.name} {name} of the floor" in result.numbers
    assert result.notes[f"{work.name} rounds"] == {"shoal": 2, "eager": 2}
    assert "times as fast" in table({"bench": result}, 1)


@pytest.mark.parametrize("work", [GPT2[0], RESNET50[0]], ids=lambda w: w.name)
def test_the_steps_learn_the_batch_that_they_are_given(work: Work) -> None:
    step = step_of(small(work))
    losses = [float(step()) for _ in range(12)]
    assert losses[-1] < losses[0]


def test_what_does_not_run_is_a_failed_case_and_the_rest_is_measured(tmp_path: Path) -> None:
    def broken() -> Any:
        raise ImportError("No module named 'torch'")

    result = Result()
    c = Check(result, tmp_path, time.monotonic() + 60.0)
    tiny, makers = benchchecks.dry(GPT2[0])
    benchchecks.measured(c, tiny, {"shoal": makers["shoal"], "eager": broken}, 0.0, nothing)
    assert list(result.failures) == [f"{tiny.name} eager runs"] and result.passed == 1
    assert result.notes[f"{tiny.name} rounds"] == {"shoal": 2}  # there is one round, however little time


def test_without_a_gpu_they_are_skipped(tmp_path: Path) -> None:
    wanted: list[Step] = chosen("GPT-2 training,ResNet-50 training")
    found = run(wanted, tmp_path, 60.0, 0, lambda text: None)
    assert [r.skipped for r in found.values()] == [1, 1] and not any(r.failed for r in found.values())


def test_floors_are_in_proportion_to_the_batch() -> None:
    for works in (GPT2, RESNET50):
        assert works[0].floor_ms / works[0].batch == pytest.approx(works[1].floor_ms / works[1].batch)


@pytest.mark.parametrize("work", [GPT2[0], RESNET50[0]], ids=lambda w: w.name)
def test_a_step_on_a_gpu_made_of_numpy_has_the_losses_of_the_host(work: Work) -> None:
    expected = [float(step()) for step in [step_of(small(work))] for _ in range(2)]
    with fake_gpus() as (gpu,):
        step = step_of(small(work), gpu.xp, "gpu:0")
        assert [float(step()) for _ in range(2)] == pytest.approx(expected, rel=2e-2)
