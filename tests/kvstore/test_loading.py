"""Compressed pushes leave piece by piece, and are refused as a whole."""

from typing import Any

import numpy as np
import pytest

from shoal.errors import StoreError
from shoal.kvstore import codecs
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.loading import load, pieces
from shoal.kvstore.codecs import Compressor, Plan
from tests.kvstore.codec_cases import normal
from tests.kvstore.threads import thread_cluster

SLICE = 1 << 18  # a megabyte


def loaded(compressor: Compressor | None, gradient: Any, size: int = SLICE) -> list[Job]:
    jobs = [Job(server=0, slice=i) for i in range(-(-gradient.size // size))]
    for i, job in enumerate(jobs):
        load(job, gradient[i * size : (i + 1) * size], 0, compressor)
    return jobs


def test_a_piece_is_ready_before_the_next_is_encoded() -> None:
    compressor = Compressor(Plan.of("2bit"), 0)
    made = pieces(loaded(compressor, normal(4 * SLICE)))
    for i in range(4):
        (job,) = next(made)
        assert (job.slice, compressor.cost.encoded, job.load) == (i, i + 1, None)
        assert job.payload is not None and job.payload_bytes * 16 == job.dense_bytes == SLICE * 4
    assert next(made, None) is None


def test_small_slices_leave_together() -> None:
    made = [len(p) for p in pieces(loaded(Compressor(Plan.of("2bit"), 0), normal(SLICE * 5 // 2), SLICE // 8))]
    assert made == [8, 8, 4]


def test_what_is_not_compressed_leaves_in_one_piece() -> None:
    jobs = loaded(None, normal(4 * SLICE))
    assert list(pieces(jobs)) == [jobs] and list(pieces([])) == []
    assert jobs[0].payload_bytes == SLICE * 4 and jobs[0].codec == ""


@pytest.mark.parametrize(("spec", "bad"), [("topk:ratio=0.1", np.nan), ("2bit", np.inf), ("fp16", 1e5)])
def test_a_gradient_that_is_refused_is_refused_as_a_whole(spec: str, bad: float) -> None:
    compressor, gradient = Compressor(Plan.of(spec), 0), normal(3 * SLICE)
    gradient[2 * SLICE + 7] = bad
    with pytest.raises(StoreError):
        list(pieces(loaded(compressor, gradient)))
    for i in (0, 1):
        state = compressor._states[i]
        assert state.counters == {"encoded": 1, "returned": 1}
        if "residual" in state.arrays:
            np.testing.assert_allclose(state.arrays["residual"], gradient[i * SLICE : (i + 1) * SLICE], atol=1e-6)


@pytest.mark.net
def test_nothing_of_a_refused_gradient_is_sent() -> None:
    gradient = normal(3000)
    gradient[2999] = np.nan
    with thread_cluster(1, 2, slice_bytes=4096) as cluster:
        kv = cluster.store(0, reduce="sum")
        kv.init("w", np.zeros(3000, np.float32))
        kv.set_gradient_compression("topk:ratio=0.1")
        with pytest.raises(StoreError, match="nan at position 1499"):
            kv.push("w", gradient)
        kv.flush()
        assert kv.ledger()["sent"] == 0
        gradient[2999] = 0
        kv.push("w", np.zeros(3000, np.float32)).result()
        sent = kv.pull("w")
        held = np.concatenate([s.arrays["residual"] for _, s in sorted(kv._compressor._states.items())])
        np.testing.assert_allclose(sent[:1500] + held[:1500], gradient[:1500], atol=1e-6)


@pytest.mark.parametrize("spec", ["none", "bf16", "fp16", "2bit"])
def test_parts_share_no_memory_with_the_gradient(spec: str) -> None:
    gradient = normal(100)
    for part in Compressor(Plan.of(spec), 0).encode(0, gradient):
        assert not np.may_share_memory(part, gradient)


@pytest.mark.parametrize("name", codecs.names())
def test_what_a_codec_surely_takes_it_takes(name: str) -> None:
    codec, gradient = codecs.parse(name), normal(4096)
    assert codec.takes(gradient)
    gradient[5] = np.nan
    assert codec.takes(gradient) == (name in ("none", "bf16"))
