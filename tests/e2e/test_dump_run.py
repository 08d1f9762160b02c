"""A server of a real run that finds itself broken: the run ends as by any failure, and there is a dump."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import RUN_S

SCRIPT = """
import numpy as np
from shoal import kv
store = kv.create("dist_sync")
store.init("w", np.zeros(4, np.float32))
for _ in range(10):
    store.push("w", np.ones(4, np.float32))
    store.pull("w")
"""

BUG = """
from shoal.kvstore.server.core import ServerCore
sound = ServerCore.check
def check(self):
    sound(self)
    assert all(entry.version < 3 for entry in self.entries.values()), "as planned"
ServerCore.check = check
"""


def launch(folder: Path, *options: str) -> tuple[int, str]:
    (folder / "train.py").write_text(SCRIPT)
    (folder / "bug.py").write_text(BUG)
    command = [sys.executable, "-m", "shoal", "run", "-n", "2", "-s", "1", "--plugin", "bug.py", "--no-progress"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
    done = subprocess.run(
        [*command, *options, "train.py"], cwd=folder, env=env, capture_output=True, text=True, timeout=RUN_S
    )
    return done.returncode, done.stderr


@pytest.mark.net
def test_a_server_that_is_broken_ends_the_run_and_leaves_its_state(tmp_path: Path) -> None:
    code, said = launch(tmp_path, "--check", "--run-dir", "run", "--snapshot-every", "never")
    assert code == 1 and "as planned" in said
    (dump,) = (tmp_path / "run" / "dumps").iterdir()
    assert f"shoal dump {dump}" in said and dump.name.startswith("server-0-")
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600
    shown = subprocess.run([sys.executable, "-m", "shoal", "dump", str(dump)], capture_output=True, text=True)
    assert shown.returncode == 0 and "AssertionError: as planned" in shown.stdout and "Push(" in shown.stdout


@pytest.mark.net
def test_nobody_looks_unless_asked(tmp_path: Path) -> None:
    assert launch(tmp_path)[0] == 0
    assert not list(tmp_path.glob("**/*.dump.json"))
