"""What a soak concludes from reports and event logs."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.lab.chaos.cast import Cast
from shoal.lab.chaos.schedule import timetable
from shoal.lab.soak import Options, chaos_of
from shoal.lab.soak_report import judge, read_events, recoveries, summaries, tables


def step(time: float, rank: int) -> dict[str, Any]:
    return {"event": "step", "role": "worker", "rank": rank, "time": time}


def fault(time: float, what: str, who: str, number: int = 1, **more: Any) -> dict[str, Any]:
    return {"event": "chaos", "role": "launcher", "time": time, "what": what, "who": who, "number": number, **more}


def test_everybody_is_served_when_all_have_made_a_step_that_began_after_the_fault() -> None:
    events = [fault(1.0, "kill", "server 0"), *(step(t, 0) for t in (0.9, 1.1, 2.0)), step(1.2, 1), step(2.5, 1)]
    assert recoveries(events, 2) == [{"what": "kill", "who": "server 0", "role": "server", "seconds": 1.5}]
    assert recoveries(events, 3)[0]["seconds"] is None  # worker 2 never came to it


def test_what_lasts_is_recovered_from_after_its_end() -> None:
    over = {"event": "chaos is over", "time": 3.0, "number": 1}
    events = [fault(1.0, "stop", "worker 0"), over, step(3.25, 0), step(3.5, 0)]
    assert recoveries(events, 1)[0]["seconds"] == 0.5


def test_who_has_missed_the_scheduler_has_it_back_before_the_next_fault() -> None:
    backs = [{"event": "scheduler is back", "time": t} for t in (2.0, 5.5)]
    steps = [step(t, 0) for t in (1.1, 1.2, 5.1, 5.2)]
    found = recoveries([fault(1.0, "kill", "scheduler"), fault(5.0, "kill", "server 0", 2), *backs, *steps], 1)
    assert [r["seconds"] for r in found] == [1.0, 0.5]


def test_faults_that_were_skipped_are_none() -> None:
    assert recoveries([fault(1.0, "kill", "worker 0", skipped="it is not there")], 1) == []


def test_recovery_is_told_by_role_and_kind() -> None:
    rows = [{"role": "server", "what": "kill", "seconds": s} for s in (3.0, 1.0, 2.0, None)]
    assert summaries(rows) == [{"role": "server", "what": "kill", "count": 3, "median": 2.0, "p95": 3.0, "max": 3.0}]


def test_a_line_that_a_kill_has_torn_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"time": 2}\n{"ti')
    (tmp_path / "b.jsonl").write_text('{"time": 1}\n')
    assert [e["time"] for e in read_events(tmp_path)] == [1, 2]


def ran(**changes: Any) -> dict[str, Any]:
    book = {"sent": 10, "applied": 10, "rejected": 0, "dropped": 0, "lost": 0}
    report = {"accuracy": 0.95, "seconds": 1.0, "weights_sha256": "a", "restored": [], "chaos": []}
    report |= {"ledger": {**book, "balanced": True}, "per_worker": [book]}
    return {"code": 0, "end": [], "report": {**report, **changes}}


def broken(disturbed: dict[str, Any], mode: str = "sync", replicas: int = 0) -> list[str]:
    return list(judge([ran(), ran(accuracy=0.97)], disturbed, mode, replicas)["broken"])


def test_a_run_that_is_as_the_undisturbed_ones_holds() -> None:
    assert broken(ran()) == [] and broken(ran(accuracy=0.931)) == []


@pytest.mark.parametrize(
    ("disturbed", "said"),
    [
        (ran(accuracy=0.92), "its accuracy is not within the spread"),
        (ran(accuracy=None), "its accuracy is not within the spread"),
        (ran(ledger={"lost": 0, "balanced": False}), "its ledger does not balance"),
        (ran(ledger={"lost": 3, "balanced": True}), "not all that was lost was said"),
        (ran(weights_sha256="b"), "its weights are other bits"),
        ({"code": 1, "end": ["x"], "report": {}}, "the disturbed run failed"),
    ],
)
def test_what_does_not_hold_is_said(disturbed: dict[str, Any], said: str) -> None:
    assert said in broken(disturbed)


def test_what_was_counted_twice_is_found_in_the_books() -> None:
    row = {"sent": 10, "applied": 11, "rejected": 0, "dropped": 0, "lost": 0}
    assert "something was counted twice" in broken(ran(per_worker=[row]))


def test_loss_that_was_said_is_no_fault_without_replicas_and_one_with_them() -> None:
    lost = ran(
        ledger={"lost": 3, "balanced": True}, restored=["lost are 3 clocks, 3 in the ledger"], weights_sha256="b"
    )
    assert broken(lost) == [] and broken(lost, replicas=1) == ["something was lost"]


def test_other_bits_are_no_fault_of_an_asynchronous_run_nor_where_a_worker_was_killed() -> None:
    killed = [{"what": "kill", "who": "worker 1"}]
    assert broken(ran(weights_sha256="b"), mode="async") == [] == broken(ran(weights_sha256="b", chaos=killed))


def test_nobody_is_killed_more_often_than_the_launcher_mends() -> None:
    for seed in range(5):
        o = Options(seconds=600, seed=seed, tasks=("digits",), kill=("scheduler", "server", "worker"))
        kills = [f for f in timetable(chaos_of(o, 0), Cast(3, 2), 600) if f.what == "kill"]
        assert len(kills) > 20
        for a in kills:
            assert sum(b.victims == a.victims and 0 <= b.at_s - a.at_s <= 60 for b in kills) <= 3


def test_all_roles_are_met_by_all_that_can_happen_to_them() -> None:
    o = Options(seconds=600, kill=("scheduler", "server", "worker"))
    found = {(f.what, f.named.split()[0]) for f in timetable(chaos_of(o, 0), Cast(3, 2), 600)}
    assert found == {(w, r) for w in ("kill", "stop", "partition") for r in ("scheduler", "server", "worker")}
    mild = {(f.what, f.named.split()[0]) for f in timetable(chaos_of(Options(kill=("server",)), 0), Cast(3, 2), 600)}
    assert ("kill", "server") in mild and {w for w, r in mild if r == "worker"} == {"stop", "partition"}


def test_the_result_is_shown_and_is_json() -> None:
    result = judge([ran()], ran(), "sync", 0) | {"recoveries": []}
    found = {"held": True, "tasks": {"digits": result}, "recovery_s": summaries([])}
    assert json.loads(json.dumps(found)) and tables(found) is not None


def test_more_kills_than_the_launcher_mends_are_refused() -> None:
    with pytest.raises(ConfigError, match="more than 3 times a minute"):
        chaos_of(Options(every_s=0.5, seconds=120, kill=("scheduler", "server", "worker")), 0)


def test_the_scheduler_alone_is_killed_less_often() -> None:
    plan = chaos_of(Options(every_s=2, seconds=120, kill=("scheduler",)), 0)
    kills = [f.at_s for f in timetable(plan, Cast(3, 2), 120) if f.what == "kill"]
    assert len(kills) >= 4 and min(b - a for a, b in pairwise(kills)) > 23
