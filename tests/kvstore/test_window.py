"""Several slices as one array: what is mapped, what cannot be, and that nothing leaks."""

import gc
import os

import numpy as np
import pytest

from shoal.kvstore.wire import shm
from shoal.kvstore.wire.shm import Mapped, Region
from shoal.kvstore.wire.window import Window, fits

pytestmark = pytest.mark.skipif(bool(shm.supported()), reason="Linux only")

PAGE = 4096


def region_of(pages: int, first: int) -> tuple[Region, Mapped]:
    """A region whose page i is full of ``first + i``."""
    region = Region(0, pages * PAGE)
    content = np.frombuffer(region._map, np.uint8).reshape(pages, PAGE)
    content[1:] = np.arange(first + 1, first + pages, dtype=np.uint8)[:, None]
    return region, Mapped(os.dup(region.fd), region.size, region.nonce)


def test_pieces_of_two_regions_lie_side_by_side_in_one_read_only_array() -> None:
    (_a, one), (_b, two) = region_of(8, 10), region_of(8, 50)
    pieces = [(two, 3 * PAGE, 2 * PAGE), (one, 5 * PAGE, PAGE), (two, PAGE, 100)]
    assert fits(pieces)
    array = np.asarray(Window(pieces))
    assert not array.flags.writeable and array.nbytes == 3 * PAGE + 100
    assert [array[0], array[PAGE], array[2 * PAGE], array[3 * PAGE], array[-1]] == [53, 54, 15, 51, 51]


def test_what_the_owner_writes_is_seen_at_once() -> None:
    region, mapped = region_of(8, 0)
    array = np.asarray(Window([(mapped, 2 * PAGE, PAGE), (mapped, PAGE, PAGE)]))
    region._map[2 * PAGE] = 200
    assert array[0] == 200


def test_neighbours_are_one_mapping() -> None:
    def lines() -> int:
        with open("/proc/self/maps") as f:
            return sum("shoal-0" in line for line in f)

    _region, mapped = region_of(64, 0)
    gc.collect()  # what other tests mapped
    before = lines()
    window = Window([(mapped, i * PAGE, PAGE) for i in range(1, 60)])
    assert lines() == before + 1 and window.nbytes == 59 * PAGE


def test_a_window_is_closed_with_its_last_view() -> None:
    def mapped_kb() -> int:
        with open("/proc/self/maps") as f:
            return sum("shoal-0" in line for line in f)

    _region, mapped = region_of(64, 0)
    gc.collect()  # what other tests mapped
    before = mapped_kb()
    view = np.asarray(Window([(mapped, PAGE, PAGE), (mapped, 5 * PAGE, PAGE)]))[5:9].view(np.uint32)
    gc.collect()
    assert mapped_kb() == before + 2 and view[0] == 0x01010101
    del view
    gc.collect()
    assert mapped_kb() == before


def test_a_window_outlives_the_objects_it_was_made_of() -> None:
    region, mapped = region_of(4, 7)
    array = np.asarray(Window([(mapped, PAGE, PAGE)]))
    del region, mapped
    gc.collect()
    assert (array == 8).all()


@pytest.mark.parametrize("pieces", [[(64, PAGE)], [(PAGE, 100), (2 * PAGE, PAGE)], [(PAGE, PAGE), (2 * PAGE + 64, 1)]])
def test_pieces_that_do_not_end_at_pages_cannot_lie_side_by_side(pieces: list[tuple[int, int]]) -> None:
    _region, mapped = region_of(4, 0)
    assert not fits([(mapped, offset, length) for offset, length in pieces])


def test_what_cannot_be_mapped_is_an_error() -> None:
    _region, mapped = region_of(4, 0)
    with pytest.raises(OSError):
        Window([(mapped, PAGE + 1, PAGE)])
