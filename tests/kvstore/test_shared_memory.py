"""Regions and the arena: what is sealed, what is refused, what comes back."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.kvstore.wire import arena as arena_module
from shoal.kvstore.wire import shm
from shoal.kvstore.wire.arena import ALIGN_BYTES, Arena, Space
from shoal.kvstore.wire.shm import HEADER_BYTES, Mapped, Region, address_of, available_bytes

pytestmark = pytest.mark.skipif(bool(shm.supported()), reason=shm.supported() or "it is")

MB = 1 << 20


def mapped(region: Region) -> Mapped:
    return Mapped(os.dup(region.fd), region.size, region.nonce)


def test_a_peer_sees_what_is_written_and_cannot_write_itself() -> None:
    region = Region(0, 4096)
    peer = mapped(region)
    region._map[100:103] = b"abc"
    assert bytes(peer.view[100:103]) == b"abc" and peer.view.readonly
    with pytest.raises(TypeError):
        peer.view[100] = 1


def test_nobody_can_shrink_or_grow_a_region_or_map_it_for_writing() -> None:
    import mmap

    region = Region(0, 8192)
    for size in (4096, 16384):
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, size)
    with pytest.raises(PermissionError):
        mmap.mmap(region.fd, 8192, mmap.MAP_SHARED, mmap.PROT_WRITE | mmap.PROT_READ)


def test_a_region_of_another_size_is_refused() -> None:
    region = Region(0, 4096)
    with pytest.raises(OSError, match="announced with 8192 bytes has 4096"):
        Mapped(os.dup(region.fd), 8192, region.nonce)


def test_a_region_with_another_nonce_is_refused() -> None:
    region = Region(0, 4096)
    with pytest.raises(OSError, match="nonce"):
        Mapped(os.dup(region.fd), 4096, bytes(16))


def test_memory_that_could_be_shrunk_is_refused() -> None:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    with pytest.raises(OSError, match="not sealed"):
        Mapped(fd, 4096, bytes(16))


def test_an_ordinary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4096))
    with pytest.raises(OSError):
        Mapped(os.open(tmp_path / "file", os.O_RDWR), 4096, bytes(16))


def test_files_are_closed_with_the_last_user() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    region = Region(0, 4096)
    peer = mapped(region)
    view = peer.view[64:128]
    del region, peer
    gc.collect()
    assert bytes(view) == bytes(64)  # the view keeps the mapping
    del view
    gc.collect()
    assert count() <= before  # less, if ZeroMQ has closed sockets of other tests meanwhile


def test_nothing_is_left_after_a_kill() -> None:
    code = (
        "from shoal.kvstore.wire.shm import Region; import os, signal\n"
        "r = Region(0, 1 << 20); print(os.readlink(f'/proc/self/fd/{r.fd}'), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -9
    assert done.stdout.startswith("/memfd:") and "(deleted)" in done.stdout  # it has no name that could stay


def test_what_is_available_is_a_number_of_bytes() -> None:
    assert 0 < available_bytes() < 1 << 62


@pytest.mark.parametrize("version", [0, 1])
def test_files_that_a_container_has_read_do_not_count_as_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    _, most, used, droppable = shm._CGROUPS[version]
    for name, text in ((most, "1000000"), (used, "900000"), ("memory.stat", f"anon 5\n{droppable} 600000\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(shm, "_CGROUPS", ((tmp_path, most, used, droppable),))
    assert available_bytes() == 700_000


def test_a_container_without_a_limit_has_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("max")
    monkeypatch.setattr(shm, "_CGROUPS", ((tmp_path, "memory.max", "memory.current", "inactive_file"),))
    assert available_bytes() > 1_000_000


# --- space ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5000), st.sampled_from([64, 4096])), max_size=60))
def test_blocks_never_overlap_and_what_is_given_back_is_whole_again(steps: list[tuple[bool, int, int]]) -> None:
    space, taken = Space(64, 1 << 16), []
    for take, size, align in steps:
        if take:
            begin = space.take(size, align)
            if begin is not None:
                assert begin % align == 0 and begin >= 64 and begin + size <= 1 << 16
                assert all(begin + size <= a or a + n <= begin for a, n in taken)
                taken.append((begin, size))
        elif taken:
            space.give(*taken.pop(size % len(taken)))
    for block in taken:
        space.give(*block)
    assert space.free_bytes() == (1 << 16) - 64
    assert space.take((1 << 16) - 64, 64) == 64


def test_a_space_that_is_full_says_so() -> None:
    space = Space(0, 4096)
    assert space.take(4096, 64) == 0 and space.take(1, 64) is None


# --- arena ------------------------------------------------------------------------------------------------------------


def test_an_array_lies_in_a_region_and_begins_at_a_page() -> None:
    arena = Arena(64 * MB)
    a = arena.array((3, 1000), np.float32)
    assert a is not None and a.shape == (3, 1000) and a.dtype == np.float32 and a.flags.writeable
    assert address_of(a) % 4096 == 0
    found = arena.find(address_of(a), a.nbytes)
    assert found is not None and found[0].address + found[1] == address_of(a)


def test_small_arrays_begin_at_a_cache_line() -> None:
    arena = Arena(64 * MB)
    small = [arena.array((n,), np.uint8) for n in (1, 3, 100)]
    assert all(a is not None and address_of(a) % ALIGN_BYTES == 0 for a in small)


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    arena = Arena(64 * MB)
    a = arena.array((MB,), np.uint8)
    assert a is not None
    whole = arena.free_bytes() + MB
    view = a[5:10].reshape(1, 5)
    del a
    assert arena.free_bytes() == whole - MB
    del view
    assert arena.free_bytes() == whole == arena.size_bytes - HEADER_BYTES


def test_an_arena_grows_by_larger_and_larger_regions() -> None:
    arena = Arena(200 * MB)
    kept = [arena.array((10 * MB,), np.uint8) for _ in range(4)]
    assert all(a is not None for a in kept)
    assert [r.size for r in arena.regions] == [16 * MB, 32 * MB]
    assert [r.number for r in arena.regions] == [0, 1]


def test_what_an_arena_takes_and_nobody_uses_is_a_region_of_64_mb_or_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    region = lambda number, size: SimpleNamespace(number=number, size=size, address=0)  # noqa: E731
    monkeypatch.setattr(arena_module, "Region", region)
    monkeypatch.setattr(arena_module, "available_bytes", lambda: 1 << 40)
    arena = Arena(64 << 30)
    used, kept = 0, []
    while used < 10 << 30:
        kept.append(arena.allocate(4 * MB))
        used += 4 * MB
        assert arena.size_bytes <= 64 * MB + used * 4 / 3
    assert [r.size // MB for r in arena.regions[:7]] == [16, 32, 64, 64, 64, 64, 76]
    assert len(arena.regions) < 60 and arena.regions[-1].size == 256 * MB


def test_an_array_larger_than_the_usual_region_gets_one_of_its_own() -> None:
    arena = Arena(64 * MB)
    assert arena.array((40 * MB,), np.uint8) is not None
    assert 40 * MB < arena.regions[0].size < 41 * MB


def test_beyond_its_limit_an_arena_says_no() -> None:
    arena = Arena(20 * MB)
    assert arena.array((30 * MB,), np.uint8) is None
    assert arena.array((10 * MB,), np.uint8) is not None
    assert arena.size_bytes <= 20 * MB


def test_an_arena_does_not_take_more_than_half_of_the_memory_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "available_bytes", lambda: 20 * MB)
    arena = Arena(1 << 40)
    assert arena.array((MB,), np.uint8) is None
    assert arena.regions == []


def test_a_system_without_room_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_room(fd: int, start: int, size: int) -> None:
        asked.append(size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    arena = Arena(1 << 40)
    assert arena.array((MB,), np.uint8) is None and arena.array((MB,), np.uint8) is None
    assert len(asked) == 1


def test_a_system_without_memfd_has_no_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    arena = Arena(1 << 40)
    assert "memfd_create" in arena.refusal and arena.array((MB,), np.uint8) is None


def test_an_array_elsewhere_is_not_found() -> None:
    arena = Arena(64 * MB)
    arena.array((10,), np.uint8)
    other = np.zeros(10)
    assert arena.find(address_of(other), other.nbytes) is None


def test_an_array_outlives_a_closed_arena() -> None:
    arena = Arena(64 * MB)
    a = arena.array((10,), np.float32)
    assert a is not None
    arena.close()
    a[:] = 1
    assert arena.array((10,), np.float32) is None and arena.free_bytes() == 0 and a.sum() == 10


def test_an_array_of_nothing_needs_no_region() -> None:
    assert Arena(64 * MB).array((0, 3), np.float32) is None
