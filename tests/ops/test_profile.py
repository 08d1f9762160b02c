"""The profiler: what it counts, how it shows it, and that it is gone when it is off."""

import gc
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import autograd, nn, profiler
from shoal import np as mnp
from shoal.errors import ConfigError
from shoal.lab.tracecheck import faults
from shoal.ops import probe, tape
from shoal.ops.nn.block import Block
from shoal.ops.tensor import Tensor

OWN = Tensor.__dict__["_invoke"], tape._run_raw, tape._run_recorded, Block.__call__


def network() -> nn.HybridSequential:
    net = nn.HybridSequential(nn.Dense(8, in_units=4, activation="relu"), nn.Dense(2, in_units=8))
    net.initialize()
    return net


X = Tensor(np.ones((16, 4), np.float32))


def step(net: Any) -> None:
    with autograd.record():
        loss = net(X).sum()
    loss.backward()


def by_name(p: profiler.Profile, **options: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["name"], r["kind"]): r for r in p.rows(**options)}


def test_each_operator_is_counted_forward_and_backward_with_its_operations() -> None:
    net = network()
    with profiler.profile() as p:
        step(net)
        step(net)
    rows = by_name(p)
    assert rows["fully_connected", "forward"]["count"] == 4 and rows["relu", "backward"]["count"] == 2
    forward = 2 * 16 * 4 * 8 + 2 * 16 * 8 * 2
    assert rows["fully_connected", "forward"]["flops"] == 2 * forward
    # the first layer has gradients of its weight and its bias, the second of its input too
    assert rows["fully_connected", "backward"]["flops"] == 2 * (2 * 16 * 4 * 8 * 2 + 2 * 16 * 8 * 2 * 3)
    assert sum(r["share"] for r in rows.values()) == pytest.approx(1.0)
    assert rows["fully_connected", "forward"]["bytes"] == 2 * 4 * (16 * 8 + 16 * 2)


def test_the_operators_of_a_graph_are_counted_one_by_one() -> None:
    net = network()
    net.hybridize()
    for _ in range(3):
        step(net)
    with profiler.profile() as p:
        step(net)
    rows = p.rows()
    assert {r["kind"] for r in rows if r["mode"] == "hybrid"} == {"forward", "backward"}
    work = sum(r["flops"] or 0 for r in rows if r["name"] in ("fully_connected", "matmul"))
    assert work == 2 * 16 * 4 * 8 * 2 + 2 * 16 * 8 * 2 * 3


def test_nothing_is_left_when_it_is_off_also_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), profiler.profile(), profiler.profile():
        raise ZeroDivisionError
    assert (Tensor.__dict__["_invoke"], tape._run_raw, tape._run_recorded, Block.__call__) == OWN


def test_rows_of_shapes_of_lines_and_of_scopes() -> None:
    net = network()
    with profiler.profile() as p, profiler.scope("mine"):
        step(net)
        y = mnp.exp(X)  # a line of the user
    assert y.shape == X.shape
    assert ("exp (16x4)", "forward") in by_name(p, by="shapes")
    assert any(
        n.startswith("exp at test_profile.py:") and "# a line of the user" in n for n, _ in by_name(p, by="line")
    )
    scopes = [r["name"] for r in p.rows(by="scope", sort="name")]
    assert scopes == ["mine", "mine/HybridSequential", "mine/HybridSequential/0", "mine/HybridSequential/0/act",
                      "mine/HybridSequential/1"]  # fmt: skip


@pytest.mark.parametrize("sort", ["total", "count", "mean", "min", "max", "memory", "flops", "name"])
def test_rows_can_be_sorted(sort: str) -> None:
    with profiler.profile() as p:
        step(network())
        mnp.sort(X)
    key = {"total": "total_ms", "mean": "mean_us", "min": "min_us", "max": "max_us", "memory": "bytes"}.get(sort, sort)
    values = [r[key] for r in p.rows(sort=sort) if r[key] is not None]
    assert values == sorted(values, reverse=sort != "name") and len(values) > 3
    assert p.rows(sort=sort, ascending=True)[0]["name"]


def test_the_table_has_a_line_for_each_row_and_the_totals() -> None:
    with profiler.profile(memory=True) as p:
        step(network())
    text = p.table(limit=2)
    head, rule, *lines = text.splitlines()
    assert head.split()[:4] == ["operator", "part", "mode", "calls"] and set(rule) == {"-"}
    assert lines[2].startswith("... and ") and "operators took" in lines[-1] and "at once" in lines[-1]
    assert str(p) == p.table()


