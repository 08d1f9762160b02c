"""Compressed pushes from the worker's call to the server's table."""

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError, RemoteProtocolError, StoreError
from shoal.kvstore import codecs
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import as_payload
from shoal.kvstore.codecs import Compressor, whole_rows
from shoal.kvstore.wire.messages import Push
from shoal.ops import optim, random
from shoal.ops.nn.parameter import Parameter
from tests.kvstore.threads import thread_cluster

net = pytest.mark.net
SPECS = ["fp16", "bf16", "int8", "qsgd", "2bit:threshold=0.5", "1bit", "onebit", "topk:ratio=0.25", "randomk:ratio=0.5"]
SHAPE = (40, 30)


def gradients(worker: int) -> np.ndarray:
    return np.random.default_rng(worker).standard_normal((6, *SHAPE)).astype(np.float32)


def summed(kv: KVStore, spec: str | None) -> np.ndarray:
    """The sum of what the store received of all workers' gradients."""
    kv.init("w", np.zeros(SHAPE, np.float32))
    kv.set_optimizer(optim.create("test", rescale_grad=1.0))
    before = random.address().seed
    random.set_address(seed=7)
    kv.set_gradient_compression(spec)
    random.set_address(seed=before)
    for g in gradients(kv.rank):
        kv.pushpull("w", g.copy())
    kv.barrier()
    return np.asarray(kv.pull("w"))


@net
@pytest.mark.parametrize("spec", [*SPECS, "powersgd:rank=2"])
def test_one_worker_in_a_cluster_and_a_local_store_receive_the_same_bits(spec: str) -> None:
    with thread_cluster(1, 2) as cluster:
        (far,) = cluster.each(lambda kv: summed(kv, spec), reduce="sum")
    np.testing.assert_array_equal(far, summed(shoal.kv.create("local", reduce="sum"), spec))


@net
@pytest.mark.parametrize("spec", ["2bit:threshold=0.5", "topk:ratio=0.1", "onebit"])
def test_what_was_received_and_what_is_held_back_add_up_to_the_gradients(spec: str) -> None:
    with thread_cluster(2, 2) as cluster:
        received, _ = cluster.each(lambda kv: summed(kv, spec), reduce="sum")
    held = np.zeros(SHAPE, np.float32)
    for worker in range(2):
        compressor = Compressor(codecs.Plan.of(spec), worker)
        for g in gradients(worker):
            compressor.encode(0, g.reshape(-1))
        held += compressor._states[0].arrays["residual"].reshape(SHAPE)
    np.testing.assert_allclose(received + held, gradients(0).sum(0) + gradients(1).sum(0), atol=1e-4)


@net
@pytest.mark.parametrize("mode", ["bsp", "asp"])
def test_fewer_bytes_travel_and_the_ledger_balances(mode: str) -> None:
    with thread_cluster(2, 2, mode, slice_bytes=1024) as cluster:
        cluster.each(lambda kv: summed(kv, "2bit:threshold=0.5"), reduce="sum")
        counts = [c.core.counters for c in cluster._clients]
        applied = sum(b.applied for s in cluster.shells if s.core for b in s.core.ledgers.values())
    assert sum(c.sent for c in counts) == sum(c.acknowledged for c in counts) == applied
    assert all(10 * c.bytes_pushed < c.bytes_dense == 6 * 1200 * 4 for c in counts)


@net
def test_synchronous_compressed_training_is_bit_identical_over_servers() -> None:
    found = []
    for servers in (1, 2, 3):
        with thread_cluster(3, servers, slice_bytes=1024) as cluster:
            found += cluster.each(lambda kv: summed(kv, "int8"), reduce="sum")
    assert all((f == found[0]).all() for f in found)


def test_integers_are_pushed_as_they_are() -> None:
    kv = shoal.kv.create("local", reduce="sum")
    kv.init("n", np.zeros(3, np.int64))
    kv.set_gradient_compression("2bit")
    kv.push("n", np.array([1, 2, 3]))
    np.testing.assert_array_equal(kv.pull("n"), [1, 2, 3])


@pytest.mark.parametrize("off", [None, "none"])
def test_compression_can_be_switched_off(off: str | None) -> None:
    kv = shoal.kv.create("local", reduce="sum")
    kv.init("w", np.zeros(3, np.float32))
    kv.set_gradient_compression("1bit")
    kv.set_gradient_compression(off)
    kv.push("w", np.array([0.1, 0.2, 0.3], np.float32))
    np.testing.assert_array_equal(kv.pull("w"), np.float32([0.1, 0.2, 0.3]))


