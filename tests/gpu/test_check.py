"""gpu-check: steps have budgets, results are on disk after each, and without a GPU it ends well."""

import ast
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.ops import gpucheck
from shoal.ops.gpu import check, checks, contract
from shoal.ops.gpu.check import Check, Result, Skipped, Step, chosen, read, run, step, steps, table
from shoal.ops.gpu.fake import fake_gpus, names
from shoal.ops.gpu.fake.module import known


def quiet(text: str) -> None:
    """Say nothing."""


def one(name: str, work: Any, budget_s: float = 10.0, host: bool = False) -> Step:
    return Step(name, work, 0, budget_s, host)


def stored(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(check._steps)
    yield
    check._steps.clear()
    check._steps.update(before)


def test_cases_pass_fail_and_are_skipped(tmp_path: Path) -> None:
    def work(c: Check) -> None:
        """Three cases."""
        with c.case("right"):
            pass
        with c.case("wrong"):
            raise ValueError("5 is not 4")
        with c.case("not here"):
            raise Skipped("no such library")
        c.number("speed", 2.5, "GB/s")
        c.note("driver", "13.0")

    found = run([one("a", work)], tmp_path, 60.0, 1, quiet)["a"]
    assert (found.passed, found.failed, found.skipped) == (1, 1, 1) and found.failures[
        "wrong"
    ] == "ValueError: 5 is not 4"
    saved = stored(tmp_path)["steps"]["a"]
    assert saved["numbers"] == {"speed": {"value": 2.5, "unit": "GB/s"}} and saved["notes"] == {"driver": "13.0"}
    assert saved["skip_reasons"] == {"no such library": 1}


def test_results_are_on_disk_after_each_step(tmp_path: Path) -> None:
    seen = []

    def look(c: Check) -> None:
        """What is there already."""
        seen.append(sorted(stored(tmp_path)["steps"]))

    run([one("a", lambda c: None), one("b", look)], tmp_path, 60.0, 1, quiet)
    assert seen == [["a"]] and sorted(stored(tmp_path)["steps"]) == ["a", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_step_that_raises_outside_of_a_case_has_failed_and_the_next_one_runs(tmp_path: Path) -> None:
    def broken(c: Check) -> None:
        raise OSError("the driver is gone")

    found = run([one("a", broken), one("b", lambda c: c.count(2))], tmp_path, 60.0, 1, quiet)
    assert found["a"].failures == {"a": "OSError: the driver is gone"} and found["b"].passed == 2


def test_a_step_ends_when_its_time_is_up_and_keeps_what_it_found(tmp_path: Path) -> None:
    def forever(c: Check) -> None:
        with c.case("first"):
            pass
        with c.case("second"):
            while True:
                time.monotonic()

    found = run([one("a", forever, 0.05), one("b", lambda c: c.count(1))], tmp_path, 60.0, 1, quiet)
    assert found["a"].late and (found["a"].passed, found["a"].failed, found["a"].skipped) == (1, 0, 1)
    assert found["b"].passed == 1 and stored(tmp_path)["steps"]["a"]["out_of_time"]


def test_steps_without_time_left_are_skipped(tmp_path: Path) -> None:
    found = run([one("a", lambda c: c.count(1))], tmp_path, 0.0, 1, quiet)
    assert found["a"].reasons == {"no time left": 1}


def test_without_a_gpu_steps_that_need_one_are_skipped(tmp_path: Path) -> None:
    wanted = [one("a", lambda c: c.count(1)), one("b", lambda c: c.count(1), host=True)]
    found = run(wanted, tmp_path, 60.0, 0, quiet)
    assert found["a"].reasons == {"no GPU": 1} and found["b"].passed == 1
    assert table(found, 0) == "no GPU: 1 passed, 0 failed, 1 skipped"


def _work(c: Check) -> None:
    """Something of everything."""
    with c.case("right"):
        pass
    with c.case("wrong"):
        raise ValueError("5 is not 4")
    c.skip("no such library")
    c.number("h2d", 2.5, "GB/s")
    c.note("driver", {"version": [13, 0]})


def test_a_stored_result_is_read_back_and_shown_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run([one("a", _work), one("b", lambda c: c.count(2))], tmp_path, 60.0, 2, quiet)
    results, gpus = read(tmp_path / "result.json")
    seconds = {n: r.seconds for n, r in results.items()}
    assert gpus == 2 and all(abs(found[n].seconds - s) < 1e-3 for n, s in seconds.items())
    for name, r in found.items():
        r.seconds = seconds[name]
    assert results == found
    assert gpucheck.main(["--replay", str(tmp_path / "result.json")]) == 1
    assert capsys.readouterr().out == table(found, 2) + "\n"


def test_a_result_without_failures_ends_well_when_it_is_shown(tmp_path: Path) -> None:
    run([one("a", lambda c: c.count(1))], tmp_path, 60.0, 0, quiet)
    assert gpucheck.main(["--replay", str(tmp_path / "result.json")]) == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("gpus"), "the file: expected gpus"),
        (lambda d: d.update(gpus="2"), "gpus is int, got str"),
        (lambda d: d["steps"]["a"].pop("notes"), "step 'a': expected failed, failures"),
        (lambda d: d["steps"]["a"].update(passed=1.5), "passed is int, got float"),
        (lambda d: d["steps"]["a"].update(failed=0), "its counts are not those of its cases"),
        (lambda d: d["steps"]["a"]["skip_reasons"].update(x=0), "a skip a count from 1 on"),
        (lambda d: d["steps"]["a"]["numbers"].update(x=3.0), "a number has a value and a unit"),
        (lambda d: d["steps"].update(a=[]), "step 'a': expected .*; got list"),
    ],
)
def test_what_is_no_result_is_refused_with_the_place(
    change: Any, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run([one("a", _work)], tmp_path, 60.0, 1, quiet)
    data = stored(tmp_path)
    change(data)
    (tmp_path / "result.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=says):
        read(tmp_path / "result.json")
    assert gpucheck.main(["--replay", str(tmp_path / "result.json")]) == 2
    assert "is no result of gpu-check" in capsys.readouterr().err


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("{")
    for name in ("a", "b"):
        with pytest.raises(ConfigError, match="is no result of gpu-check"):
            read(tmp_path / name)


def test_results_of_gpus_that_are_kept_with_the_sources_are_whole_and_have_no_failures() -> None:
    kept = sorted((Path(__file__).parents[2] / "benchmarks" / "gpu").glob("*.json"))
    if not kept:
        pytest.skip("no result of a GPU is kept in benchmarks/gpu: nothing has been run on one")
    for path in kept:
        results, gpus = read(path)
        assert gpus > 0 and not any(r.failed for r in results.values()), path.name


def test_the_table_has_a_line_for_each_step_and_each_failure() -> None:
    text = table({"a": Result(3, {"x": "ValueError: no"}, {}, {"h2d": (50.0, "GB/s")}, {}, 1.25)}, 2)
    assert "\na                3       1        0      1.2\n" in text and "a.h2d = 50 GB/s" in text
    assert "FAILED a: x: ValueError: no" in text and text.endswith("2 GPUs: 3 passed, 1 failed, 0 skipped")


def test_steps_run_in_order_and_have_names_of_their_own(registered: None) -> None:
    @step("zz", order=-1, budget_s=1.0)
    def first(c: Check) -> None:
        """First."""

    assert steps()[0].name == "zz" and [s.name for s in chosen("smoke,zz")] == ["zz", "smoke"]
    with pytest.raises(ConfigError, match="two steps of gpu-check are called 'zz'"):
        step("zz", order=1, budget_s=1.0)(lambda c: None)
    with pytest.raises(ConfigError, match="no step is called nonsense; there are zz, names"):
        chosen("nonsense")


def test_every_step_says_what_it_is() -> None:
    assert all((s.run.__doc__ or "").strip() and s.budget_s > 0 for s in steps())


def test_the_command_ends_well_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpucheck, "gpu_count", lambda: 0)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert gpucheck.main(["--only", "smoke,recordings"]) == 0
    assert "no GPU: 0 passed, 0 failed, 2 skipped" in capsys.readouterr().out
    assert stored(tmp_path / "out")["gpus"] == 0


def test_the_command_names_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpucheck.main(["--list"]) == 0
    assert "smoke: One of each" in capsys.readouterr().out
    assert gpucheck.main(["--only", "nonsense"]) == 2
    assert "no step is called nonsense" in capsys.readouterr().err


def test_smoke_and_recordings_pass_on_a_fake_gpu(tmp_path: Path) -> None:
    with fake_gpus(total_bytes=1 << 30):
        found = run(chosen("smoke,recordings"), tmp_path, 60.0, 1, quiet)
    assert (
        [r.failures for r in found.values()] == [{}, {}]
        and found["smoke"].passed == 6
        and found["recordings"].passed == 1
    )


def test_what_pytest_has_found_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "t.xml").write_text(
        '<testsuites><testsuite><testcase classname="a" name="x"/><testcase classname="a" name="y">'
        '<failure message="4 is not 5"/></testcase><testcase classname="a" name="z"><skipped message="no NCCL"/>'
        "</testcase></testsuite></testsuites>"
    )
    result = Result()
    checks.counted(Check(result, tmp_path, time.monotonic() + 60.0), tmp_path / "t.xml")
    assert (result.passed, result.failures, result.reasons) == (1, {"a.y": "4 is not 5"}, {"no NCCL": 1})


