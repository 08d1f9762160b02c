"""``shoal kv-bench``: its arithmetic, its refusals, and a small run."""

import io
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from shoal.cli import main
from shoal.errors import ConfigError
from shoal.lab.kvbench import Plan, cycles_for, plan, show, summary
from shoal.lab.kvcases import CASES, LR, error_against, expected, gradient, parse_bytes, percentile, rates, set_bytes


def test_the_sets_have_the_sizes_that_their_names_say() -> None:
    assert set_bytes(CASES["t100mb"]) == 100_000_000
    assert (len(CASES["resnet50"]), set_bytes(CASES["resnet50"])) == (161, 4 * 25_557_032)
    assert (len(CASES["k1000x1kb"]), set_bytes(CASES["k1000x1kb"])) == (1000, 1_024_000)
    assert (len(CASES["one1kb"]), set_bytes(CASES["one1kb"])) == (1, 1024)


@given(workers=st.integers(1, 5), rounds=st.integers(0, 40))
@settings(max_examples=30)
def test_the_closed_form_of_sgd_is_that_of_exact_arithmetic(workers: int, rounds: int) -> None:
    value = np.zeros(130, np.float32)
    for _ in range(rounds):
        for rank in range(workers):
            value -= np.float32(LR) * gradient((130,), rank)
    step = [-Fraction(LR) * sum(Fraction(float(gradient((130,), r)[i])) for r in range(workers)) for i in (0, 60, 129)]
    assert [Fraction(float(value[i])) for i in (0, 60, 129)] == [rounds * s for s in step]
    assert np.array_equal(value, expected((130,), workers, rounds, sgd=True))


def test_without_an_optimizer_the_value_is_the_sum_of_a_round() -> None:
    total = gradient((5, 13), 0) + gradient((5, 13), 1) + gradient((5, 13), 2)
    assert np.array_equal(total, expected((5, 13), 3, 7, sgd=False))


def test_gradients_survive_sixteen_bits() -> None:
    g = gradient((61,), 3)
    assert np.array_equal(g.astype(np.float16).astype(np.float32), g)
    assert not (g.view(np.uint32) & 0xFFFF).any()  # bfloat16 is the upper half


def test_a_value_in_the_wrong_place_is_an_error() -> None:
    wanted = expected((200,), 2, 3, sgd=True)
    assert error_against(wanted, wanted) == 0
    assert error_against(np.roll(wanted, 1), wanted) > 0.1
    assert error_against(np.zeros(4), np.zeros(4, np.float32)) == 0


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([5.0], q) for q in (0.01, 0.5, 1.0)] == [5.0] * 3
    assert percentile([float(i) for i in range(1, 101)], 0.99) == 99.0


def test_rates_are_for_one_worker_and_one_way() -> None:
    assert rates([(250,)] * 4, 2.0) == {"GBps": 0.002, "keys_per_s": 2000.0}


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "4 TB", "B", "many"])
def test_what_is_no_size_is_refused(text: str) -> None:
    if text == "1.5":
        assert parse_bytes(text) == 1  # a byte is the smallest there is
    else:
        with pytest.raises(ConfigError, match="expected a size"):
            parse_bytes(text)


def test_a_plan_travels_as_json() -> None:
    made = plan("4KB,resnet50", 3, "2bit:threshold=0.5", "none", 7)
    assert Plan.from_json(made.to_json()) == made
    assert [(n, len(s), c) for n, s, c in made.sets] == [("3 x 4KB", 3, 7), ("resnet50", 161, 7)]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("3B", 1, "", "sgd", 1), "multiple of 4"),
        (("1KB", 0, "", "sgd", 1), "at least 1 key"),
        (("1KB", 1, "", "adam", 1), "unknown optimizer 'adam'"),
        (("1KB", 1, "zip", "sgd", 1), "zip"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(arguments: tuple[str, int, str, str, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        plan(*arguments)


def test_large_sets_are_timed_less_often() -> None:
    assert cycles_for([(1,)]) == 500 and cycles_for([(10**9,)]) == 15


def workers_said(error: float | None = 0.0) -> list[dict[str, object]]:
    common = {"bytes_pushed": 50, "bytes_dense": 100, "retries": 1, "error": error, "why": ""}
    return [{"ms": [1.0, 2.0, 3.0], **common}, {"ms": [2.0, 2.0, 100.0], **common}]


def test_a_summary_is_over_all_cycles_of_all_workers() -> None:
    row = summary("a", [(500_000,)], workers_said())
    assert (row["p50_ms"], row["p99_ms"], row["max_ms"], row["cycles"]) == (2.0, 100.0, 100.0, 3)
    assert (row["GBps"], row["compression"], row["retries"], row["error"]) == (1.0, 2.0, 2, 0.0)


@pytest.mark.parametrize(
    ("error", "exact", "verdict"),
    [(0.0, True, "exact"), (0.25, True, "WRONG by 25.0%"), (0.25, False, "off by 25.0%"), (None, True, "-")],
)
def test_the_table_says_whether_the_values_are_right(error: float | None, exact: bool, verdict: str) -> None:
    out = io.StringIO()
    show([summary("a", [(5,)], workers_said(error))], exact, "title", Console(file=out, width=140))
    assert verdict in out.getvalue() and "1/2.0" in out.getvalue()


@pytest.mark.net
@pytest.mark.slow
def test_a_small_run_is_right_to_the_bit(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["-n", "2", "-s", "2", "--size", "4KB,1200000B", "--keys", "2", "--iters", "4", "--json"]
    assert main(["kv-bench", *arguments]) == 0
    report = json.loads(capfd.readouterr().out)
    assert [s["error"] for s in report["sets"]] == [0.0, 0.0]
    assert all(s["p50_ms"] > 0 and s["cycles"] == 4 for s in report["sets"])


@pytest.mark.net
@pytest.mark.slow
def test_an_all_reduce_is_measured_without_servers(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["kv-bench", "-n", "2", "--mode", "allreduce", "--size", "1KB,1MB", "--iters", "2", "--json"])
    about = json.loads(capsys.readouterr().out)
    assert (code, about["mode"], about["servers"], about["optimizer"]) == (0, "allreduce", 0, "none")
    assert [s["error"] for s in about["sets"]] == [0, 0]
