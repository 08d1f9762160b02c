"""The plug-in and the script of the page on extending run as they stand there."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import RUN_S

pytestmark = [pytest.mark.net, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs/extending.md"


def test_one_part_of_each_kind_works_in_a_cluster(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, block in re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(block, encoding="utf-8")
    (command,) = re.findall(r"^    shoal (run .*)$", text, re.MULTILINE)
    run, *words = shlex.split(command)
    got = subprocess.run(
        [sys.executable, "-m", "shoal", run, "--no-progress", "--report", "report.json", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert got.returncode == 0, got.stdout + got.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mode"] == "leash:2" and report["ledger"]["balanced"]
    assert report["compression"]["codec"].startswith("rounded-to:step=0.01")
    assert report["metrics"]["largest"] == pytest.approx(1.0, abs=0.2)
    assert report["metrics"]["bias"] > 0.3
