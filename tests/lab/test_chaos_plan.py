"""The chaos file is strict, and what is drawn from it depends on nothing but the seed."""

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ConfigError
from shoal.lab.chaos.cast import Cast
from shoal.lab.chaos.plan import parse_plan, read_plan
from shoal.lab.chaos.schedule import Facts, Fault, Over, Schedule, timetable

CAST = Cast(workers=3, servers=2)


def plan(*events: dict[str, Any], seed: int = 0) -> Any:
    return parse_plan({"seed": seed, "chaos": list(events)})


def begun(found: list[Any]) -> list[str]:
    return [str(f) for f in found if isinstance(f, Fault)]


# --- the file ---------------------------------------------------------------------------------------------------------


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('seed = 3\n[[chaos]]\nwhat = "kill"\nwho = "worker 1"\nat_s = 12\n')
    data = {"seed": 3, "chaos": [{"what": "kill", "who": "worker 1", "at_s": 12}]}
    (tmp_path / "b.json").write_text(json.dumps(data))
    a, b = read_plan(tmp_path / "a.toml"), read_plan(tmp_path / "b.json")
    assert (a.events, a.seed) == (b.events, b.seed) and str(a.events[0]) == "kill: worker 1, at 12 s"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"what": "kil", "who": "worker 1", "at_s": 1}, "event 1: unknown kind 'kil'; did you mean 'kill'?"),
        ({"what": "kill", "who": "wroker 1", "at_s": 1}, "did you mean 'worker'?"),
        ({"what": "kill", "who": "worker", "at_s": 1}, "which worker is 'worker'? Expected a rank"),
        ({"what": "kill", "who": "worker 1"}, "when? 'kill' needs one of at_s, every_s, at_step, at_clock"),
        ({"what": "kill", "who": "worker 1", "at_s": 1, "for_s": 2}, "'kill' does not last"),
        ({"what": "stop", "who": "worker 1", "at_s": 1}, "for how long? 'stop' needs for_s"),
        ({"what": "kill", "who": "worker 1", "at_s": 1, "at_step": 2}, "at_s and at_step exclude each other"),
        ({"what": "kill", "who": "worker 1", "at_sec": 1}, "unknown key 'at_sec'; did you mean 'at_s'?"),
        ({"what": "drop", "who": "worker 1"}, "how much? 'drop' needs percent"),
        ({"what": "drop", "who": "worker 1", "percent": 101}, "percent is more than 0 and at most 100, got 101"),
        ({"what": "slow", "who": "worker 1", "factor": 1}, "more than 1, got 1"),
        ({"what": "slow", "who": "worker 1", "percent": 3}, "percent means nothing to 'slow'"),
        ({"what": "kill", "who": "worker 0 -> server 1", "at_s": 1}, "happens to processes, not to links"),
        ({"what": "kill", "who": "worker 1", "at_s": "soon"}, "at_s must be a number of 0 or more, got 'soon'"),
        ({"what": "kill", "who": "worker 1", "at_step": 1.5}, "at_step must be a whole number, at least 1"),
        ({"what": "kill", "who": "worker 1", "at_s": True}, "at_s must be a number"),
        ({"what": "clock-jump", "who": "server 0", "at_s": 1, "by_s": -3}, "only forward"),
        ({"what": "kill", "who": "worker 1", "at_s": 1, "jitter_s": 1}, "jitter_s goes with every_s only"),
        ({"what": "kill", "who": "worker 1", "every_s": 1, "jitter_s": 2}, "jitter_s is at most every_s"),
        ({"what": [], "who": "worker 1"}, "'what' must be a text or a list of texts"),
        ({"what": "kill", "at_s": 1}, "'who' must be a text or a list of texts, got None"),
        ("kill", "expected a table"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_was_expected(event: Any, said: str) -> None:
    with pytest.raises(ConfigError) as e:
        plan(event)
    assert said in str(e.value)


@pytest.mark.parametrize("data", [[], {}, {"chaos": []}, {"chaos": {}}, {"caos": []}])
def test_a_file_without_events_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected \[\[chaos\]\] tables"):
        parse_plan(data)


def test_a_file_that_is_not_there_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_plan(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = \n")
    with pytest.raises(ConfigError, match="is not toml"):
        read_plan(tmp_path / "bad.toml")


@pytest.mark.parametrize("who", ["worker 3", "replica 0", "random replica", "worker 0 -> server 2"])
def test_who_is_not_in_the_run_is_refused_before_it(who: str) -> None:
    what = {"what": "drop", "percent": 5.0, "who": who}
    with pytest.raises(ConfigError, match=r"event 1: there is no .* in this run, which has scheduler, worker 0"):
        Schedule(plan(what), CAST)


# --- the schedule -----------------------------------------------------------------------------------------------------


def test_an_event_happens_once_at_its_time() -> None:
    made = Schedule(plan({"what": "kill", "who": "worker 1", "at_s": 12}), CAST)
    assert made.due(Facts(11.9)) == [] and made.next_s() == 12
    assert begun(made.due(Facts(12.1))) == ["kill worker 1 (at 12.0 s)"]
    assert made.due(Facts(99)) == []


def test_what_lasts_is_over_after_its_time() -> None:
    made = Schedule(plan({"what": "stop", "who": "server *", "at_s": 1, "for_s": 2}), CAST)
    (fault,) = made.due(Facts(1.0))
    assert isinstance(fault, Fault) and fault.victims == ("server 0", "server 1") and made.next_s() == 3
    assert made.due(Facts(2.9)) == [] and made.due(Facts(3.0)) == [Over(fault)]


def test_a_repeated_event_comes_at_every_beat_and_a_little_later() -> None:
    event = {"what": "kill", "who": "random", "every_s": 5, "jitter_s": 2, "until_s": 21}
    times = [f.at_s for f in timetable(plan(event), CAST, 60)]
    assert len(times) in (3, 4) and all(5 * k <= t <= 5 * k + 2 for k, t in enumerate(times, 1))
    assert len({t % 5 for t in times}) == len(times)


def test_a_late_look_gives_everything_that_was_due_in_order() -> None:
    made = Schedule(plan({"what": "stop", "who": "worker 0", "every_s": 2, "for_s": 1}), CAST)
    found = made.due(Facts(5.5))
    assert [type(f) for f in found] == [Fault, Over, Fault, Over]


def test_steps_and_clocks_of_the_victim_or_else_of_the_fastest_worker_decide() -> None:
    events = [
        {"what": "kill", "who": "worker 1", "at_step": 10},
        {"what": "kill", "who": "server 0", "at_clock": 10},
    ]
    made = Schedule(plan(*events), CAST)
    assert made.due(Facts(1.0, {"worker 0": 10, "worker 1": 9}, {"worker 0": 9})) == []
    assert begun(made.due(Facts(2.0, {"worker 1": 11}))) == ["kill worker 1 (at step 10)"]
    assert begun(made.due(Facts(3.0, {}, {"worker 2": 12}))) == ["kill server 0 (at clock 10)"]
    assert made.due(Facts(4.0, {"worker 1": 99}, {"worker 2": 99})) == []


def test_the_same_seed_gives_the_same_faults_and_another_one_others() -> None:
    event = {"what": ["kill", "stop", "partition"], "who": "random", "every_s": 1, "jitter_s": 1, "for_s": 1}

    def shown(seed: int) -> list[str]:
        return list(map(str, timetable(plan(event, seed=seed), CAST, 40)))

    assert shown(1) == shown(1) and shown(1) != shown(2)
    assert {s.split()[0] for s in shown(1)} == {"kill", "stop", "partition"}
    assert {n for n in CAST.names if any(n in s for s in shown(1))} == set(CAST.names)


def test_an_event_draws_the_same_whatever_other_events_there_are_behind_it() -> None:
    event = {"what": "kill", "who": "random worker", "every_s": 1}
    alone, beside = plan(event), plan(event, {"what": "kill", "who": "random", "every_s": 0.7})
    faults = [f.named for f in timetable(beside, CAST, 20) if f.event == beside.events[0]]
    assert faults == [f.named for f in timetable(alone, CAST, 20)]


@pytest.mark.parametrize(
    ("who", "links"),
    [
        ("worker 0 -> server 1", {("worker 0", "server 1")}),
        ("worker 0 <-> server 1", {("worker 0", "server 1"), ("server 1", "worker 0")}),
        ("worker * -> scheduler", {("worker 0", "scheduler"), ("worker 1", "scheduler"), ("worker 2", "scheduler")}),
    ],
)
def test_links_are_those_between_their_ends(who: str, links: set[tuple[str, str]]) -> None:
    (fault,) = timetable(plan({"what": "partition", "who": who, "at_s": 0, "for_s": 1}), CAST, 1)
    assert set(fault.links) == links and fault.victims == () and fault.named == who


def test_a_process_that_is_cut_off_loses_all_its_links_both_ways() -> None:
    (fault,) = timetable(plan({"what": "partition", "who": "random server", "at_s": 0, "for_s": 1}), CAST, 1)
    ends = [set(pair) for pair in fault.links]
    assert len(ends) == 10 and all(fault.named in pair for pair in ends)


def test_conditions_without_a_time_hold_for_the_whole_run() -> None:
    (fault,) = timetable(plan({"what": "drop", "who": "*", "percent": 5}), CAST, 1)
    assert fault.at_s == 0 and fault.until_s == float("inf") and str(fault) == "drop * 5 % (at 0.0 s)"
