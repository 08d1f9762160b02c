"""A scheduler whose state is not what its log says leaves a dump."""

import json
from pathlib import Path

import pytest

from shoal.errors import LocalProtocolError
from shoal.kvstore import dumps
from shoal.kvstore.dumps import Checked, Dumps, Recent
from shoal.scheduler.shell import SchedulerShell
from tests.scheduler.helpers import BEAT
from tests.scheduler.test_client import Mute
from tests.scheduler.test_core import running


def test_a_state_that_the_log_does_not_add_up_to_is_found_at_once(tmp_path: Path) -> None:
    core, recent = running().core, Recent()
    shell = SchedulerShell(Mute(), core, lambda: None)  # type: ignore[arg-type]
    shell.recent = recent
    driver = Checked(shell, lambda: core, recent)
    driver.receive("w0", BEAT, 1.0)
    core.state.generation += 1  # as only a bug can
    dumps.settle(Dumps("scheduler", str(tmp_path), True))
    try:
        with pytest.raises(LocalProtocolError, match="the log adds up to the state is no longer true"):
            driver.receive("w1", BEAT, 2.0)
        told = dumps.write({"rank": 0, "cluster": core.state.cluster}, core, "a test", recent)
    finally:
        dumps.settle(Dumps())
    (path,) = tmp_path.iterdir()
    assert str(path) in told
    found = json.loads(path.read_text())
    assert found["core"]["log"] and found["core"]["state"]["phase"] == "running"
    assert any("1.000000 w0: Heartbeat(" in line for line in found["recent"])
    assert any("-> Send(" in line for line in found["recent"])
