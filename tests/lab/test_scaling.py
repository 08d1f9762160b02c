"""How a run scales: the formula, predictions beside measurements, the simplification, the command and its picture."""

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from shoal.errors import ConfigError
from shoal.lab.scaling import (
    LINKS_ALONE,
    MEASURED,
    Costs,
    Setting,
    error_of,
    fit,
    link_bytes,
    predict,
    read_rows,
    rehearse,
    setting_of,
    share_of,
)
from shoal.lab.scaling_chart import chart
from shoal.lab.scaling_command import mean_of, servers_for
from shoal.lab.simulate_laws import LogNormal

ROWS = read_rows(Path(__file__).parents[2] / "benchmarks" / "data" / "efficiency.json")
STEADY = [
    r for r in ROWS if r["spread"] < 0.3 and r["cpu_share"] * r["step_s"] / (r["step_s"] - r["compute_s"]) < 0.95
]  # turns were alike, and there were cores for all
FREE = replace(LINKS_ALONE, delay_s=0.0)


def setting(workers: int, servers: int, mode: str = "sync", **more: float) -> Setting:
    about = {"gbit_s": 1.0, "model_bytes": 8 << 20, "compute_s": 0.2, **more}
    return Setting(workers=workers, servers=servers, mode=mode, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize(("workers", "servers"), [(1, 1), (4, 1), (4, 2), (8, 4)])
def test_a_synchronous_step_is_computing_and_the_bytes_of_the_busiest_link(workers: int, servers: int) -> None:
    """Slices overlap their answers with the next ones' pushes, so it is at most both ways, and at least one."""
    s = setting(workers, servers)
    one_way = max(link_bytes(workers, servers, s.model_bytes)) * 8 / 1e9
    step_s = predict(s, FREE)
    assert 0.99 * s.compute_s + one_way <= step_s <= 1.01 * s.compute_s + 2 * one_way


def test_without_links_and_costs_a_step_is_computing() -> None:
    assert predict(setting(8, 2, gbit_s=0.0), FREE) == pytest.approx(0.2, rel=0.02)


def test_more_servers_and_faster_links_are_not_slower() -> None:
    steps = [predict(setting(8, s), MEASURED) for s in (1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True)
    assert predict(setting(8, 2, gbit_s=10.0), MEASURED) < predict(setting(8, 2), MEASURED)


def test_a_server_with_no_slice_carries_nothing() -> None:
    assert share_of(8, 4) == (1, 4)
    assert predict(setting(16, 8), FREE, whole=False) == pytest.approx(
        predict(setting(16, 64), FREE, whole=False), rel=0.01
    )


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("workers", "servers"), [(8, 4), (16, 4), (32, 8)])
def test_one_servers_share_of_a_run_is_as_fast_as_the_whole(workers: int, servers: int, mode: str) -> None:
    s = setting(workers, servers, mode, gbit_s=10.0, model_bytes=32 << 20)
    many = mode == "async" and workers == 32  # they begin together, and take some steps to be spread
    whole, share = (predict(s, MEASURED, whole=w, rounds=16 if many else 8) for w in (True, False))
    assert share == pytest.approx(whole, rel=0.1 if many else 0.05)


# --- beside real processes --------------------------------------------------------------------------------------------


def test_what_was_fitted_is_predicted_within_ten_percent() -> None:
    fitted = [r for r in STEADY if r["fitted"]][::5]
    assert len(fitted) > 15 and max(abs(error_of(r, MEASURED)) for r in fitted) < 0.1


def test_four_workers_and_other_models_which_were_not_fitted_are_predicted_too() -> None:
    held = [r for r in STEADY if not r["fitted"] and r["tensors"] < 96][::4]
    errors = [abs(error_of(r, MEASURED)) for r in held]
    assert len(held) > 10 and {r["workers"] for r in held} >= {2, 4}
    assert statistics.median(errors) < 0.05
    assert max(errors) < 0.1


def test_a_model_24_times_as_large_is_predicted_within_ten_percent() -> None:
    large = [r for r in STEADY if r["tensors"] == 96 and r["workers"] == 1 and r["mode"] == "sync"]
    assert len(large) == 4
    assert max(abs(error_of(r, MEASURED)) for r in large) < 0.1


def test_costs_are_found_again_from_what_they_make() -> None:
    true = Costs(duplex=0.5, delay_s=2 * Costs().delay_s)
    places = [(1, 1, 0.1), (2, 1, 0.1), (1, 1, 1.0), (1, 1, 0.0)]
    rows = []
    for workers, servers, rate in places:
        s = setting(workers, servers, gbit_s=rate, model_bytes=2 << 20)
        about = {"workers": workers, "servers": servers, "mode": "sync", "gbit_s": rate, "steps": 2}
        about |= {"model_bytes": s.model_bytes, "compute_s": s.compute_s}
        rows.append({**about, "step_s": rehearse(setting_of(about), true, 2)})
    found = fit(rows, Costs(), turns=3)
    before = max(abs(error_of(r, Costs())) for r in rows)
    assert max(abs(error_of(r, found)) for r in rows) < 0.3 * before
    assert found.delay_s == pytest.approx(true.delay_s, rel=0.3)


# --- the command and the picture --------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """On a wider terminal."""
    monkeypatch.setenv("COLUMNS", "160")
    return run


def test_a_row_for_each_number_of_workers(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "scaling.svg"
    args = ["--link", "10gbit", "-n", "2..12", "-s", "/4", "--model-size", "8MB", "--compute", "const:0.1"]
    code, out, err = run(*args, "--gate", "sync", "--gate", "async", "--json", "--svg", str(picture))
    assert (code, err) == (0, "")
    rows = json.loads(out)["rows"]
    assert [(r["workers"], r["servers"]) for r in rows] == [(2, 1), (4, 1), (8, 2), (12, 3)]
    assert all(0.3 < r["bsp"]["efficiency"] <= r["asp"]["efficiency"] + 0.02 < 1.02 for r in rows)
    assert picture.read_text().startswith("<svg")
    code, out, _ = run(*args)
    assert code == 0 and "10 Gbit/s" in out and "efficiency" in out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--link", "fast", "--model-size", "8MB"], "expected a rate such as 25gbit or 100mbit, got 'fast'"),
        (["--link", "1gbit"], "--model-size must say how many there are"),
        (["--link", "1gbit", "--model-size", "8MB", "--bandwidth", "1GB"], "--bandwidth is not for --link"),
        (["--link", "1gbit", "--model-size", "8MB", "--delay", "1"], "--delay is not for --link"),
        (["-n", "8..4", "--link", "1gbit"], "expected numbers in order, such as 8..1024, got '8..4'"),
        (["-n", "2..4"], "are for --link RATE"),
        (["-s", "/4"], "are for --link RATE"),
    ],
)
def test_what_makes_no_sense_is_one_line(run: Run, args: list[str], line: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "") and line in err and err.count("\n") == 1


def test_a_run_without_anybody_is_refused() -> None:
    with pytest.raises(ConfigError, match="a run has workers and servers, got 0 and 1"):
        predict(setting(0, 1), FREE)


def test_helpers_of_the_command() -> None:
    assert servers_for("/4", 9) == 3 and servers_for(2, 9) == 2
    assert mean_of(LogNormal(0.5, 0.1)) == pytest.approx(0.5, rel=0.01)


def test_the_picture_is_well_formed_and_its_points_lie_in_their_panels() -> None:
    lines = {"sync": [(8, 0.9), (64, 0.5)], "a & b": [(8, 1.2), (64, 0.0)]}
    text = chart([("one <model>", lines), ("two", lines), ("three", lines), ("four", lines)])
    root = ElementTree.fromstring(text)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    space = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{space}g")
    assert len(panels) == 4
    for panel in panels:
        x, y = (float(v) for v in panel.attrib["transform"][len("translate(") : -1].split(","))
        assert x + 300 <= width and y + 190 <= height
        points = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in panel.iter(f"{space}circle")]
        assert len(points) == 4 and all(0 <= a <= 300 and 0 <= b <= 190 for a, b in points)
