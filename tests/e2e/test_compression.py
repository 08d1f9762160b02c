"""Compression of a whole run, by the command line and with a codec of the user's own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

SCRIPT = """
import sys
import numpy as np
import shoal

kv = shoal.kv.create("dist")
kv.init("w", np.zeros(4096, np.float32))
kv.set_optimizer(shoal.optim.create("sgd", learning_rate=0.5))
if len(sys.argv) > 1:
    kv.set_gradient_compression(sys.argv[1])
for step in range(3):
    found = kv.pushpull("w", np.full(4096, kv.rank + 0.3, np.float32))
print(f"read {found[0]:.6f}")
"""

OWN = """
from dataclasses import dataclass
import numpy as np
from shoal.kvstore.codecs import Blockwise, Part, register

@register("whole")
@dataclass(kw_only=True)
class Whole(Blockwise):
    '''Whole numbers, with error feedback.'''

    has_feedback = property(lambda self: True)

    def layout(self, dtype):
        return (Part("codes", "|i1"),)

    def quantise(self, values, parts, place):
        parts[0][:] = np.rint(values)

    def restore(self, parts, out):
        np.copyto(out, parts[0])
"""


def run(folder: Path, *options: str, script: tuple[str, ...] = ()) -> tuple[subprocess.CompletedProcess[str], Any]:
    """How the run ended, and its report."""
    (folder / "train.py").write_text(SCRIPT)
    report = folder / "report.json"
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "2", "--no-progress", "--report", str(report)]
    got = subprocess.run(
        [*command, *options, "train.py", *script], capture_output=True, text=True, timeout=RUN_S, cwd=folder
    )
    return got, json.loads(report.read_text()) if report.exists() else None


def test_the_command_line_compresses_every_store_both_ways(tmp_path: Path) -> None:
    plain, before = run(tmp_path)
    small, after = run(tmp_path, "--compression", "2bit:threshold=0.5/bf16", script=("2bit/bf16",))
    assert (plain.returncode, small.returncode) == (0, 0), plain.stderr + small.stderr
    assert before["compression"] is None and before["bytes_saved"] == 0
    found = after["compression"]
    assert found["codec"] == "2bit:threshold=0.5/bf16" and found["pays"] is None
    assert before["bytes_pushed"] == 16 * after["bytes_pushed"] and after["ledger"]["balanced"]
    assert found["bytes_saved"] == 2 * 3 * 4096 * 4 * (15 / 16 + 1 / 2)
    assert found["encode_s"] > 0 < found["decode_s"]
    # Worker 0 sends 0, .5, 0 and worker 1 .5 each time: .5 * (.25 + .5 + .25) has been taken off
    assert after["weights_sha256"] != before["weights_sha256"] and "read -0.500000" in small.stdout


def test_a_script_that_asks_for_another_codec_than_the_run_is_refused(tmp_path: Path) -> None:
    got, _ = run(tmp_path, "--compression", "bf16", script=("fp16",))
    assert got.returncode != 0
    assert "asks for compression 'fp16', but the run was started with --compression bf16" in got.stdout + got.stderr


def test_an_unknown_codec_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    got, report = run(tmp_path, "--compression", "3bit")
    assert got.returncode != 0 and report is None and "no codec is called '3bit'" in got.stderr


def test_a_codec_of_ones_own_works_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    got, report = run(tmp_path, "--plugin", "own.py", "--compression", "whole")
    assert got.returncode == 0, got.stdout + got.stderr
    assert report["compression"]["codec"] == "whole" and report["bytes_saved"] == 3 * report["bytes_pushed"]
    # Worker 0 sends 0, 1, 0 and worker 1 1, 2, 1
    assert "read -1.250000" in got.stdout
