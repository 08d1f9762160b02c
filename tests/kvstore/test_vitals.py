"""What a worker shows of its store: counts, and for whose answers it waits."""

from shoal.kvstore.client.core import ClientCore
from shoal.kvstore.client.vitals import vitals
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.wire.messages import Ack, Waiting
from tests.kvstore.test_client_core import client, job, sent


def test_short_waits_are_not_shown() -> None:
    core = client()
    core.submit([job()], 10.0)
    assert vitals(core, 10.5)["waits"] == []
    assert (vitals(core, 10.5)["sent"], vitals(core, 10.5)["in_flight"]) == (1, 1)


def test_a_server_that_does_not_answer_is_waited_for() -> None:
    core = client()
    core.submit([job(0), job(1)], 10.0)
    assert vitals(core, 12.0)["waits"] == [["acknowledgement of 'k0' at clock 0 and 1 more", ["server 0"], 2.0]]


def test_a_round_waits_for_the_workers_that_it_lacks() -> None:
    core = client()
    (push,) = sent(core.submit([job()], 10.0))
    core.receive(0, Ack(seq=push.seq, version=0, floor=0), 10.1)
    core.receive(0, Waiting(seq=push.seq, missing=(1, 5)), 10.2)
    ((what, on, for_s),) = vitals(core, 15.0)["waits"]
    assert what.startswith("value of 'k0'") and on == ["worker 1", "worker 5"] and for_s == 5.0


def test_a_greeting_that_is_not_answered_is_a_wait() -> None:
    core = ClientCore(3, 1, "run", 1)
    core.register(0, parse_gate("bsp"))
    core.submit([job()], 10.0)
    assert vitals(core, 13.0)["waits"] == [["answer to its greeting", ["server 0"], 3.0]]
