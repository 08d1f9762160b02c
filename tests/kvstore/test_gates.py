"""Who may proceed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.kvstore.gates import Progress, canonical_mode, check_workers, parse_gate


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("sync", "bsp"), ("bsp", "bsp"), ("async", "asp"), ("asp", "asp"), (" SSP:3 ", "ssp:3"), ("ssp:0", "bsp")],
)
def test_every_spelling_has_one_canonical_name(name: str, canonical: str) -> None:
    assert canonical_mode(name) == canonical


@pytest.mark.parametrize("name", ["", "fast", "ss:3"])
def test_an_unknown_mode_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="known: sync"):
        canonical_mode(name)


def test_bulk_synchronous_never_lets_anybody_ahead() -> None:
    gate = parse_gate("sync")
    assert gate.ready(3, 3) and not gate.ready(4, 3)


def test_bounded_staleness_is_bounded() -> None:
    gate = parse_gate("ssp:2")
    assert gate.ready(5, 3) and not gate.ready(6, 3)


def test_asynchronous_is_always_ready() -> None:
    assert parse_gate("async").ready(10**9, 0)


def test_the_floor_is_the_slowest_workers_clock() -> None:
    p = Progress((0, 1, 2))
    for rank in (0, 0, 1):
        p.advance(rank)
    assert p.floor == 0 and p.behind(1) == (2,)
    p.advance(2)
    assert p.floor == 1


def test_the_floor_rises_when_the_slowest_leaves() -> None:
    p = Progress((0, 1))
    p.advance(0)
    p.drop(1)
    assert p.floor == 1


def test_the_floor_stays_when_everybody_has_left() -> None:
    p = Progress((0,))
    p.advance(0)
    p.drop(0)
    assert p.floor == 1 and p.behind(5) == ()


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=40))
def test_the_floor_never_falls(steps: list[tuple[int, bool]]) -> None:
    p = Progress((0, 1, 2, 3))
    before = 0
    for rank, leave in steps:
        if leave:
            p.drop(rank)
        elif rank in p.clocks:
            p.advance(rank)
        assert p.floor >= before
        before = p.floor


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *[(t, "ssp takes a whole number from 0, such as ssp:2") for t in ("ssp", "ssp:", "ssp:-1", "ssp:x")],
        ("ssp:9999999999", "ssp takes a whole number from 0"),
        ("fedbuff:k=0", "from 1, such as fedbuff:3"),
        ("ssp:s=3,t=4", "and may have max=T"),
        ("bsp:3", "bsp takes no number"),
        ("ssp:k=3", "ssp takes a whole number from 0, such as ssp:2"),
        ("ksync:b=2", "ksync takes a whole number from 1"),
        ("asp:5", "asp takes no number, and may have max=T"),
    ],
)
def test_a_gate_that_is_known_says_what_is_wrong_with_its_number(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_gate(name)


@pytest.mark.parametrize(
    ("gate", "workers", "says"),
    [
        ("backup:b=2", 2, r"mode 'backup:2' .*without the slowest 2, .* has 2 workers. .* 3 workers .* use backup:1"),
        ("backup:5", 1, r"the run has 1 worker. .* \(-n 6\), or use sync"),
        ("ksync:k=5", 3, r"'ksync:5' .* of 5 workers, but the run has 3 workers. .* \(-n 5\), or use ksync:3"),
        ("kasync:4,max=3", 3, r"'kasync:4,max=3' .* of 4 workers"),
    ],
)
def test_a_run_that_is_too_small_for_its_gate_says_what_would_fit(gate: str, workers: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_workers(gate, workers)


@pytest.mark.parametrize("gate", ["backup:2", "ksync:3", "kasync:3"])
def test_a_gate_needs_no_more_workers_than_make_a_round(gate: str) -> None:
    check_workers(gate, 3)


@pytest.mark.parametrize("gate", ["", "sync", "allreduce", "asp", "ssp:9", "essp:9", "kbatch:9", "fedbuff:9"])
def test_a_gate_that_no_number_of_workers_contradicts_takes_one(gate: str) -> None:
    check_workers(gate, 1)
