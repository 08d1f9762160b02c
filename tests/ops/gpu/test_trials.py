"""What a GPU is asked to prove can be proved: the trials pass with kernels that run on the CPU."""

import pytest

from shoal import npx
from shoal.ops.gpu import emulate, trials
from shoal.ops.gpu.kernels import table
from tests.ops.gpu.running import needs_compiler

assert npx  # imported for the operators
ALL = {t.name: t for t in trials.trials(emulate.NAMESPACE)}
LIBRARIES = ("matmul", "fully_connected", "convolution", "attention")


@needs_compiler
@pytest.mark.parametrize("name", [n for n in ALL if "float32" in n or "bits" in n or "arena" in n])
def test_a_trial_passes_by_its_kernel(name: str) -> None:
    table._bound.clear()
    verdict = ALL[name].run()
    assert verdict.passed, verdict
    assert verdict.by_kernel or name.startswith(LIBRARIES)


def test_a_wrong_number_and_nan_fail() -> None:
    assert not trials.Verdict(0.1, 1e-3, True).passed
    import numpy as np

    assert trials._error(np.array([np.nan]), np.array([1.0])) == float("inf")


def test_every_operator_with_a_kernel_is_on_trial_or_said_to_be_elsewhere() -> None:
    elsewhere = {"max_pool_index", "max_unpool", "max_pool_take", "dropout_mask", "random_uniform", "batch_norm_relu"}
    assert set(table.kernels()) == set(trials.CASES) | elsewhere
