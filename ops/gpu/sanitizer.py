"""The step of gpu-check that runs kernels under NVIDIA's ``compute-sanitizer``, where that is installed."""

import shutil
import subprocess
import sys

from shoal.ops.gpu.check import Check, Skipped, step

__all__ = ["sanitizer"]

TOOLS = {"memcheck": "memory that is not theirs", "racecheck": "shared memory without a barrier"}
FOUND = 9
"""What it ends with if it has found something."""


@step("sanitizer", order=35, budget_s=60.0)
def sanitizer(c: Check) -> None:
    """Kernels touch no memory that is not theirs, and share memory behind barriers only; half the time for each."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        raise Skipped("compute-sanitizer is not installed: it comes with the CUDA toolkit")
    for number, (name, what) in enumerate(TOOLS.items()):
        with c.case(name):
            allowed = max(1.0, c.left_s / (len(TOOLS) - number) - 1.0)
            inner = [sys.executable, "-m", "shoal.ops.gpucheck", "--only", "kernels", "--out", str(c.out / name)]
            command = [tool, f"--tool={name}", f"--error-exitcode={FOUND}", *inner, f"--budget={allowed:.0f}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=allowed, check=False)
            except subprocess.TimeoutExpired:
                raise Skipped(f"{name}: the kernels took longer than there was time") from None
            assert done.returncode != FOUND, f"{what}: {done.stdout[-1500:]}"
            assert done.returncode == 0, f"it ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}"
