"""First layers first: the order in which slices leave, recorded (P3: Jayarajan et al., arXiv:1905.03960)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.kvstore.client import core as client_core
from shoal.kvstore.client.core import ClientCore, Job, Transmit
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.wire.messages import Ack, HelloOk, Push
from shoal.kvstore.wire.schema import Payload

SLICE = 1 << 20


class Sender:
    """A worker with credit for one slice, and a server that acknowledges when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, credit: int = SLICE) -> None:
        monkeypatch.setattr(client_core, "CREDIT_BYTES", credit)
        self.core = ClientCore(0, 1, "run", 1)
        self.core.links[0].credit = credit
        self.core.links[0].greeted = True
        self.order: list[int] = []
        self.flying: list[Push] = []
        self.now = 0.0

    def submit(self, layer: int, slices: list[int]) -> None:
        """A layer's gradient, as the Trainer submits it: priority minus its index."""
        for i in slices:
            self.core.register(i, parse_gate("asp"))
        payload = Payload(dtype="<f4", shape=(SLICE // 4,), data=b"")
        jobs = [
            Job(server=0, slice=i, key=str(layer), priority=-layer, payload=payload, payload_bytes=SLICE)
            for i in slices
        ]
        self._carry(self.core.submit(jobs, self.now))

    def acknowledge(self) -> None:
        """The oldest slice under way is acknowledged."""
        m = self.flying.pop(0)
        self._carry(self.core.receive(0, Ack(seq=m.seq, version=1, floor=0), self.now))

    def _carry(self, actions: list) -> None:
        for a in actions:
            if isinstance(a, Transmit) and isinstance(a.message, Push):
                self.order.append(a.message.slice)
                self.flying.append(a.message)


def test_with_one_credit_the_first_layer_waits_for_at_most_one_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Sender(monkeypatch)
    s.submit(9, list(range(100, 200)))
    s.submit(0, [1, 2])
    assert s.order == [100]
    s.acknowledge()
    assert s.order == [100, 1]


def test_a_large_layer_is_overtaken_between_its_slices_and_goes_on_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Sender(monkeypatch)
    s.submit(5, [50, 51, 52])
    s.acknowledge()
    s.submit(2, [20])
    while s.flying:
        s.acknowledge()
    assert s.order == [50, 51, 20, 52]


def test_a_window_of_several_slices_is_the_most_that_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Sender(monkeypatch, credit=4 * SLICE)
    s.submit(9, list(range(100, 120)))
    s.submit(0, [1])
    s.acknowledge()
    assert s.order == [100, 101, 102, 103, 1]


def test_an_urgent_key_after_the_greeting_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Sender(monkeypatch)
    s.core.links[0].greeted = False
    s.submit(7, [70])
    s.submit(0, [1])
    s._carry(s.core.receive(0, HelloOk(server=0, incarnation=1), 0.0))
    assert s.order == [1]


@settings(max_examples=60)
@given(st.data())
def test_after_each_credit_the_first_layer_that_waits_goes(data: st.DataObject) -> None:
    """The recorded order is sorted by layer among what was there when each slice left."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        s = Sender(monkeypatch)
        waiting: list[int] = []
        for step in range(30):
            if data.draw(st.booleans()) or not s.flying:
                layer = data.draw(st.integers(0, 9))
                slice_id = layer * 1000 + step
                waiting.append(slice_id)
                s.submit(layer, [slice_id])
            else:
                s.acknowledge()
            while waiting and s.order and s.order[-1] in waiting:
                sent = s.order[-1]
                assert sent // 1000 == min(w // 1000 for w in waiting)
                waiting.remove(sent)
