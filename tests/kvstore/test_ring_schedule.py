"""The programs of collectives, carried out without a network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.kvstore.ring import schedule
from shoal.kvstore.ring.schedule import Block, Do, broadcast, reduction

WAYS = ["ring", "halving", "doubling", "auto"]


def carry_out(programs: list[list[Block]], parts: list[np.ndarray]) -> list[np.ndarray]:
    """Every worker's program, each step as soon as its message is there."""
    arrays = [p.copy() for p in parts]
    post: dict[tuple[int, int, int, int], np.ndarray] = {}
    todo = [(r, b, list(steps)) for r, blocks in enumerate(programs) for b, steps in enumerate(blocks)]
    while any(steps for _, _, steps in todo):
        before = sum(len(steps) for _, _, steps in todo)
        for r, b, steps in todo:
            while steps:
                s = steps[0]
                if s.do is Do.SEND:
                    post[r, s.peer, b, s.tag] = arrays[r][s.start : s.stop].copy()
                elif s.do is not Do.FINISH:
                    if (s.peer, r, b, s.tag) not in post:
                        break
                    value = post.pop((s.peer, r, b, s.tag))
                    part = arrays[r][s.start : s.stop]
                    part[:] = part + value if s.do is Do.ADD else value
                steps.pop(0)
        assert sum(len(steps) for _, _, steps in todo) < before, "nobody can go on"
    assert not post, "a message that nobody waited for"
    return arrays


def ways(workers: int) -> list[str]:
    return WAYS if workers & (workers - 1) == 0 else ["ring", "auto"]


@settings(max_examples=80)
@given(st.integers(1, 9), st.integers(0, 70), st.integers(0, 10), st.data())
def test_every_worker_ends_with_the_sum_of_all(workers: int, size: int, turn: int, data: st.DataObject) -> None:
    way = data.draw(st.sampled_from(ways(workers)))
    parts = [np.arange(size, dtype=np.int64) * (r + 1) + r for r in range(workers)]
    programs = [reduction(size, 8, workers, r, turn, way) for r in range(workers)]
    for result in carry_out(programs, parts):
        np.testing.assert_array_equal(result, sum(parts))


@pytest.mark.parametrize("way", ["ring", "halving", "doubling"])
def test_all_workers_end_with_the_same_bits(way: str) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(1000).astype(np.float32) * 10.0**r for r in range(4)]
    results = carry_out([reduction(1000, 4, 4, r, 0, way) for r in range(4)], parts)
    assert len({r.tobytes() for r in results}) == 1
    np.testing.assert_allclose(results[0], sum(p.astype(np.float64) for p in parts), rtol=1e-3)


@settings(max_examples=40)
@given(st.integers(1, 7), st.integers(0, 50))
def test_a_broadcast_gives_everybody_worker_0s_array(workers: int, size: int) -> None:
    parts = [np.full(size, r) for r in range(workers)]
    for result in carry_out([broadcast(size, 8, workers, r) for r in range(workers)], parts):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("way", ["ring", "halving"])
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_a_worker_sends_no_more_than_a_ring_must(way: str, workers: int) -> None:
    size = 8 * (1 << 18)  # 8 MB of float32
    for rank in range(workers):
        blocks = reduction(size, 4, workers, rank, 0, way)
        sent = sum(s.stop - s.start for b in blocks for s in b if s.do is Do.SEND)
        assert sent == 2 * (workers - 1) * size // workers
        assert max(s.stop - s.start for b in blocks for s in b) * 4 <= schedule.CHUNK_BYTES


def test_a_large_array_is_summed_in_equal_shares() -> None:
    for workers in (2, 3, 5):
        shares = [0] * workers
        for rank in range(workers):
            for block in reduction(25_000_000, 4, workers, rank):
                shares[rank] += sum(s.stop - s.start for s in block if s.do is Do.FINISH)
        assert max(shares) - min(shares) <= max(shares) // 20
        assert sum(shares) == 25_000_000


def test_small_arrays_are_summed_in_turn() -> None:
    who = [[r for r in range(3) if any(s.do is Do.FINISH for s in reduction(5, 4, 3, r, t)[0])] for t in range(3)]
    assert who == [[0], [1], [2]]


def test_few_messages_follow_each_other_for_a_small_array() -> None:
    assert len([s for s in reduction(10, 4, 8, 0)[0] if s.do is Do.SEND]) == 3


@pytest.mark.parametrize("way", ["halving", "doubling"])
def test_what_needs_a_power_of_two_says_so(way: str) -> None:
    with pytest.raises(ConfigError, match=r"2, 4, 8, ... workers, not 3"):
        reduction(10, 4, 3, 0, 0, way)


def test_an_unknown_algorithm_is_named_with_the_known() -> None:
    with pytest.raises(ConfigError, match="'tree'; known: auto, ring, halving, doubling"):
        reduction(10, 4, 2, 0, 0, "tree")
