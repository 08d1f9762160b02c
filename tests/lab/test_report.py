"""The final report: what is added up, and how it is shown and saved."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import NodeStatus, Snapshot
from shoal.lab import report as report_module
from shoal.lab.report import final_report, render, save

KEYS = {
    "mode", "algo", "workers", "servers", "accuracy", "seconds", "target", "seconds_to_target", "samples_per_s",
    "staleness_mean", "staleness_p95", "staleness", "staleness_by_key", "skew",
    "bytes_pushed", "bytes_saved", "bytes_pulled", "changes",
    "compression", "ledger", "restored", "cost",
    "scheduler_restarts", "chaos",
    "weights_sha256", "replicas_equal", "metrics", "per_worker", "seed", "malformed", "shoal",
}  # fmt: skip


def node(role: str, rank: int, report: Any) -> NodeStatus:
    return NodeStatus(
        role=role, rank=rank, incarnation=1, host="h", pid=1, state="done", silent_s=0.0, status=None, report=report
    )


def worker(rank: int, **changes: Any) -> NodeStatus:
    report = {
        "samples": 100 * (rank + 1),
        "seconds": 2.0 + rank,
        "seconds_to_target": 1.5,
        "target": "accuracy=0.97",
        "metrics": {"accuracy": 0.98 - rank / 10, "loss": 0.1},
        "ledger": {"sent": 10, "acknowledged": 10, "retries": rank},
        "bytes_pushed": 1000,
        "bytes_pulled": 2000,
        "weights_sha256": "abc" if rank == 0 else None,
    }
    return node("worker", rank, report | changes)


def server(rank: int, applied: int = 5, staleness: dict[str, int] | None = None) -> NodeStatus:
    books = {str(w): {"applied": applied, "rejected": 0, "duplicate": w} for w in range(2)}
    taus = {"0": staleness or {"0": applied}, "1": {"0": applied}}
    report = {"ledger": books, "staleness": taus, "updates": 5, "bytes_in": 1, "bytes_out": 1, "malformed": rank}
    return node("server", rank, report)


def snapshot(*nodes: NodeStatus) -> Snapshot:
    return Snapshot(phase="finished", cluster="c", mode="bsp", reason="", culprit="", missing=(), nodes=nodes)


def made(*nodes: NodeStatus) -> dict[str, Any]:
    return final_report(snapshot(*(nodes or (server(0), server(1), worker(0), worker(1)))), seed=3)


def test_the_keys_are_the_documented_ones() -> None:
    assert set(made()) == KEYS
    for key in KEYS:
        assert key in (report_module.__doc__ or "")


def test_it_is_plain_data() -> None:
    assert json.loads(json.dumps(made())) == made()


def test_results_are_worker_0s_and_the_time_is_the_slowest() -> None:
    r = made()
    assert (r["accuracy"], r["seconds_to_target"], r["target"]) == (0.98, 1.5, "accuracy=0.97")
    assert (r["seconds"], r["weights_sha256"], r["seed"]) == (3.0, "abc", 3)
    assert (r["workers"], r["servers"], r["mode"]) == (2, 2, "sync")


def test_throughput_is_everybodys_samples_over_the_slowest_time() -> None:
    assert made()["samples_per_s"] == 300 / 3.0
    assert [row["samples_per_s"] for row in made()["per_worker"]] == [50.0, 200 / 3]


def test_traffic_is_added_up() -> None:
    assert (made()["bytes_pushed"], made()["bytes_pulled"], made()["malformed"]) == (2000, 4000, 1)


COST = {"codec": "int8", "encode_s": 2.0, "decode_s": 0.5, "bytes_saved": 10**9, "time_saved_s": 1.0, "pays": False}


def compressed(**changes: Any) -> dict[str, Any]:
    servers = [node("server", 0, {"decode_s": 0.25, "encode_s": 0.25})]
    workers = [worker(rank, compression=[COST | changes]) for rank in range(2)]
    return made(*servers, *workers)


def test_compression_is_weighed_with_what_the_servers_spent() -> None:
    assert made()["compression"] is None
    want = {"codec": "int8", "encode_s": 4.25, "decode_s": 1.25, "bytes_saved": 2 * 10**9, "time_saved_s": 2.0}
    assert compressed()["compression"] == want | {"pays": False}
    assert compressed(time_saved_s=5.0)["compression"]["pays"] is True
    assert compressed(pays=None)["compression"]["pays"] is None


def test_a_codec_that_does_not_pay_is_called_out() -> None:
    assert "2000.0 MB less (2.00 s of sending) for 5.50 s of work: IT DOES NOT PAY" in shown(compressed())
    assert "of work: it pays" in shown(compressed(time_saved_s=50.0))
    assert "pay" not in shown(compressed(pays=None)) and "compression" not in shown(made())


def test_a_ledger_balances_when_every_push_is_accounted_for() -> None:
    assert made()["ledger"] == {
        "sent": 20,
        "acknowledged": 20,
        "applied": 20,
        "rejected": 0,
        "dropped": 0,
        "skipped": 0,
        "duplicate": 2,
        "lost": 0,
        "balanced": True,
    }


def test_a_lost_push_shows() -> None:
    r = made(server(0), server(1, applied=4), worker(0), worker(1))
    assert not r["ledger"]["balanced"]
    assert [row["balanced"] for row in r["per_worker"]] == [False, False]


def test_errors_of_two_workers_do_not_cancel() -> None:
    low = {"sent": 11, "acknowledged": 10, "retries": 0}
    high = {"sent": 9, "acknowledged": 10, "retries": 0}
    assert not made(server(0), server(1), worker(0, ledger=low), worker(1, ledger=high))["ledger"]["balanced"]


def test_a_rejected_push_is_accounted_for() -> None:
    books = {"0": {"applied": 9, "rejected": 1, "duplicate": 0}}
    r = made(node("server", 0, {"ledger": books, "staleness": {}}), worker(0))
    assert r["ledger"]["balanced"] and r["ledger"]["rejected"] == 1


def test_staleness_is_over_all_contributions() -> None:
    r = made(server(0, staleness={"0": 90, "2": 4, "5": 1}), worker(0))
    assert r["staleness_mean"] == pytest.approx((4 * 2 + 5) / 95)
    assert (r["staleness_p95"], r["per_worker"][0]["staleness_mean"]) == (2, pytest.approx(13 / 95))


@pytest.mark.parametrize(
    ("counts", "p95"),
    [({"0": 95, "7": 5}, 0), ({"0": 94, "7": 6}, 7), ({"3": 1}, 3), ({"0": 18, "10": 1, "2": 1}, 2)],
)
def test_the_percentile_is_the_smallest_value_that_95_percent_do_not_exceed(counts: dict[str, int], p95: int) -> None:
    assert made(server(0, staleness=counts), worker(0))["staleness_p95"] == p95


def test_a_run_that_never_pushed_has_no_staleness() -> None:
    r = made(node("server", 0, {}), node("worker", 0, {}))
    assert r["staleness_mean"] is None and r["staleness_p95"] is None
    assert r["accuracy"] is None and r["samples_per_s"] == 0.0 and r["ledger"]["balanced"]


@pytest.mark.parametrize("report", [None, "text", 3, {"ledger": 3, "metrics": None, "samples": "many"}])
def test_a_report_of_another_form_breaks_nothing(report: Any) -> None:
    assert set(made(node("server", 0, report), node("worker", 0, report))) == KEYS


def shown(r: dict[str, Any]) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115  # closed with the console
    with console.file:
        console.print(render(r))
    return console.export_text()


def test_people_see_the_result_the_ledger_and_every_worker() -> None:
    text = shown(made())
    for part in ("sync, 2 workers, 2 servers, seed 3", "0.98", "time to accuracy=0.97", "1.50 s", "100 samples/s"):
        assert part in text
    assert "balanced: 20 sent, 20 acknowledged, 20 applied, 0 rejected, 0 dropped, 2 duplicate" in text


def test_people_see_that_a_target_was_not_reached_and_that_a_ledger_is_wrong() -> None:
    text = shown(made(server(0), worker(0, seconds_to_target=None)))
    assert "not reached" in text and "DOES NOT BALANCE" in text


def test_a_report_is_saved_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    save(made(), path)
    save(made(), path)
    assert json.loads(path.read_text()) == made()
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written to"):
        save(made(), tmp_path / "nowhere" / "out.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="cannot be written to"):
        save(made(), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
