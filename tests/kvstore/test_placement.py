"""Who owns which slice."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.kvstore.placement import Placement, cut, drained, plan, rebalanced
from shoal.kvstore.wire.messages import KeySpec, Shift
from shoal.kvstore.wire.schema import ITEM_BYTES

specs = st.lists(
    st.builds(
        KeySpec,
        key=st.text(min_size=1, max_size=6),
        dtype=st.sampled_from(["<f2", "<f4", "<f8"]),
        shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
    ),
    max_size=12,
    unique_by=lambda s: s.key,
)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4, 8]), st.sampled_from([16, 64, 1024]))
def test_a_cut_covers_everything_once_in_near_equal_parts(size: int, item: int, limit: int) -> None:
    parts = cut(size, item, limit)
    assert [a for a, _ in parts] == [0, *(b for _, b in parts[:-1])]
    assert parts[-1][1] == size
    sizes = [b - a for a, b in parts]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) * item <= limit


@given(specs, st.integers(1, 5))
def test_no_server_carries_more_than_the_average_and_one_slice(keys: list[KeySpec], servers: int) -> None:
    p = Placement(servers, slice_bytes=256)
    p.add(keys)
    total = sum(prod(s.shape) * ITEM_BYTES[s.dtype] for s in keys)
    assert sum(p.load_bytes) == total
    assert max(p.load_bytes) <= total / servers + 4 * 256


@pytest.mark.parametrize(
    ("nbytes", "largest"),
    [(1 << 20, 1 << 20), (2 << 20, 2 << 20), ((16 << 20) - 4, 2 << 20), (16 << 20, 4 << 20), (10**8, 4 << 20)],
)
def test_large_keys_are_cut_into_larger_slices(nbytes: int, largest: int) -> None:
    (layout,) = Placement(1).add([KeySpec(key="a", dtype="<f4", shape=(nbytes // 4,))])
    sizes = [4 * (s.stop - s.start) for s in layout.slices]
    assert 0.9 * largest <= max(sizes) <= largest


def test_keys_are_cut_as_what_is_declared_with_them_allows() -> None:
    key = KeySpec(key="a", dtype="<f4", shape=(1 << 20,))  # 4 MB
    large = KeySpec(key="b", dtype="<f4", shape=(3 << 20,))
    assert len(Placement(1).add([key])[0].slices) == 2
    assert len(Placement(1).add([key, large])[0].slices) == 1


def test_fused_keys_of_a_large_model_share_larger_slices() -> None:
    def buckets(n: int) -> int:
        return len(plan([KeySpec(key=f"k{i}", dtype="<f4", shape=(8 << 10,), cut="fuse") for i in range(n)]))

    assert (buckets(64), buckets(512)) == (4, 8)  # of 512 KB, and of 2 MB


@pytest.mark.parametrize(("cut", "fused"), [("fuse", True), ("fuse-small", False), ("fuse-whole", False), ("", False)])
def test_keys_of_100_kb_of_a_large_model_are_fused_unless_they_are_encoded_or_need_norms(cut: str, fused: bool) -> None:
    keys = [KeySpec(key=k, dtype="<f4", shape=(25_000,), cut=cut) for k in "ab"]
    large = KeySpec(key="large", dtype="<f4", shape=(8 << 20,), cut=cut)
    assert len(plan(keys)) == 2
    assert sum(p.parts[0][0] < 2 for p in plan([*keys, large])) == (1 if fused else 2)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "|u1"])
def test_slices_begin_at_pages(dtype: str) -> None:
    (layout,) = Placement(1).add([KeySpec(key="a", dtype=dtype, shape=(3_000_001,))])
    assert len(layout.slices) > 1
    assert all(s.start * ITEM_BYTES[dtype] % 4096 == 0 for s in layout.slices)


@given(specs, st.integers(1, 5))
def test_the_number_of_servers_does_not_change_the_cut(keys: list[KeySpec], servers: int) -> None:
    def ranges(n: int) -> list[list[tuple[int, int]]]:
        return [[(s.start, s.stop) for s in layout.slices] for layout in Placement(n, 256).add(keys)]

    assert ranges(servers) == ranges(1)


@given(specs, st.integers(1, 4))
def test_placement_is_a_function_of_what_was_declared(keys: list[KeySpec], servers: int) -> None:
    assert Placement(servers).add(keys) == Placement(servers).add(keys)


@given(specs)
def test_slice_ids_are_unique_over_several_calls(keys: list[KeySpec]) -> None:
    p = Placement(2, 256)
    ids = [s.id for spec in keys for layout in p.add([spec]) for s in layout.slices]
    assert ids == list(range(len(ids)))


def test_a_large_key_is_spread_over_all_servers() -> None:
    (layout,) = Placement(4).add([KeySpec(key="w", dtype="<f4", shape=(8, 1 << 18))])
    assert sorted(s.server for s in layout.slices) == [0, 1, 2, 3]


def test_a_store_needs_a_server() -> None:
    with pytest.raises(ConfigError, match="at least 1 server"):
        Placement(0)


def test_the_largest_slices_are_placed_first() -> None:
    """In the order given, the large one would come on top of small ones: 30 against 10."""
    placement = Placement(2)
    sizes = {"a": 5, "b": 5, "c": 20, "d": 10}
    placement.add([KeySpec(key=k, dtype="|u1", shape=(n,)) for k, n in sizes.items()])
    assert placement.load_bytes == [20, 20]


@given(st.integers(0, 200), st.lists(st.integers(1, 5), max_size=2), st.integers(1, 3))
def test_a_key_that_is_kept_by_rows_is_cut_between_them(rows: int, rest: list[int], servers: int) -> None:
    width = prod(rest)
    [layout] = Placement(servers, slice_bytes=8).add([KeySpec(key="e", dtype="<f4", shape=(rows, *rest), cut="rows")])
    assert all(s.start % width == 0 and s.stop % width == 0 for s in layout.slices)
    assert [s.start for s in layout.slices[1:]] == [s.stop for s in layout.slices[:-1]]
    assert layout.slices[-1].stop == rows * width
    assert all((s.stop - s.start) * 4 <= max(64, width * 4) for s in layout.slices)


def _loads(p: Placement) -> list[int]:
    loads = [0] * len(p.load_bytes)
    for home in p.homes.values():
        loads[home.server] += home.nbytes
    return loads


def _carry_out(p: Placement, moves: list[Shift]) -> None:
    for m in moves:
        assert p.homes[m.slice].server == m.source != m.target
        p.move(m.slice, m.target)


@given(specs, st.integers(1, 4), st.integers(1, 2))
def test_after_rebalancing_the_fullest_server_exceeds_the_emptiest_by_a_slice_at_most(
    keys: list[KeySpec], servers: int, more: int
) -> None:
    p = Placement(servers, 256)
    p.add(keys)
    before = list(p.load_bytes)
    for _ in range(more):
        p.grow()
    moves = rebalanced(p)
    assert len({m.slice for m in moves}) == len(moves)
    _carry_out(p, moves)
    largest = max((h.nbytes for h in p.homes.values()), default=0)
    assert max(p.load_bytes) - min(p.load_bytes) <= largest
    moved = sum(p.homes[m.slice].nbytes for m in moves)
    gained = sum(max(0, a - b) for a, b in zip(p.load_bytes, [*before, *[0] * more], strict=True))
    bound = gained + largest * (servers + more)
    assert gained <= moved <= bound, "what comes to a server stays there, but for a slice a server"
    assert _loads(p) == p.load_bytes


@given(specs, st.integers(2, 5), st.data())
def test_a_drained_server_has_nothing_and_nothing_else_has_moved(
    keys: list[KeySpec], servers: int, data: st.DataObject
) -> None:
    p = Placement(servers, 256)
    p.add(keys)
    rank = data.draw(st.integers(0, servers - 1))
    mine = {i for i, h in p.homes.items() if h.server == rank}
    moves = drained(p, rank)
    assert {m.slice for m in moves} == mine
    _carry_out(p, moves)
    assert all(h.server != rank for h in p.homes.values())
    others = [n for s, n in enumerate(p.load_bytes) if s != rank]
    largest = max((h.nbytes for h in p.homes.values()), default=0)
    assert max(others) - min(others) <= largest
    assert [s.server for k in p.layouts.values() for s in k.slices] == [
        p.homes[s.id].server for k in p.layouts.values() for s in k.slices
    ]


def test_pinned_slices_stay() -> None:
    p = Placement(1)
    p.add([KeySpec(key=k, dtype="|u1", shape=(10,)) for k in "abcd"])
    p.grow()
    assert {m.slice for m in rebalanced(p, pinned={0, 1})} == {2, 3}


def test_a_closed_server_is_given_nothing() -> None:
    p = Placement(2)
    p.closed.add(0)
    assert {s.server for k in p.add([KeySpec(key="w", dtype="<f4", shape=(1 << 20,))]) for s in k.slices} == {1}
    with pytest.raises(ConfigError, match="server 1 is the only one left"):
        drained(p, 1)


def test_a_new_server_gets_its_share_and_no_more() -> None:
    p = Placement(2)
    p.add([KeySpec(key=str(i), dtype="|u1", shape=(10,)) for i in range(6)])
    p.grow()
    moves = rebalanced(p)
    assert [m.target for m in moves] == [2, 2]
    assert {m.source for m in moves} == {0, 1}
