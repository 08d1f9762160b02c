"""Whether compression pays: what is weighed, and when something is said."""

import logging
import time

import numpy as np
import pytest

from shoal.kvstore import codecs
from shoal.kvstore.arrays import as_payload
from shoal.kvstore.client.core import ClientCore, Job
from shoal.kvstore.codecs import Compressor, Cost, Link, Plan
from shoal.kvstore.gates import parse_gate
from shoal.kvstore.wire.messages import Ack, HelloOk, Value
from tests.kvstore.codec_cases import normal
from tests.kvstore.test_server_core import payload
from tests.kvstore.threads import thread_cluster

LINK = Link(10**9, 1.0)


def cost(spent_s: float, saved: int, pushes: int = 1000) -> Cost:
    return Cost(encoded=pushes, encode_s=spent_s / 2, decode_s=spent_s / 2, saved_bytes=saved)


@pytest.mark.parametrize(
    ("spent_s", "saved", "verdict"),
    [(2.0, 10**9, False), (1.4, 10**9, True), (2.0, 10**10, True), (0.2, 0, None), (0.3, -5, False)],
)
def test_work_is_weighed_against_the_time_that_the_saved_bytes_would_have_taken(
    spent_s: float, saved: int, verdict: bool | None
) -> None:
    assert cost(spent_s, saved).pays(LINK) is verdict


@pytest.mark.parametrize("link", [Link(0, 0.0), Link(1000, 1e-6), Link(10**9, 0.0)])
def test_nothing_is_said_while_the_link_is_unknown(link: Link) -> None:
    assert cost(10.0, 0).pays(link) is None and cost(10.0, 0).complaint("int8", link) == ""
    assert cost(10.0, 0, pushes=99).pays(LINK) is None


def test_the_complaint_names_both_sides_and_what_to_do() -> None:
    text = cost(3.0, 812 * 10**6).complaint("int8", Link(2 * 10**9, 2.0))
    for part in ("int8 does not pay", "3.00 s", "812 MB", "0.81 s at the measured 1.00 GB/s"):
        assert part in text
    assert cost(3.0, 10**10).complaint("int8", LINK) == ""


def test_advice_is_given_once() -> None:
    compressor = Compressor(Plan.of("int8"), 0)
    compressor.cost = cost(3.0, 0, pushes=128)
    assert "does not pay" in compressor.advice(LINK)
    assert compressor.advice(LINK) == ""


def test_advice_is_looked_for_now_and_then() -> None:
    compressor = Compressor(Plan.of("int8"), 0)
    compressor.cost = cost(3.0, 0, pushes=20)
    assert compressor.advice(LINK) == ""
    compressor.cost = cost(3.0, 0, pushes=90)
    assert compressor.advice(LINK) == ""  # 100 are needed
    compressor.cost = cost(3.0, 0, pushes=150)
    assert compressor.advice(LINK) == ""  # not 64 since the last look
    compressor.cost = cost(3.0, 0, pushes=154)
    assert compressor.advice(LINK) != ""


def test_encoding_is_timed_and_counted() -> None:
    compressor = Compressor(Plan.of("2bit"), 0)
    began = time.perf_counter()
    compressor.encode(0, normal(1 << 14))
    assert 0 < compressor.cost.encode_s <= time.perf_counter() - began
    assert (compressor.cost.encoded, compressor.cost.saved_bytes) == (1, (1 << 16) * 15 // 16)
    report = compressor.report(LINK)
    assert report["codec"] == "2bit:threshold=0.5" and report["pays"] is None
    assert report["time_saved_s"] == pytest.approx(61440 / 1e9)


def pushing(core: ClientCore, slice_id: int, now: float, size: int = 100) -> None:
    core.submit([Job(server=0, slice=slice_id, payload=payload(), payload_bytes=size)], now)


def test_the_link_is_measured_while_pushes_are_under_way() -> None:
    core = ClientCore(0, 1, "run", 1)
    for i in (1, 2):
        core.register(i, parse_gate("asp"))
    pushing(core, 1, now=0.0)
    core.receive(0, HelloOk(server=0, incarnation=1), 1.0)  # the push leaves
    pushing(core, 2, now=2.0)
    core.receive(0, Ack(seq=0, version=1, floor=1), 4.0)
    core.receive(0, Ack(seq=1, version=1, floor=1), 5.0)
    c = core.counters
    assert (c.bytes_acknowledged, c.pushing_s) == (200, 4.0)
    pushing(core, 1, now=100.0)  # in between nothing was under way
    core.receive(0, Ack(seq=2, version=2, floor=1), 101.0)
    assert (c.bytes_acknowledged, c.pushing_s) == (300, 5.0)


def test_a_value_that_acknowledges_a_push_counts_as_traffic() -> None:
    core = ClientCore(0, 1, "run", 1)
    core.register(1, parse_gate("asp"))
    core.submit([Job(server=0, slice=1, payload=payload(), payload_bytes=100, want=True)], 0.0)
    core.receive(0, HelloOk(server=0, incarnation=1), 0.0)
    core.receive(0, Value(seq=0, version=1, floor=1, value=as_payload(np.zeros(4, np.float32))), 2.0)
    assert (core.counters.bytes_acknowledged, core.counters.pushing_s) == (116, 2.0)


@pytest.mark.net
def test_a_worker_is_told_that_compression_over_loopback_does_not_pay(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codecs.cost, "LEAST_S", 0.0)
    monkeypatch.setattr(codecs.cost, "DOUBT", 1e-6)  # on a busy machine a link can seem slow
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0, reduce="sum")
        kv.init("w", np.zeros(1 << 16, np.float32))
        kv.set_gradient_compression("int8")
        gradient = normal(1 << 16)
        with caplog.at_level(logging.WARNING, "shoal.kvstore"):
            for _ in range(200):
                kv.push("w", gradient).result()
        stats = cluster.shells[0].report()
        report = kv.compression_report()
    assert [r.message.count("worker 0: compression int8:block=1024 does not pay") for r in caplog.records] == [1]
    assert stats["decode_s"] > 0 and report is not None and report["pays"] is False and report["encode_s"] > 0
