"""What the processes of one host do together: sums in rank order, parts, stores with owners; threads and processes."""

import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from shoal import optim
from shoal.errors import ConfigError, DTypeError, KeyNotInitializedError, NodeLostError, ShapeError, StoreTimeoutError
from shoal.kvstore.group.base import owners
from shoal.kvstore.group.communicator import Alone, Communicator
from shoal.kvstore.group.device import DeviceKVStore
from shoal.kvstore.group.meeting import Hosts, this_host
from shoal.kvstore.group.shared import SharedCommunicator
from shoal.kvstore.local import LocalKVStore
from shoal.ops.precision import BFLOAT16
from tests.crew import each
from tests.patience import PATIENCE_S, RUN_S

rng = np.random.default_rng(4)


def together(size: int, work: Callable[[Communicator], Any], slot_bytes: int = 256) -> list[Any]:
    """What ``work`` gives on each member of a group of threads."""
    name = secrets.token_hex(8)

    def member(rank: int) -> Any:
        group = SharedCommunicator(name, rank, size, slot_bytes=slot_bytes, timeout_s=PATIENCE_S)
        found = work(group)
        group.barrier()
        group.close()
        return found

    return each(size, member)


def in_order(arrays: list[Any]) -> Any:
    """The sum as servers take it: in rank order, halves in float32."""
    wide = np.float32 if arrays[0].dtype.itemsize == 2 else arrays[0].dtype
    total = arrays[0].astype(wide)
    for a in arrays[1:]:
        total = total + a.astype(wide)
    return total.astype(arrays[0].dtype)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(0, 200), st.sampled_from(["float32", "float64", "float16", "bfloat16", "int64"]))
def test_every_operation_gives_the_sum_in_rank_order(size: int, n: int, name: str) -> None:
    dtype: Any = BFLOAT16 if name == "bfloat16" else np.dtype(name)
    given_ = [(rng.standard_normal(n * size) * 9).astype(dtype) for _ in range(size)]
    total = in_order(given_)

    def work(group: Communicator) -> Any:
        own = given_[group.rank]
        everywhere, rooted, told = own.copy(), own.copy(), own.copy()
        group.all_reduce(everywhere)
        group.reduce(rooted, size - 1)
        group.broadcast(told, size - 1)
        part, whole = np.empty(n, dtype), np.empty(n * size, dtype)
        group.reduce_scatter(own, part)
        group.all_gather(part, whole)
        return everywhere, rooted, told, part, whole

    for rank, (everywhere, rooted, told, part, whole) in enumerate(together(size, work)):
        assert np.array_equal(everywhere, total) and np.array_equal(whole, total)
        assert np.array_equal(told, given_[size - 1])
        assert np.array_equal(part, total[rank * n : (rank + 1) * n])
        assert rank != size - 1 or np.array_equal(rooted, total)


def test_a_group_of_one_changes_nothing() -> None:
    group, a = Alone(), np.arange(3.0)
    out = np.empty(3)
    for call in (group.reduce, group.all_reduce, group.broadcast):
        call(a)
    group.reduce_scatter(a, out)
    group.all_gather(a, out)
    group.barrier()
    group.close()
    assert np.array_equal(a, [0, 1, 2]) and np.array_equal(out, a)
    with pytest.raises(ShapeError, match="expected 2 elements"):
        group.all_gather(np.empty(2), out)


def test_arrays_that_do_not_fit_are_refused() -> None:
    def work(group: Communicator) -> Any:
        with pytest.raises(ShapeError, match="in a group of 2"):
            group.reduce_scatter(np.empty(3), np.empty(2))
        with pytest.raises(DTypeError, match="C-contiguous"):
            group.all_reduce(np.empty((3, 4)).T)

    together(2, work)


def test_a_member_that_does_not_come_is_named() -> None:
    name = secrets.token_hex(8)
    with pytest.raises(StoreTimeoutError, match="for member 1"):
        SharedCommunicator(name, 0, 2, timeout_s=0.3)
    assert not Path(f"/dev/shm/shoal-group-{name}").exists()