# -- the names of CuPy


def test_the_installed_cupy_has_the_names_that_tests_count_on() -> None:
    try:
        modules = contract.installed()
    except ConfigError as why:
        pytest.skip(str(why))
    assert contract.missing(modules) == []


def test_a_cupy_that_lacks_something_is_found_out() -> None:
    class Nothing:
        ndarray = type("ndarray", (), {})

    empty = dict.fromkeys(["", "linalg.", "fft.", "special."], Nothing)
    found = contract.missing({**empty, "version": "0"})
    assert {"add", "linalg.cholesky", "fft.fft", "special.erf", "ndarray.reshape"} <= set(found)

    def put_along_axis(arr: Any, indices: Any) -> None:
        """Without the rest."""

    Nothing.put_along_axis = staticmethod(put_along_axis)  # type: ignore[attr-defined]  # it is for this test
    assert "put_along_axis(values=)" in contract.missing({**empty, "version": "0"})


def test_the_list_tells_functions_from_names() -> None:
    table = known("a b() c(x,y) d(x,**kw)")
    assert table == {"a": None, "b": frozenset({"out", "dtype", "casting"}), "c": frozenset({"x", "y"}), "d": None}
    assert "sum" in known(names.CUPY) and names.VERSION.count(".") == 2


def test_what_the_gpu_asks_of_cupy_is_there() -> None:
    try:
        cupy = contract.installed()[""]
    except ConfigError as why:
        pytest.skip(str(why))
    text = Path(contract.__file__).with_name("cuda.py").read_text()
    homes = {"self._cuda": [cupy.cuda], "runtime": [cupy.cuda.runtime], "self.xp.module": [cupy], "cp": [cupy]}
    homes["raw"] = homes["self.raw"] = [cupy.cuda.Stream, cupy.cuda.Event, cupy.cuda.Graph]
    asked = [
        (ast.unparse(n.value), n.attr)
        for n in ast.walk(ast.parse(text))
        if isinstance(n, ast.Attribute) and ast.unparse(n.value) in homes
    ]
    assert len(asked) > 20
    assert [x for x in asked if x[1] != "ptr" and not any(hasattr(home, x[1]) for home in homes[x[0]])] == []
