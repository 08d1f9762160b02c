"""A fused slice whose keys' arrays are the same ones again and again."""

import numpy as np
import pytest

from shoal.kvstore import bundle as bundles
from shoal.kvstore.bundle import MANY, Bundle, Gather, Scatter
from shoal.kvstore.client.reading import InPlace
from shoal.kvstore.wire.sharing import Sharing
from shoal.ops.native import compiler

SINGLE = np.dtype(np.float32)


def gather_of(sizes: list[int]) -> tuple[list[np.ndarray], Gather]:
    parts = [np.full(n, i, np.float32) for i, n in enumerate(sizes)]
    return parts, Gather(parts, sum(sizes), SINGLE)


@pytest.mark.parametrize("native", [True, False])
def test_every_gathering_is_of_what_the_arrays_hold_then(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(bundles, "gatherer", lambda parts: None)
    parts, gather = gather_of([1, 0, 5] * MANY)
    for turn in range(5):
        for p in parts:
            p += turn
        assert (gather.read() == np.concatenate(parts)).all()


@pytest.mark.skipif(bool(compiler.why_not()), reason="nothing can be compiled here")
def test_a_list_of_addresses_is_made_when_the_same_arrays_come_again() -> None:
    _, gather = gather_of([2] * MANY)
    gather.read()
    assert gather._compiled is None
    gather.read()
    assert gather._compiled is not None


def test_few_arrays_are_not_worth_a_list_of_addresses() -> None:
    _, gather = gather_of([2] * (MANY - 1))
    for _ in range(3):
        gather.read()
    assert gather._compiled is None


@pytest.mark.parametrize("native", [True, False])
def test_every_scattering_writes_all_targets(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(bundles, "scatterer", lambda parts, starts: None)
    sizes = [3, 1, 8] * MANY
    starts = np.cumsum([0, *sizes])
    parts = [np.zeros(n, np.float32) for n in sizes]
    scatter = Scatter([(p, int(a), int(b)) for p, a, b in zip(parts, starts, starts[1:], strict=False)][::-1])
    for turn in range(4):
        flat = np.arange(sum(sizes), dtype=np.float32) + turn
        scatter.write(flat)
        assert (np.concatenate(parts) == flat).all()


def test_a_value_that_is_too_short_is_an_error_also_with_addresses() -> None:
    parts = [np.zeros(2, np.float32) for _ in range(MANY)]
    scatter = Scatter([(p, 2 * i, 2 * i + 2) for i, p in enumerate(parts)])
    for _ in range(3):
        scatter.write(np.ones(2 * MANY, np.float32))
    with pytest.raises(ValueError):
        scatter.write(np.ones(2 * MANY - 1, np.float32))


def test_keys_that_are_read_in_place_are_the_same_arrays_at_every_read() -> None:
    sharing = Sharing(lambda fd: None, lambda fd: None)
    how = InPlace(sharing)
    bundle = Bundle(3, 0, "a and 1 more", SINGLE, 5, ("a", "b"), (2, 5))
    first = how.parts(bundle, np.arange(5, dtype=np.float32))
    assert first[:2] == [None, None] and first[-1].tolist() == [0, 1, 2, 3, 4]
    first[0] = first[-1][:2]
    again = how.parts(bundle, np.arange(5, 10, dtype=np.float32))
    assert again is first and again[0].tolist() == [5, 6]
    assert not again[-1].flags.writeable
    sharing.close()