def test_the_peak_of_memory_is_what_was_alive_at_once() -> None:
    gc.collect()
    with profiler.profile(memory=True) as p:
        for _ in range(3):
            y = mnp.exp(X)  # 256 bytes; the one before is alive until this one is there
            del y
        a, b = mnp.exp(X), mnp.exp(X)
    assert p.peak_bytes == 512 and a.shape == b.shape
    views = [r for r in p.rows() if r["name"] == "exp"]
    assert views[0]["bytes"] == 5 * 256


def test_a_view_allocates_nothing() -> None:
    with profiler.profile() as p:
        X.reshape(4, 16).T.reshape(16, 4)
    assert by_name(p)["transpose", "forward"]["bytes"] == 0


def test_the_picture_is_a_sound_trace_with_names_and_work(tmp_path: Path) -> None:
    net = network()
    with profiler.profile(memory=True) as p:
        step(net)
        thread = threading.Thread(target=lambda: mnp.exp(X), name="beside")
        thread.start()
        thread.join()
    p.save(tmp_path / "p.json")
    picture = json.loads((tmp_path / "p.json").read_text())
    assert faults(picture) == [] and picture == p.chrome()
    events = picture["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"} == {"MainThread", "beside"}
    dense = next(e for e in events if e["name"] == "fully_connected" and e["ph"] == "X")
    assert dense["args"]["flops"] == 2 * 16 * 4 * 8 and dense["args"]["scope"] == "HybridSequential/0"
    assert any(e["ph"] == "C" for e in events) and any(e["name"] == "relu backward" for e in events)
    with pytest.raises(ConfigError, match="cannot be written"):
        p.save(tmp_path / "no" / "p.json")


def test_a_trace_of_the_run_has_the_operators_too() -> None:
    seen: list[str] = []
    probe.watch(lambda name, began, ended: seen.append(name))
    try:
        with profiler.profile():
            step(network())
    finally:
        probe.watch(None)
    assert {"fully_connected", "fully_connected backward", "forward", "backward", "HybridSequential"} <= set(seen)


def test_the_functions_of_mxnet(tmp_path: Path) -> None:
    path = tmp_path / "mx.json"
    profiler.set_config(filename=str(path), profile_all=True, aggregate_stats=True)
    profiler.set_state("run")
    try:
        assert profiler.state() == "run"
        step(network())
        profiler.pause()
        mnp.sin(X)
        profiler.resume()
        task = profiler.Task("load")
        task.start()
        task.stop()
        text = profiler.dumps(sort_by="avg")
        assert "fully_connected" in text and "sin" not in text
        profiler.dump()
        assert profiler.state() == "stop"
        names = {e["name"] for e in json.loads(path.read_text())["traceEvents"]}
        assert "load" in names and faults(json.loads(path.read_text())) == []
        profiler.dumps(reset=True)
        assert "fully_connected" not in profiler.dumps()
    finally:
        profiler.set_state("stop")
        profiler.set_config(filename="profile.json", profile_all=False)


def test_wrong_options_are_explained() -> None:
    with pytest.raises(ConfigError, match=r"no option 'profile_al'\. Did you mean 'profile_all'"):
        profiler.set_config(profile_al=True)
    with pytest.raises(ConfigError, match="'run' or 'stop'"):
        profiler.set_state("go")
    with pytest.raises(ConfigError, match="grouped by"):
        profiler.profile().rows(by="layer")
    with pytest.raises(ConfigError, match="sorted by"):
        profiler.profile().rows(sort="size")


def test_higher_derivatives_are_not_counted_twice() -> None:
    x = Tensor(np.ones(3))
    x.attach_grad()
    with profiler.profile() as p, autograd.record():
        y = (x * x).sum()
        autograd.grad(y, x, create_graph=True)
    assert {r["kind"] for r in p.rows()} == {"forward"}


def test_operators_that_a_graph_has_made_one_are_shown_with_their_names_and_all_their_work() -> None:
    class Wave(nn.HybridBlock):
        def forward(self, x: Any) -> Any:
            return mnp.exp(x * 2.0) + x

    net = Wave()
    net.hybridize()
    for _ in range(3):
        y = net(X)
    with profiler.profile() as p:
        y = net(X)
    assert y.shape == X.shape
    rows = p.rows()
    assert sum(r["flops"] for r in rows) == 3 * 64
    assert any("exp" in r["name"] for r in rows)
