"""How many workers an elastic run wants, policy by policy."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.scheduler.ray.policy import SETTLE_S, Seen, parse_policy


def test_as_many_as_there_is_room_for_between_the_least_and_the_most() -> None:
    fit = parse_policy("fit", 2, 16)
    assert [fit.decide(Seen(0.0, 4, room)).workers for room in (0, 5, 40)] == [2, 5, 16]
    assert fit.decide(Seen(0.0, 4)).workers == 16


def test_a_decision_says_why() -> None:
    assert parse_policy("fit", 2, 16).decide(Seen(0.0, 4, 40)).why == "there is room for 40; the run has 2 to 16"


def settled(text: str, n: int, rate: float) -> int:
    policy = parse_policy(text, 1, 16)
    policy.decide(Seen(0.0, n, samples_per_s=rate))
    return policy.decide(Seen(SETTLE_S + 1, n, samples_per_s=rate)).workers


def test_as_few_as_reach_the_rate() -> None:
    text = "throughput:samples_per_s=1000"
    assert settled(text, 2, 400.0) == 5
    assert settled(text, 5, 1000.0) == 5
    assert settled(text, 5, 970.0) == 5
    assert settled(text, 10, 2000.0) == 6


def test_a_rate_is_believed_only_some_time_after_a_change() -> None:
    policy = parse_policy("throughput:samples_per_s=1000", 1, 16)
    assert policy.decide(Seen(0.0, 2, samples_per_s=100.0)).workers == 2
    assert policy.decide(Seen(SETTLE_S + 1, 2, samples_per_s=100.0)).workers == 16
    assert policy.decide(Seen(SETTLE_S + 2, 16, samples_per_s=100.0)).workers == 16
    assert policy.decide(Seen(SETTLE_S + 2, 16)).why == "the rate is not known yet"


def test_when_the_money_is_spent_the_least_number_stays() -> None:
    policy = parse_policy("budget:usd=2,price=0.5", 1, 8)
    assert policy.decide(Seen(0.0, 1, 6)).workers == 6
    assert policy.decide(Seen(0.0, 6, 6, worker_s=4 * 3600.0)).workers == 1


def test_money_for_some_hours_is_spread_over_them() -> None:
    policy = parse_policy("budget:usd=4,price=0.5,hours=2", 1, 16)
    assert policy.decide(Seen(0.0, 1)).workers == 4
    assert policy.decide(Seen(3600.0, 4, worker_s=2 * 3600.0)).workers == 6
    assert policy.decide(Seen(7300.0, 4, 9, worker_s=2 * 3600.0)).workers == 9


def test_one_worker_for_so_much_of_what_waits() -> None:
    policy = parse_policy("queue:metric=backlog,each=100", 1, 8)
    decided = [policy.decide(Seen(0.0, 3, metrics={"backlog": n})).workers for n in (0.0, 250.0, 5000.0)]
    assert decided == [1, 3, 8]
    assert policy.decide(Seen(0.0, 3)).workers == 3
    assert policy.decide(Seen(0.0, 3, metrics={"backlog": math.nan})).workers == 3


@pytest.mark.parametrize(
    "text", ["best", "throughput", "fit:a=1", "budget:usd=1", "queue:metric=a,each=0", "budget:usd=x,price=1"]
)
def test_a_policy_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="policy"):
        parse_policy(text, 1, 2)


@settings(max_examples=60)
@given(
    st.sampled_from(["fit", "throughput:samples_per_s=50", "budget:usd=3,price=0.2,hours=1", "queue:metric=q,each=7"]),
    st.integers(1, 5),
    st.integers(0, 9),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 30), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=9),
)
def test_the_run_never_has_fewer_than_the_least_or_more_than_the_most(
    text: str, least: int, more: int, looks: list[tuple[int, int, float, float]]
) -> None:
    policy = parse_policy(text, least, least + more)
    for i, (n, room, rate, seconds) in enumerate(looks):
        seen = Seen(30.0 * i, n, room, rate, seconds, {"q": rate})
        assert least <= policy.decide(seen).workers <= least + more
