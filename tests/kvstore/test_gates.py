"""Who may proceed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.kvstore.gates import Progress, canonical_mode, parse_gate


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
        ("asp:5", "asp takes no number, and may have max=T"),
    ],
)
def test_a_gate_that_is_known_says_what_is_wrong_with_its_number(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_gate(name)
