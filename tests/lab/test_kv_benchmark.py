"""``benchmarks/bench_kvstore.py``: its arithmetic, its turns, and a small run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import bench_kvstore as bench  # noqa: E402
import bench_links as links  # noqa: E402
import kv_peers as peers  # noqa: E402
from kv_report import Turns, best_way, figures, markdown, ratio  # noqa: E402


def test_a_ratio_compares_turns_of_one_round() -> None:
    ours, theirs = Turns([[1.0], [10.0], [100.0]]), Turns([[2.0], [30.0], [200.0]])
    assert ratio(theirs, ours) == 2.0  # 2, 3, 2: the machine's changes of speed cancel out


def test_a_system_is_judged_by_its_best_way() -> None:
    assert best_way({"a": Turns([[3.0, 3.0]]), "b": Turns([[2.0, 9.0, 2.0]])}) == "b"


def test_cpu_seconds_are_by_the_bytes_of_all_workers() -> None:
    t = Turns([[4.0, 4.0, 8.0]], cpu_s=6.0, cycles=4, other_s=1.0, wall_s=4.0)
    row = figures([(125_000_000,)], t)  # half a GB
    assert row["cpu_s_per_GB"] == 3.0 and row["other_cpu"] == 0.25
    assert figures([(1,)], Turns([[1.0]], other_s=0.1, wall_s=0.001))["other_cpu"] is None  # too short to tell
    assert row["ms"] == {"median": 4.0, "min": 4.0, "p99": 8.0, "max": 8.0, "n": 3}


def test_slow_systems_get_fewer_cycles() -> None:
    assert bench.allowed(Turns(), 100) == 1
    assert bench.allowed(Turns([[1.0]]), 100) == 100
    assert bench.allowed(Turns([[bench.TURN_S * 250.0]]), 100) == 4
    assert bench.allowed(Turns([[9000.0]]), 100) == 1


def test_a_system_that_failed_has_a_row_with_the_reason() -> None:
    failed = {"case": "one1kb", "topology": "1x1", "sgd": True, "systems": [{"system": "a", "error": "no wheel"}]}
    assert "| 1x1 SGD | a | not measured: no wheel |" in markdown([failed])


def test_big_tensors_are_cut_and_small_ones_go_round() -> None:
    import control

    assert control.split([[2_000_000], [3], [4]], 2) == [
        (0, 0, 0, 1_000_000),
        (0, 1, 1_000_000, 2_000_000),
        (1, 1, 0, 3),
        (2, 0, 0, 4),
    ]


def test_a_peer_that_needs_an_older_python_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers.sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    with pytest.raises(peers.Unavailable, match=r"Python 3\.11 or older"):
        peers.prepare("mxnet", tmp_path, {})


def test_an_environment_that_is_given_is_used(tmp_path: Path) -> None:
    assert peers.prepare("ray", tmp_path, {"ray": "/somewhere/python"}) == ("/somewhere/python", {})


def test_a_failing_step_is_the_reason() -> None:
    with pytest.raises(peers.Unavailable, match="no such thing"):
        peers.run([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_all_systems_of_a_configuration_are_in_a_group_with_ours(tmp_path: Path) -> None:
    ready = {name: ("python", {}) for name in peers.PEERS}
    names = [[s.name for s in g] for g in bench.groups(list(peers.PEERS), ready, "2x2", tmp_path)]
    assert names == [
        ["shoal_tcp", "shoal_shm", "echo", "memcpy", "mxnet", "torch_rpc", "torch_rpc_tcp", "gloo", "pslite"],
        ["shoal_tcp", "shoal_shm", "ray"],
    ]
    assert "gloo" not in [s.name for g in bench.groups(list(peers.PEERS), ready, "1x1", tmp_path) for s in g]


def test_ours_has_one_row_a_way_whatever_group_it_was_in() -> None:
    rows = [
        {"system": "shoal_tcp", "way": "copies", "times_as_long_as": {"echo": 1.0}},
        {"system": "echo", "way": "echo"},
    ]
    further = [
        {"system": "shoal_tcp", "way": "copies", "times_as_long_as": {"ray": 4.0}},
        {"system": "ray", "way": "a"},
    ]
    bench.merge(rows, further)
    assert [r["system"] for r in rows] == ["shoal_tcp", "echo", "ray"]
    assert rows[0]["times_as_long_as"] == {"echo": 1.0, "ray": 4.0}


def test_the_break_even_of_a_codec_is_where_the_times_cross() -> None:
    assert links.pays({"none": 10.0, "fp16": 6.0, "topk:ratio=0.01": 11.0}) == ["fp16"]


@pytest.mark.net
@pytest.mark.slow
def test_a_small_run_measures_ours_and_the_limits() -> None:
    command = [sys.executable, str(FOLDER / "bench_kvstore.py"), "--cases", "one1kb", "--topologies", "1x1"]
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    got = subprocess.run(
        [*command, "--sgd", "yes", "--rounds", "2", "--cycles", "2"], env=env, capture_output=True, text=True
    )
    assert got.returncode == 0, got.stderr
    rows = {(s["system"], s["way"]): s for s in json.loads(got.stdout)["systems"]}
    ours = [(name, way) for name in ("shoal_tcp", "shoal_shm") for way in ("copies", "in_place")]
    assert list(rows) == [*ours, ("echo", "echo"), ("memcpy", "memcpy")]
    assert all(r["ms"]["median"] > 0 for r in rows.values())
    assert set(rows["shoal_tcp", "copies"]["times_as_long_as"]) == {"echo", "memcpy"}


NO_LINKS = links.why_not()


@pytest.mark.netns
@pytest.mark.slow
@pytest.mark.skipif(bool(NO_LINKS), reason=NO_LINKS)
def test_codecs_are_measured_over_a_slow_link() -> None:
    command = [sys.executable, str(FOLDER / "bench_links.py"), "--rates", "0.2", "--codecs", "fp16"]
    env = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    got = subprocess.run([*command, "--megabytes", "3", "--rounds", "1"], env=env, capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    times = {codec: t["push_ms"] for codec, t in json.loads(got.stdout)["codecs"].items()}
    least = 1000 * 2 * 2**20 / 25e6  # two of the tensors, which the link cannot carry faster
    assert times["none"] > least and times["fp16"] > least / 2
