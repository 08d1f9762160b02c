"""The ``shoal simulate`` command: its table, its JSON, and one clear line about what makes no sense."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]


def test_three_gates_are_compared_if_none_is_named(run: Run) -> None:
    code, out, err = run("--rounds", "20")
    assert (code, err) == (0, "") and "8 workers, 1 server, compute exp:1, instant messages, 20 rounds, seed 0" in out
    for part in ("bsp", "ssp:3", "asp", "seconds a round", "contributions/s", "waiting", "staleness, p95"):
        assert part in out
    assert "dropped" not in out and "loss" not in out


def test_gates_are_columns_in_the_order_given(run: Run) -> None:
    _, out, _ = run("--gate", "async", "--gate", "sync", "--gate", "async", "--rounds", "5", "--compute", "const:2")
    head = next(line for line in out.splitlines() if "asp" in line)
    assert head.split("┃")[2].strip() == "asp" and head.split("┃")[3].strip() == "bsp" and head.count("asp") == 1
    row = next(line for line in out.splitlines() if "seconds a round" in line)
    assert row.split("│")[2].split() == ["2"] and row.split("│")[3].split() == ["2"]


def test_json_has_the_scenario_and_one_object_a_gate(run: Run) -> None:
    args = ["--gate", "bsp", "--gate", "asp", "-n", "2", "--compute", "each:1,3", "--rounds", "4", "--json"]
    code, out, _ = run(*args)
    data = json.loads(out)
    assert code == 0 and data["scenario"]["workers"] == 2 and data["scenario"]["compute"] == "each:1,3"
    sync, free = data["runs"]
    assert (sync["gate"], sync["updates"], sync["seconds_per_update"]) == ("bsp", 4, 3.0)
    assert sync["per_worker"][0] == {"clock": 4, "waiting_s": 8.0, "closed": 0}
    assert sync["staleness"] == {"0": 8} and sync["waiting_share"] == pytest.approx(1 / 3)
    assert free["contributions"] == 8 and free["contributions_per_s"] == pytest.approx(8 / 6)


def test_what_each_of_many_workers_did_is_left_out(run: Run) -> None:
    _, out, _ = run("--gate", "asp", "-n", "21", "--rounds", "1", "--json")
    assert "per_worker" not in json.loads(out)["runs"][0]


def test_with_a_learning_rate_something_is_learned(run: Run) -> None:
    args = ["--gate", "bsp", "--gate", "asp", "--lr", "0.5", "--rounds", "30", "--compute", "const:1", "--json"]
    sync, free = json.loads(run(*args)[1])["runs"]
    assert sync["loss"] == pytest.approx(0.5**61) and free["loss"] > 1e9  # 0.5 > 0.209, the bound of delay 7
    _, out, _ = run("--lr", "0.1", "--noise", "0.5", "--rounds", "5")
    assert "loss at the end" in out


def test_the_time_to_a_loss_is_when_the_version_with_it_was_made(run: Run) -> None:
    args = ["--gate", "bsp", "--lr", "0.5", "--rounds", "9", "--compute", "const:2", "--target-loss"]
    times = [json.loads(run(*args, x, "--json")[1])["runs"][0]["seconds_to_target"] for x in ("0.5", "0.125", "0.03")]
    assert times == [0.0, 2.0, 6.0]  # losses 0.5, 0.125, 0.03125, 0.0078
    assert "never" in run(*args, "1e-9")[1]


def test_a_rule_corrects_what_is_stale_and_what_is_late_is_dropped(run: Run) -> None:
    args = ["--gate", "asp", "--gate", "backup:2", "--lr", "0.3", "--rounds", "60"]
    plain, stale = (json.loads(run(*args, "--json", *more)[1])["runs"] for more in ([], ["--rule", "stale"]))
    assert stale[0]["loss"] < plain[0]["loss"] / 100 and stale[1]["loss"] == plain[1]["loss"]
    assert plain[0]["dropped_share"] == 0.0 < plain[1]["dropped_share"]
    out = run(*args)[1]
    assert "dropped" in out and "given up" not in out and "given up" in run(*args, "--restart")[1]


def test_messages_and_stragglers_cost_what_they_cost(run: Run) -> None:
    args = ["--gate", "bsp", "-n", "2", "-s", "2", "--compute", "const:1", "--rounds", "10", "--json"]
    costs = ["--slow", "1:3", "--delay", "0.5", "--bandwidth", "1GB", "--model-size", "100MB", "--handling-s", "0.01"]
    plain, costly = (json.loads(run(*args, *more)[1])["runs"][0] for more in ([], costs))
    assert plain["seconds_per_update"] == 1.0 and 4.2 < costly["seconds_per_update"] < 5.0  # 3 + 2 * (0.5 + ~0.1)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--gate", "lazy"], "argument --gate: unknown mode 'lazy'; known: sync (bsp)"),
        (["--compute", "expo:1"], "argument --compute: unknown compute law 'expo'"),
        (["--compute", "each:1,2", "-n", "3"], "each has the times of 2 workers, but there are 3"),
        (["--slow", "3"], "a slow worker is RANK:FACTOR, such as 3:4 (worker 3 takes 4 times as long); got '3'"),
        (["--slow", "3:-1"], "got '3:-1'"),
        (["--slow", "9:2"], "worker 9 cannot be slowed: the workers are 0 to 7"),
        (["--rounds", "0"], "expected a whole number, at least 1, got '0'"),
        (["--delay", "soon"], "argument --delay: unknown compute law 'soon'"),
        (["--delay", "-1"], "a network's delay is a number of seconds >= 0, got -1.0"),
        (["--handling-s", "-1"], "a network's handling_s is a number of seconds >= 0, got -1.0"),
        (["--bandwidth", "1GB"], "--model-size must say how many there are"),
        (["--model-size", "big"], "expected a size such as 1KB, 4MiB or 100MB, got 'big'"),
        (["--lr", "0"], "expected a positive number, got '0'"),
        (["--noise", "1"], "--noise is about gradients, and there are none without --lr"),
        (["--rule", "stale"], "--rule is about gradients, and there are none without --lr"),
        (["--target-loss", "1"], "--target-loss is about gradients, and there are none without --lr"),
        (["--rule", "stael"], "argument --rule: no rule is called 'stael'; known: dcasgd, stale"),
        (["--round", "3"], "unknown option '--round'; did you mean '--rounds'?"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(run: Run, args: list[str], line: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "") and line in err and err.count("\n") == 1


PAGE = (Path(__file__).parents[2] / "docs" / "simulate.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run(run: Run) -> None:
    found = re.findall(r"^shoal simulate (.*)$", PAGE, re.MULTILINE)
    for line in found:
        code, out, err = run(*line.split(), "--rounds", "3")
        assert (code, err) == (0, "") and "seconds a round" in out
    assert found


def test_the_python_of_the_page_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102  # the page's own text
    assert blocks and names["run"].updates == 600