PROCESS = """
import sys
import numpy as np
from shoal.kvstore.group.shared import SharedCommunicator

name, rank, size, dies = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "dies"
group = SharedCommunicator(name, rank, size, slot_bytes=4096, timeout_s=60.0)
a = np.arange(5000, dtype=np.float32) * (rank + 1)
group.all_reduce(a)
assert np.array_equal(a, np.arange(5000, dtype=np.float32) * sum(range(1, size + 1)))
if dies and rank == 1:
    sys.exit(3)
part, whole = np.empty(2500, np.float32), np.empty(2500 * size, np.float32)
try:
    group.reduce_scatter(np.tile(a[:2500], size), part)
    group.all_gather(part, whole)
    assert np.array_equal(whole, np.tile(a[:2500], size) * size)
except Exception as error:
    print(type(error).__name__, error)
    sys.exit(4)
group.barrier()
group.close()
"""


@pytest.mark.net
@pytest.mark.parametrize("dies", ["", "dies"])
def test_processes_reduce_and_notice_who_has_died(dies: str, tmp_path: Path) -> None:
    name, script = secrets.token_hex(8), tmp_path / "member.py"
    script.write_text(PROCESS)
    command = [sys.executable, str(script), name]
    started = [
        subprocess.Popen([*command, str(r), "3", dies or "-"], stdout=subprocess.PIPE, text=True) for r in range(3)
    ]
    said = [p.communicate(timeout=RUN_S)[0] for p in started]
    if dies:
        assert [p.returncode for p in started] == [4, 3, 4]
        assert NodeLostError.__name__ in said[0] and "waits for member 1, whose process" in said[0]
    else:
        assert [p.returncode for p in started] == [0, 0, 0], said
    assert not Path(f"/dev/shm/shoal-group-{name}").exists()


def test_a_group_that_does_not_come_together_leaves_no_file() -> None:
    name = secrets.token_hex(8)
    with pytest.raises(StoreTimeoutError, match="for member 1"):
        SharedCommunicator(name, 0, 2, timeout_s=0.01)
    assert not Path(f"/dev/shm/shoal-group-{name}").exists()


def test_hosts_are_numbered_by_their_smallest_ranks() -> None:
    hosts = Hosts.found([b"b", b"a", b"b", b"c", b"a"], rank=4)
    assert hosts.of == (0, 1, 0, 2, 1) and hosts.count == 3
    assert hosts.members == (1, 4) and hosts.local == 1 and not hosts.even
    assert Hosts.found([b"x", b"y", b"x", b"y"], 0).even


def test_a_host_can_be_named_to_try_several_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_host()
    assert here == this_host() and len(here) == 16
    monkeypatch.setenv("SHOAL_HOST", "another")
    assert this_host() != here


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 5))
def test_owners_carry_nearly_equal_bytes(sizes: list[int], members: int) -> None:
    loads = [0] * members
    found = owners(sizes, loads)
    assert sum(loads) == sum(sizes) and all(0 <= o < members for o in found)
    assert max(loads) - min(loads) <= max(sizes, default=0)


# --- the store --------------------------------------------------------------------------------------------------------


KEYS = {"w": (3, 4), "b": (4,), "v": (7,), "s": ()}
FIRST = {k: rng.standard_normal(s).astype(np.float32) for k, s in KEYS.items()}
GRADS = [[{k: rng.standard_normal(s).astype(np.float32) for k, s in KEYS.items()} for _ in range(3)] for _ in range(4)]


