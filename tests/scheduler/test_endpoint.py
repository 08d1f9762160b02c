"""Where Prometheus reads."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.exposition import CONTENT_TYPE, Family, provide, text
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.metrics import server_families
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.wire.messages import Barrier
from shoal.kvstore.wire.transport import Transport
from shoal.scheduler.endpoint import Endpoint, check_ports, parse_endpoint
from shoal.scheduler.metrics import scheduler_families
from tests.kvstore.exposition_parser import parse
from tests.patience import PATIENCE_S
from tests.scheduler.helpers import running


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    provide("test", lambda: [Family("shoal_x_total", "counter", "x").add(3, outcome="applied")])
    made = Endpoint("0")
    yield made
    made.close()
    provide("test", None)


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport("test")
    yield made
    made.close(0.0)


def test_the_numbers_of_the_process_are_read_over_http(endpoint: Endpoint) -> None:
    with urllib.request.urlopen(f"http://{endpoint.address}/metrics", timeout=PATIENCE_S) as answer:
        assert answer.headers["Content-Type"] == CONTENT_TYPE
        assert parse(answer.read().decode())["shoal_x_total"][1] == {("shoal_x_total", (("outcome", "applied"),)): 3}


def test_another_path_is_not_there(endpoint: Endpoint) -> None:
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(f"http://{endpoint.address}/etc/passwd", timeout=PATIENCE_S)
    assert e.value.code == 404
    e.value.close()


def test_it_listens_on_the_loopback_unless_told_otherwise(endpoint: Endpoint) -> None:
    assert endpoint.address.startswith("127.0.0.1:")


def test_a_port_that_is_taken_is_said_so(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError, match="Choose another port"):
        Endpoint(endpoint.address)


@pytest.mark.parametrize("wrong", ["", "x", "1.2.3.4", "http://h:1", "70000", "h:"])
def test_what_is_no_place_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError):
        parse_endpoint(wrong)


def test_there_must_be_a_port_for_every_process() -> None:
    check_ports("9100", 4)
    for place in ("0", "65533"):
        with pytest.raises(ConfigError, match="4 processes serve metrics at 4 ports"):
            check_ports(place, 4)


def test_the_scheduler_tells_of_nodes_barriers_and_terms(transport: Transport) -> None:
    s = running(workers=2)
    s.hear("w1", Barrier(name="e", index=0))
    told = parse(text(scheduler_families(transport, s.core)))
    nodes = told["shoal_nodes"][1]
    assert nodes["shoal_nodes", (("role", "worker"), ("state", "running"))] == 2
    assert told["shoal_barrier_workers"][1]["shoal_barrier_workers", ()] == 1
    s.hear("w0", Barrier(name="e", index=0))
    told = parse(text(scheduler_families(transport, s.core)))
    assert told["shoal_barriers_opened_total"][1]["shoal_barriers_opened_total", (("barrier", "e"),)] == 1
    assert told["shoal_run_term"][1]["shoal_run_term", ()] == 1


def test_a_server_tells_of_pushes_and_staleness_by_worker(transport: Transport) -> None:
    shell = ServerShell(transport)
    assert parse(text(server_families(shell)))["shoal_bytes_total"]
    shell.start(0, 1, "c")
    assert isinstance(shell.core, ServerCore)
    from shoal.kvstore.server.books import Ledger

    book = shell.core.ledgers[1] = Ledger(applied=3, duplicate=1)
    book.staleness.update({0: 2, 5: 1})
    transport.malformed['worker-"x\\\n'] += 2
    told = parse(text(server_families(shell)))
    pushes = told["shoal_pushes_total"][1]
    assert pushes["shoal_pushes_total", (("outcome", "applied"), ("worker", "1"))] == 3
    assert pushes["shoal_pushes_total", (("outcome", "duplicate"), ("worker", "1"))] == 1
    staleness = told["shoal_staleness"][1]
    assert staleness["shoal_staleness_bucket", (("le", "4"), ("worker", "1"))] == 2
    assert staleness["shoal_staleness_sum", (("worker", "1"),)] == 5
    assert list(told["shoal_malformed_messages_total"][1].values()) == [2]