def test_an_unknown_codec_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"known: .*2bit"):
        shoal.kv.create("local").set_gradient_compression("3bit")


@net
def test_parts_that_do_not_fit_are_refused_counted_and_given_back() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0, reduce="sum")
        kv.init("w", np.zeros(64, np.float32))
        kv.set_gradient_compression("topk:ratio=0.1")
        assert kv._compressor is not None
        kv._compressor.spec = "2bit:threshold=0.5"  # the server will decode with the wrong codec
        with pytest.raises(RemoteProtocolError, match="2bit"):
            kv.push("w", np.ones(64, np.float32)).result()
        (state,) = kv._compressor._states.values()
        np.testing.assert_allclose(state.arrays["residual"].reshape(-1), np.ones(64))
        kv._compressor.spec = kv._compressor.codec.spec()
        kv.push("w", np.zeros(64, np.float32)).result()
        (stats,) = kv.server_stats()
        assert stats["ledger"]["0"] == {"applied": 1, "rejected": 1, "dropped": 0, "duplicate": 0, "lost": 0}
        assert kv.ledger()["sent"] == kv.ledger()["acknowledged"] == 2


@net
@pytest.mark.parametrize(("codec", "says"), [("nonsense", "no codec is called"), ("2bit", "2bit")])
def test_a_compressed_push_that_cannot_be_decoded_changes_nothing(codec: str, says: str) -> None:
    with thread_cluster(1, 1) as cluster:
        cluster.store(0).init("w", np.zeros(4, np.float32))
        shell = cluster.shells[0]
        assert shell.core is not None
        (at,) = shell.core.entries
        value = as_payload(np.zeros(3, np.uint8))
        bad = Push(worker=0, incarnation=1, seq=9, slice=at, clock=0, pulled=0, want=False, codec=codec, value=value)
        (refusal,) = shell._handle(shell.core, "w0", bad, 0.0)
        assert says in str(refusal)
        assert shell._handle(shell.core, "w0", bad, 0.0) == [refusal]
        assert shell.core.entries[at].progress.clocks == {0: 0}
        assert (shell.core.ledgers[0].rejected, shell.core.ledgers[0].duplicate) == (1, 1)


def test_a_gradient_that_is_not_finite_is_refused_before_it_is_sent() -> None:
    kv = shoal.kv.create("local", reduce="sum")
    kv.init("w", np.zeros(3, np.float32))
    kv.set_gradient_compression("2bit")
    with pytest.raises(StoreError, match=r"nan|finite"):
        kv.push("w", np.array([0.0, np.nan, 0.0], np.float32))


@pytest.mark.parametrize(
    ("shape", "at", "columns"),
    [((4, 3), (0, 6), 3), ((4, 3), (1, 6), 0), ((12,), (0, 6), 0), ((2, 2, 3), (0, 6), 6), ((0, 3), (0, 0), 0)],
)
def test_slices_of_whole_rows_are_known(shape: tuple[int, ...], at: tuple[int, int], columns: int) -> None:
    assert whole_rows(shape, *at) == columns


def parameter() -> Parameter:
    p = Parameter("w", shape=(3,))
    p.initialize(shoal.init.Zero())
    return p


def test_a_trainer_compresses() -> None:
    p = parameter()
    trainer = shoal.Trainer([p], "sgd", {"learning_rate": 1.0}, compression_params={"type": "2bit", "threshold": 0.5})
    p.grad().data[:] = [1.0, 0.1, -1.0]
    trainer.step(1)
    np.testing.assert_array_equal(p.data().asnumpy(), [-0.5, 0.0, 0.5])


def test_a_trainer_refuses_compression_that_would_be_wrong() -> None:
    with pytest.raises(ConfigError, match="momentum of its own"):
        shoal.Trainer([parameter()], "sgd", {"momentum": 0.9}, compression_params="dgc")
    with pytest.raises(ConfigError, match="needs a kvstore"):
        shoal.Trainer([parameter()], "sgd", kvstore=None, compression_params="fp16")


def test_a_store_says_what_its_compression_has_cost() -> None:
    kv = shoal.kv.create("local", reduce="sum")
    kv.init("w", np.zeros(1000, np.float32))
    assert (kv.compression, kv.compression_report()) == ("", None)
    kv.set_gradient_compression("fp16")
    kv.push("w", np.ones(1000, np.float32))
    report = kv.compression_report()
    assert kv.compression == "fp16" and report is not None
    assert report["bytes_saved"] == 2000 and report["encode_s"] > 0 and report["pays"] is None
