"""Invariants that are broken on purpose: what is written, what is said, and how the process ends."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.cli import main
from shoal.errors import LocalProtocolError
from shoal.kvstore import dumps
from shoal.kvstore.arrays import as_payload
from shoal.kvstore.client.core import ClientCore, Job
from shoal.kvstore.client.shell import ClientShell, Group
from shoal.kvstore.dumps import Checked, Dumps, Recent, plain
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.server.checked import CheckedShell
from shoal.kvstore.server.freeze import thaw
from shoal.kvstore.wire.messages import Ack, Hello, HelloOk
from tests.kvstore.test_hostile import Wire, genuine, serving


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    dumps.settle(Dumps("server", str(tmp_path / "dumps"), True))
    yield tmp_path / "dumps"
    dumps.settle(Dumps())


def only(place: Path) -> dict[str, Any]:
    (path,) = place.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_server_whose_version_goes_wrong_dumps_its_state_and_ends(place: Path) -> None:
    shell = driver = serving(CheckedShell)
    driver.receive("w0", genuine(0, clock=1, seq=2), 5.0)
    assert not shell.failure()
    assert shell.core is not None
    shell.core.entries[7].version += 3  # nobody but a bug does this
    driver.receive("w0", Hello(cluster="run", worker=0, incarnation=3), 6.0)
    failure = shell.failure().splitlines()
    begins = "server failed on its own state: an invariant is broken after Hello of w0: AssertionError"
    assert failure[0].startswith(begins)
    assert "shoal dump " in failure[0] and failure[-1].startswith("AssertionError")
    found = only(place)
    assert (found["role"], found["rank"], found["incarnation"], found["cluster"]) == ("server", 0, 1, "run")
    assert found["core"]["entries"]["7"]["version"] == 4 and "AssertionError" in found["traceback"]
    happened = "\n".join(found["recent"])
    assert "5.000000 w0: Push(" in happened and "    -> Accumulate(" in happened and "    -> Send(" in happened
    assert thaw(found["frozen"], 2).entries[7].version == 4, "what is in it can be looked at with the code itself"


def test_a_failure_that_is_no_broken_invariant_is_dumped_too(place: Path) -> None:
    shell = serving()
    shell.table.cells.clear()  # the core believes that there is a value
    for rank in range(2):
        shell.receive(f"w{rank}", genuine(rank, clock=1, seq=2), 1.0)
    assert "shoal dump " in shell.failure()
    found = only(place)
    assert found["recent"] is None, "nothing is kept where nothing is checked"
    assert main(["dump", str(next(place.iterdir()))]) == 0


def test_without_a_directory_nothing_is_written() -> None:
    shell = serving()
    shell.table.cells.clear()
    for rank in range(2):
        shell.receive(f"w{rank}", genuine(rank, clock=1, seq=2), 1.0)
    assert shell.failure() and "shoal dump" not in shell.failure()


def test_where_a_dump_cannot_be_written_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    dumps.settle(Dumps("server", str(tmp_path / "file"), False))
    try:
        told = dumps.write({"rank": 0}, None, "why")
    finally:
        dumps.settle(Dumps())
    assert told.startswith(" (its state could not be written to ")


def test_there_are_no_weights_in_a_dump(place: Path) -> None:
    shell = driver = serving(CheckedShell)
    driver.receive("w0", genuine(0, clock=1, seq=2, value=as_payload(np.full(4, 1234.5, np.float32))), 5.0)
    shell.fail("a test")
    text = next(place.iterdir()).read_text()
    assert "1234.5" not in text and np.full(4, 1234.5, np.float32).tobytes().hex() not in text


def test_a_client_whose_account_is_wrong_fails_and_says_where_it_stood(place: Path) -> None:
    core = ClientCore(0, 3, "run", 1)
    core.register(7, parse_gate("asp"))
    shell, recent = ClientShell(Wire(), core), Recent()  # type: ignore[arg-type]
    driver = shell.checked(recent)
    driver.receive("server0", HelloOk(server=0, incarnation=1), 0.0)
    group = Group(1)
    job = Job(server=0, slice=7, key="a", payload=as_payload(np.ones(4, np.float32)), token=(group, None))
    core.links[0].greeted = True
    shell._carry_out(core.submit([job], 1.0))
    core.links[0].credit -= 5
    with pytest.raises(LocalProtocolError, match="an invariant is broken after Ack of server0"):
        driver.receive("server0", Ack(seq=job.seq, version=1, floor=1), 2.0)
    assert any("Transmit(" in line for line in recent.lines) and "Ack(" in "".join(recent.lines)


def test_a_broken_core_is_told_of_once(place: Path) -> None:
    class Broken:
        def check(self) -> None:
            raise AssertionError("as planned")

    told: list[str] = []
    driver = Checked(serving(), Broken, Recent(), told.append)
    for _ in range(3):
        driver.wake(0.0)
    assert told == ["an invariant is broken after time has passed: AssertionError: as planned"]


def test_the_ring_of_events_is_bounded() -> None:
    recent = Recent()
    for n in range(1000):
        recent.event(0.0, f"{n} " + "x" * 10_000)
    assert len(recent.lines) == dumps.RECENT and max(map(len, recent.lines)) < 500


def test_anything_becomes_plain() -> None:
    loop: list[Any] = []
    loop.append(loop)
    given = {(1, "a"): {3, 1}, "nan": float("nan"), "array": np.ones(3), "bytes": b"x", "f": print, "loop": loop}
    assert json.dumps(plain(given))
    assert plain(given)["1, a"] == [1, 3] and plain(given)["nan"] == "nan"
    assert plain(given)["array"] == "<ndarray of 24 bytes>"
    assert plain(genuine(0))["value"] == "<payload <f4 (4,)>"


def test_a_dump_is_shown_with_who_why_and_what(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell = driver = serving(CheckedShell)
    driver.receive("w0", genuine(0, clock=1, seq=2), 5.0)
    shell.fail("a test")
    assert main(["dump", str(next(place.iterdir()))]) == 0
    out = capsys.readouterr().out
    for said in (
        "server 0 (incarnation 1) of run run",
        "a test",
        "and the actions that followed",
        "entries:",
        "version: 1",
    ):
        assert said in out
    (place / "none.json").write_text("{}")
    assert main(["dump", str(place / "none.json")]) == 2
