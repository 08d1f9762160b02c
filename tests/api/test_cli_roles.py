"""The server's process, and what a worker's process checks before it trains."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.errors import ConfigError, JoinRefusedError, NodeLostError
from shoal.roles import ServerRole, _exit, _summary, run_worker
from shoal.scheduler.address import advertised
from shoal.scheduler.child import Launched
from shoal.scheduler.watch import snapshot_of
from tests.scheduler.cluster import WAIT_S, Cluster

pytestmark = pytest.mark.net


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    made.scheduler(workers=1)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("advertise", "host", "address"),
    [
        ("", "", "10.0.0.5:7000"),
        ("", "0.0.0.0", "10.0.0.5:7000"),
        ("", "10.0.0.9", "10.0.0.9:7000"),
        ("node-a", "0.0.0.0", "node-a:7000"),
        ("node-a:443", "0.0.0.0", "node-a:443"),
    ],
)
def test_a_server_is_reached_where_it_says_or_where_it_faces_the_scheduler(
    advertise: str, host: str, address: str
) -> None:
    assert advertised(advertise, host, "10.0.0.5", 7000) == address


def test_a_server_serves_until_the_workers_are_done(cluster: Cluster) -> None:
    server = ServerRole(cluster.address)
    served = cluster.call(server.run)
    worker = cluster.member()
    roster = worker.wait_roster(WAIT_S)
    assert roster.members[0].address.startswith("127.0.0.1:")
    assert worker.goodbye(None, timeout_s=WAIT_S)
    assert served.result(WAIT_S) == 0


def test_a_server_that_is_not_taken_in_says_why(cluster: Cluster) -> None:
    with pytest.raises(JoinRefusedError, match="asks for rank 4"):
        ServerRole(cluster.address, rank=4).run()


@pytest.mark.parametrize("launched", [Launched.NOT, Launched.HERE])
def test_a_server_ends_with_the_run(cluster: Cluster, launched: Launched) -> None:
    served = cluster.call(ServerRole(cluster.address, launched=launched).run)
    worker = cluster.member()
    worker.wait_roster(WAIT_S)
    worker.goodbye(None, failed="boom", timeout_s=WAIT_S)
    if launched:
        assert served.result(WAIT_S) == 1
    else:
        with pytest.raises(NodeLostError, match=r"worker 0 .*: boom"):
            served.result(WAIT_S)


def test_a_server_whose_launcher_has_lost_it_ends_without_a_word(cluster: Cluster) -> None:
    """The launcher sees it too, and may start another in its place: the run has not failed."""
    server = ServerRole(cluster.address, launched=Launched.AFAR)
    served = cluster.call(server.run)
    worker = cluster.member()
    worker.wait_roster(WAIT_S)
    server.stop(signal.SIGHUP)
    assert served.result(WAIT_S) == 128 + signal.SIGHUP
    seen = snapshot_of(cluster.address, WAIT_S)
    assert seen is not None and seen.phase == "running"


def test_a_server_that_is_told_to_stop_tells_the_others(cluster: Cluster) -> None:
    server = ServerRole(cluster.address)
    served = cluster.call(server.run)
    worker = cluster.member()
    worker.wait_roster(WAIT_S)
    server.stop(signal.SIGTERM)
    assert served.result(WAIT_S) == 143
    with pytest.raises(NodeLostError, match=r"server 0 .*: stopped by SIGTERM"):
        worker.barrier("b", WAIT_S)


def test_a_server_that_cannot_go_on_tells_the_others_why(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ServerRole(cluster.address)
    worker = cluster.member()
    served = cluster.call(server.run)
    worker.wait_roster(WAIT_S)
    failure = "server failed on Apply\nTraceback ...\n  File ...\nMemoryError: no more"
    monkeypatch.setattr(server.store, "failure", lambda: failure)
    assert served.result(WAIT_S) == 1
    with pytest.raises(NodeLostError, match=r"server 0 .*: server failed on Apply: MemoryError: no more"):
        worker.barrier("b", WAIT_S)


def test_a_failure_in_one_line() -> None:
    assert _summary("one line\n") == "one line"


def test_a_port_in_use_is_said_before_joining(cluster: Cluster) -> None:
    server = ServerRole(cluster.address)
    port = int(server.membership.core.config.address.rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"port {port} on 127\.0\.0\.1 is already in use"):
        ServerRole(cluster.address, port=port)
    server.transport.close()


def test_a_worker_looks_for_its_script_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no script"):
        run_worker("127.0.0.1:9", str(tmp_path / "nowhere.py"))


def test_a_worker_that_is_told_to_stop_exits_with_the_signal() -> None:
    with pytest.raises(SystemExit) as e:
        _exit(signal.SIGTERM)
    assert e.value.code == 143
    with pytest.raises(KeyboardInterrupt):
        _exit(signal.SIGINT)