def trained(store: Any, rank: int, grads: Any = GRADS) -> dict[str, Any]:
    names = list(KEYS)
    store.init(names, [FIRST[k] * (1.0 if rank == 0 else 7.0) for k in names])
    store.set_optimizer(optim.create("sgd", learning_rate=0.1, momentum=0.9), lr_mult={"b": 2.0})
    into = [np.empty(KEYS[k], np.float32) for k in names]
    for step in grads:
        store.pushpull(names, [step[rank][k] for k in names], into)
    store.barrier()
    return dict(zip(names, into, strict=True))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_device_store_has_the_bits_of_a_store_with_servers(size: int, reduce: str) -> None:
    def work(group: Communicator) -> Any:
        store = DeviceKVStore(Hosts((0,) * size, group.rank), group, reduce)
        found = trained(store, group.rank)
        assert store.rank == group.rank and store.num_workers == size and store.is_capable("optimizer")
        assert store.keys() == sorted(KEYS) and store.ledger()["sent"] == 4 * len(KEYS)
        store._thread.shutdown()
        return found

    def summed(step: Any) -> Any:
        total = {k: in_order([step[r][k] for r in range(size)]) for k in KEYS}
        return [{k: np.divide(v, size) if reduce == "mean" else v for k, v in total.items()}]

    expected = trained(LocalKVStore(), 0, [summed(step) for step in GRADS])
    for found in together(size, work, slot_bytes=1 << 12):
        for key in KEYS:
            assert np.array_equal(found[key], expected[key]), key


@pytest.fixture
def store() -> Iterator[Any]:
    made = shoal.kv.create("device")
    yield made
    made.close()


def test_members_agree_on_a_flag() -> None:
    def work(group: Communicator) -> Any:
        store = DeviceKVStore(Hosts((0, 0), group.rank), group)
        found = [store.agree(group.rank == 1), store.agree(False)]
        store._thread.shutdown()
        return found

    assert together(2, work) == [[True, False]] * 2


def test_in_a_process_by_itself_it_is_a_local_store(store: Any) -> None:
    store.init("w", np.ones(3, np.float32))
    store.push("w", [np.full(3, 2.0, np.float32), np.full(3, 4.0, np.float32)])  # of two devices
    assert np.array_equal(store.pull("w"), [6, 6, 6])
    assert store.type == "device" and type(shoal.kv.create("nccl", reduce="sum")) is type(store)


def test_what_it_cannot_do_is_refused_with_the_reason(store: Any) -> None:
    with pytest.raises(ConfigError, match="nothing of a store of type 'device'"):
        store.set_gradient_compression("2bit")
    store.set_gradient_compression(None)
    with pytest.raises(ConfigError, match="rows need 'local'"):
        store.init("w", np.ones((2, 2)), rows=True)
    with pytest.raises(ConfigError, match="one optimizer for all keys"):
        store.set_optimizer(optim.create("sgd"), keys=["w"])
    with pytest.raises(KeyNotInitializedError, match="'w' is not initialised"):
        store.push("w", np.ones(1))
    with pytest.raises(ConfigError, match="for the processes of one host; these 2 workers are on 2"):
        DeviceKVStore(Hosts((0, 1), 0), Alone())


def test_dist_device_sync_outside_of_a_cluster_says_how_to_start() -> None:
    with pytest.raises(ConfigError, match="needs a cluster"):
        shoal.kv.create("dist_device_sync")


def test_a_trainer_on_a_device_store_is_one_on_a_local_store() -> None:
    from shoal import autograd, nn

    def weights(kvstore: str, **options: Any) -> Any:
        net = nn.Dense(2, in_units=3, weight_initializer="ones")
        net.initialize()
        trainer = shoal.Trainer(net.collect_params(), "adam", {"learning_rate": 0.1}, kvstore=kvstore, **options)
        x = shoal.np.array(np.arange(6, dtype=np.float32).reshape(2, 3))
        for _ in range(3):
            with autograd.record():
                loss = (net(x) ** 2).sum()
            with trainer.overlap(2):
                loss.backward()
            trainer.step(2)
        trainer.finish()
        if trainer.kvstore is not None:
            trainer.kvstore.close()
        return net.weight.data().asnumpy()

    assert np.array_equal(weights("device"), weights("local"))
    assert np.array_equal(weights("device", update_on_kvstore=False), weights("local", update_on_kvstore=False))
